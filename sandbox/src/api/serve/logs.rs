//! A container's log, from its file.
//!
//! In: a path. Out: the last lines, and with `follow` what is written from then on. Never: more than one block in
//! memory.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;
/// How often a followed file is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads a log: all of it or its last `tail` lines; with `follow` until the receiver is dropped.
#[must_use]
pub fn follow(path: PathBuf, tail: Option<usize>, follow: bool) -> mpsc::Receiver<Bytes> {
    let (pieces, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        if let Err(e) = pump(path, tail, follow, &pieces).await {
            tracing::debug!("a log cannot be read: {e}");
        }
    });
    receiver
}

async fn pump(
    path: PathBuf,
    tail: Option<usize>,
    follow: bool,
    pieces: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = loop {
        match tokio::fs::File::open(&path).await {
            Ok(file) => break file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && follow && !pieces.is_closed() => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        }
    };
    let mut at = match tail {
        Some(lines) => start_of_last(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(at)).await?;
    loop {
        let mut block = vec![0; BLOCK];
        let read = file.read(&mut block).await?;
        if read > 0 {
            at += read as u64;
            block.truncate(read);
            if pieces.send(block.into()).await.is_err() {
                return Ok(());
            }
            continue;
        }
        if !follow || pieces.is_closed() {
            return Ok(());
        }
        // A log that was cut or replaced starts over.
        match tokio::fs::metadata(&path).await {
            Ok(now) if now.len() < at => {
                file = tokio::fs::File::open(&path).await?;
                at = 0;
            }
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Where the last `lines` lines of a file begin.
async fn start_of_last(file: &mut tokio::fs::File, lines: usize) -> std::io::Result<u64> {
    let mut end = file.metadata().await?.len();
    let mut found = 0;
    let mut last = true;
    while end > 0 {
        let from = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; usize::try_from(end - from).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(from)).await?;
        file.read_exact(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The newline that ends the file ends no further line.
            if *byte == b'\n' && !std::mem::take(&mut last) {
                found += 1;
                if found == lines {
                    return Ok(from + index as u64 + 1);
                }
            }
            last = false;
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tails_and_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let mut whole = follow(path.clone(), None, false);
        assert_eq!(whole.recv().await.unwrap(), "one\ntwo\nthree\n");
        assert!(whole.recv().await.is_none());
        assert_eq!(
            follow(path.clone(), Some(2), false).recv().await.unwrap(),
            "two\nthree\n"
        );
        assert!(
            follow(path.clone(), Some(0), false)
                .recv()
                .await
                .is_none_or(|b| b == "one\ntwo\nthree\n")
        );
        let mut live = follow(path.clone(), Some(1), true);
        assert_eq!(live.recv().await.unwrap(), "three\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"four\n").unwrap();
        assert_eq!(live.recv().await.unwrap(), "four\n");
        assert!(
            follow(dir.path().join("none"), None, false)
                .recv()
                .await
                .is_none()
        );
    }
}
