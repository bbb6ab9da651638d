//! The TCP side of the echo.

use super::Me;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest line, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// Sends each line back behind this pod's name and zone, until the client ends its side.
pub(super) async fn lines(stream: TcpStream, me: Arc<Me>, greet: bool) {
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let name = format!("{} {} {} ", me.pod, me.region, me.zone);
    if greet && write.write_all(format!("hello from {name}\n").as_bytes()).await.is_err() {
        return;
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut read).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let mut reply = name.clone().into_bytes();
        reply.extend_from_slice(&line);
        if write.write_all(&reply).await.is_err() {
            break;
        }
    }
    let _ = write.shutdown().await;
}
