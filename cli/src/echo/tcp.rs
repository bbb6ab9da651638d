//! The TCP side of the echo.

use super::Me;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Longest line, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// Sends each line back behind this pod's name and zone, until the client ends its side or this pod is stopping.
pub(super) async fn lines(stream: TcpStream, me: Arc<Me>, greet: bool, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let name = format!("{} {} {} ", me.pod, me.region, me.zone);
    if greet
        && write
            .write_all(format!("hello from {name}\n").as_bytes())
            .await
            .is_err()
    {
        return;
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut read).take(LONGEST_LINE);
        let got = tokio::select! {
            biased;
            got = bounded.read_until(b'\n', &mut line) => got,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        if !matches!(got, Ok(1..)) {
            break;
        }
        let mut reply = name.clone().into_bytes();
        reply.extend_from_slice(&line);
        if write.write_all(&reply).await.is_err() {
            break;
        }
    }
    let _ = write.shutdown().await;
}
