//! Clients that are many, slow or broken, for use inside pods.
//!
//! Enters: an address and how many. Leaves: a word when they stand, a line when they are done. Never: a wait without end.

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long one broken client waits for the end of its connection.
const PATIENCE: Duration = Duration::from_secs(10);

fn address(host: &str, port: &str) -> std::io::Result<SocketAddr> {
    let port: u16 = port.parse().map_err(std::io::Error::other)?;
    let mut all = (host, port).to_socket_addrs()?;
    all.next().ok_or_else(|| std::io::Error::other("no address"))
}

/// So many clients that ask for a megabyte and read nothing of it, until standard input ends.
pub fn slow_readers(host: &str, port: &str, count: &str) -> std::io::Result<()> {
    let to = address(host, port)?;
    let mut held = Vec::new();
    for _ in 0..count.parse().map_err(std::io::Error::other)? {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_recv_buffer_size(4_096)?;
        socket.connect(&to.into())?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET /?size=1000000 HTTP/1.1\r\nhost: victim\r\n\r\n")?;
        held.push(stream);
    }
    println!("ready");
    drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    Ok(())
}

/// So many requests, each for another host and path, on a few connections; prints how many were answered.
pub fn names(host: &str, port: &str, count: &str) -> std::io::Result<()> {
    const TOGETHER: usize = 50;
    let to = address(host, port)?;
    let count: usize = count.parse().map_err(std::io::Error::other)?;
    let mut answered = 0;
    for start in (0..count).step_by(1_000) {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        for first in (start..(start + 1_000).min(count)).step_by(TOGETHER) {
            let requests: String = (first..first + TOGETHER)
                .map(|n| format!("HEAD /path-{n} HTTP/1.1\r\nhost: host-{n}.example\r\nx-{n}: {n}\r\n\r\n"))
                .collect();
            stream.write_all(requests.as_bytes())?;
            let mut seen: Vec<u8> = Vec::new();
            let mut buffer = [0; 16 * 1024];
            while seen.windows(4).filter(|four| four == b"\r\n\r\n").count() < TOGETHER {
                match stream.read(&mut buffer)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    length => seen.extend(&buffer[..length]),
                }
            }
            answered += TOGETHER;
        }
    }
    println!("{answered}");
    Ok(())
}

/// A small source of numbers that is the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap()
    }
}

/// What honest clients begin with.
fn samples() -> Vec<Vec<u8>> {
    let hello = {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"weft-h1".to_vec()];
        let mut connection =
            rustls::ClientConnection::new(config.into(), "victim".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    };
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    http2.extend(b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\x01\x06victim");
    http2.extend(b"\0\0\x08\x06\0\0\0\0\x0012345678\0\0\x04\x08\0\0\0\0\0\0\0\0\x01");
    vec![
        b"GET /a?b=c HTTP/1.1\r\nHost: victim\r\nConnection: keep-alive\r\nCookie: a=b\r\n\r\n".to_vec(),
        b"POST /echo HTTP/1.1\r\nHost: victim\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
            .to_vec(),
        b"PUT / HTTP/1.1\r\nHost: victim\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello".to_vec(),
        b"GET / HTTP/1.1\r\nHost: victim\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly".to_vec(),
        http2,
        hello,
    ]
}

fn mutate(numbers: &mut Numbers, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = samples[numbers.next() % samples.len()].clone();
    for _ in 0..=numbers.next() % 8 {
        if bytes.is_empty() {
            break;
        }
        let at = numbers.next() % bytes.len();
        match numbers.next() % 6 {
            0 => bytes[at] = u8::try_from(numbers.next() % 256).unwrap(),
            1 => bytes[at] ^= 1 << (numbers.next() % 8),
            2 => drop(bytes.drain(at..(at + numbers.next() % 20).min(bytes.len()))),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..(at + 40).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &samples[numbers.next() % samples.len()];
                let from = numbers.next() % other.len();
                bytes.splice(at..at, other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// So many broken clients, a few at a time; prints how many were left hanging.
pub fn broken(host: &str, port: &str, seed: &str, count: &str) -> std::io::Result<()> {
    const AT_ONCE: u64 = 4;
    let to = address(host, port)?;
    let seed: u64 = seed.parse().map_err(std::io::Error::other)?;
    let count: u64 = count.parse().map_err(std::io::Error::other)?;
    let (samples, hung) = (samples(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..AT_ONCE {
            let (samples, hung) = (&samples, &hung);
            scope.spawn(move || {
                let mut numbers = Numbers(seed * 31 + thread + 1);
                for _ in 0..count / AT_ONCE {
                    let bytes = mutate(&mut numbers, samples);
                    if one(to, &bytes).is_err() {
                        hung.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    println!("{}", hung.into_inner());
    Ok(())
}

/// Sends, ends its side, and waits for the other end's. An error: it never came.
fn one(to: SocketAddr, bytes: &[u8]) -> Result<(), ()> {
    let Ok(mut stream) = TcpStream::connect(to) else {
        return Err(());
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(drop)?;
    // Thousands of ends that wait would use up the ports.
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    // A connection that is reset meanwhile has ended.
    if stream.write_all(bytes).is_err() || stream.shutdown(Shutdown::Write).is_err() {
        return Ok(());
    }
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(());
            }
            Err(_) => return Ok(()),
        }
    }
}
