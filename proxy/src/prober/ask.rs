//! One question to an endpoint: a GET, over whatever its port speaks.
//!
//! Enters: a connection. Leaves: the status. Never: more of an answer than its head, a wait that the caller doesn't bound.

use std::io;

use bytes::Bytes;
use http::{Method, Request, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes of a head that are looked at.
const MOST: usize = 1024;
/// Who asks.
const AGENT: &str = "weft-health-check";

/// Asks over HTTP/1.1.
///
/// # Errors
/// The connection broke, or what came is no HTTP.
pub async fn http1<S>(stream: &mut S, host: &str, path: &str) -> io::Result<u16>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::with_capacity(256);
    loop {
        let mut piece = [0; 256];
        let count = stream.read(&mut piece).await?;
        head.extend_from_slice(&piece[..count]);
        if let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") {
            let status = status(&head[..end]).ok_or(io::ErrorKind::InvalidData)?;
            if status >= 200 {
                return Ok(status);
            }
            // An interim answer: the next head follows the empty line.
            match head.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => drop(head.drain(..end + 4)),
                None if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
            continue;
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.len() > MOST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The status of a status line (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?;
    let digits = rest.strip_prefix(b" ")?.get(..3)?;
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Asks over HTTP/2 with prior knowledge.
///
/// # Errors
/// The connection broke, or what came is no HTTP/2.
pub async fn http2<S>(stream: S, host: &str, path: &str) -> io::Result<u16>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (handle, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(MOST as u32 * 16)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    let request = Request::builder()
        .method(Method::GET)
        .version(Version::HTTP_2)
        .uri(format!("http://{host}{path}"))
        .header("user-agent", AGENT)
        .body(())
        .map_err(io::Error::other)?;
    let asking = async {
        let mut handle = handle.ready().await.map_err(io::Error::other)?;
        let (response, _) = handle.send_request(request, true).map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        Ok(response.status().as_u16())
    };
    tokio::select! {
        biased;
        answer = asking => answer,
        ended = connection => Err(ended.err().map_or(io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &[u8]) -> io::Result<u16> {
        let (mut here, mut there) = tokio::io::duplex(4096);
        let answer = answer.to_vec();
        let server = tokio::spawn(async move {
            let mut request = vec![0; 1024];
            let count = there.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            assert!(
                request.starts_with("GET /ok HTTP/1.1\r\nhost: cart\r\n"),
                "{request}"
            );
            // In pieces, as a network may.
            for piece in answer.chunks(7) {
                let _ = there.write_all(piece).await;
            }
        });
        let status = http1(&mut here, "cart", "/ok").await;
        server.await.unwrap();
        status
    }

    #[tokio::test]
    async fn statuses_are_read_and_nothing_else_is_one() {
        for (answer, wanted) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], Some(200)),
            (b"HTTP/1.0 503\r\n\r\n", Some(503)),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                Some(204),
            ),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Some(200)),
            (b"HTTP/2 200\r\n\r\n", None),
            (b"SSH-2.0-OpenSSH_9\r\n", None),
            (b"HTTP/1.1 20", None),
            (b"", None),
        ] {
            let text = String::from_utf8_lossy(answer).into_owned();
            assert_eq!(asked(answer).await.ok(), wanted, "{text}");
        }
        assert!(asked(&[b'x'; 4000]).await.is_err());
    }

    #[tokio::test]
    async fn http2_is_asked_too() {
        let (here, there) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(there).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/ok");
                let response = http::Response::builder().status(204).body(()).unwrap();
                respond.send_response(response, true).unwrap();
            }
        });
        assert_eq!(http2(here, "cart", "/ok").await.unwrap(), 204);
        server.await.unwrap();
    }
}
