use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::*;

type Io = BufReader<DuplexStream>;

/// Reads only as much as its far end allows, and in whatever pieces.
struct Choppy<'a>(&'a mut Io, usize);

impl AsyncRead for Choppy<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, space)
    }
}

impl AsyncBufRead for Choppy<'_> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let most = this.1;
        Pin::new(&mut *this.0)
            .poll_fill_buf(cx)
            .map_ok(|bytes| &bytes[..bytes.len().min(most)])
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut *self.get_mut().0).consume(count);
    }
}

impl AsyncWrite for Choppy<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = this.1.min(bytes.len());
        Pin::new(&mut *this.0).poll_write(cx, &bytes[..most])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}

#[test]
fn bytes_survive_any_pieces() {
    local(|| async {
        for most in [1, 3, 7, 100] {
            let (one, other) = duplex(50);
            let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
            let (opener, near) = client(Choppy(&mut one, most));
            let (mut arrivals, far) = server(Choppy(&mut other, 11));
            let sent: Vec<u8> = (0..3_000_u32).map(|at| (at % 253) as u8).collect();
            let there = async {
                let (mut from, mut to) = split(arrivals.next().await.unwrap().accept());
                copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let here = async {
                let (mut from, mut to) = split(opener.open().await.unwrap());
                let mut got = Vec::new();
                let send = async {
                    to.write_all(&sent).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                tokio::join!(send, async { from.read_to_end(&mut got).await.unwrap() });
                assert!(got == sent);
                drop((from, to));
                drop(opener);
            };
            let (near, far, ..) = tokio::join!(near, far, there, here);
            assert!(matches!((near, far), (Ended::Closed, Ended::Closed)));
        }
    });
}
