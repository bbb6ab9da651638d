//! What this binary does inside pods, so that tests need no other program there.
//!
//! Enters: a tool's name and its arguments. Leaves: bytes on standard output. Never: a run without end after its standard
//! input has ended.

use std::io::{Read as _, Write as _, copy, stdin, stdout};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

/// First word of the command line of a tool.
pub const WORD: &str = "__tool";
/// The tool that only succeeds.
pub const NOTHING: &str = "nothing";

/// This binary's path, the same in every pod.
pub fn own() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // Every pod has a /tmp of its own: who has the sources there has this binary somewhere else too, as long as it runs.
        let path = match own.starts_with("/tmp") {
            true => {
                std::fs::create_dir_all(elsewhere()).unwrap();
                let copy = elsewhere().join("mesh");
                std::fs::copy(&own, &copy).unwrap();
                copy
            }
            false => own,
        };
        path.to_str().unwrap().to_owned()
    })
}

fn elsewhere() -> PathBuf {
    Path::new("/var/tmp").join(format!("weft-mesh-{}", std::process::id()))
}

/// Takes away what [`own`] may have made.
pub fn clean() {
    if std::env::current_exe().is_ok_and(|own| own.starts_with("/tmp")) {
        drop(std::fs::remove_dir_all(elsewhere()));
    }
}

/// The command line of netcat: standard input goes out, what comes in goes to standard output, each side ends in its own time.
pub fn netcat<'a>(host: &'a str, port: &'a str) -> [&'a str; 5] {
    [own(), WORD, "netcat", host, port]
}

/// Runs a tool.
pub fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [NOTHING] => Ok(()),
        ["netcat", host, port] => run_netcat(host, port),
        ["first-byte", host, port, count] => first_byte(host, port, count.parse().unwrap()),
        ["resolve", host] => resolve(host),
        ["connect-server", port] => connect_server(port),
        ["attack", host, port, authority, kind, hold] => {
            crate::attack::run(host, port, authority, kind, hold)
        }
        ["slow-readers", host, port, count] => crate::crowd::slow_readers(host, port, count),
        ["names", host, port, count] => crate::crowd::names(host, port, count),
        ["broken", host, port, seed, count] => crate::crowd::broken(host, port, seed, count),
        ["sniff"] => sniff(),
        ["tied", program, rest @ ..] => tied(program, rest),
        other => Err(std::io::Error::other(format!("no such tool: {other:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{words:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes another program that dies with whoever started this.
fn tied(program: &str, arguments: &[&str]) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Err(std::process::Command::new(program).args(arguments).exec())
}

fn dial(host: &str, port: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port.parse().map_err(std::io::Error::other)?))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn run_netcat(host: &str, port: &str) -> std::io::Result<()> {
    let stream = dial(host, port)?;
    let mut write = stream.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = stdin().read(&mut buffer) {
            if write.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        drop(write.shutdown(Shutdown::Write));
    });
    let mut read = stream;
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = read.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut out = stdout().lock();
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}

/// Connects and waits for the greeting, so many times; prints how long each took, in microseconds.
fn first_byte(host: &str, port: &str, count: usize) -> std::io::Result<()> {
    for _ in 0..count {
        let begun = Instant::now();
        let mut stream = dial(host, port)?;
        stream.read_exact(&mut [0])?;
        println!("{}", begun.elapsed().as_micros());
    }
    Ok(())
}

/// Prints a name's addresses.
fn resolve(host: &str) -> std::io::Result<()> {
    use std::net::ToSocketAddrs as _;
    let addresses: std::collections::BTreeSet<_> =
        (host, 1).to_socket_addrs()?.map(|address| address.ip()).collect();
    addresses.iter().for_each(|address| println!("{address}"));
    Ok(())
}

/// Answers CONNECT with 200 and sends every byte back after that.
fn connect_server(port: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(format!("[::]:{port}"))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            if !head.starts_with(b"CONNECT ") {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
            }
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            copy(&mut stream.try_clone()?, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        });
    }
    Ok(())
}

/// Prints every TCP segment with bytes that this network namespace sees, `SOURCE PORT DESTINATION PORT SEQUENCE HEX`, until
/// standard input ends.
fn sniff() -> std::io::Result<()> {
    const EVERY_PROTOCOL: i32 = 0x0300; // ETH_P_ALL, in network byte order
    let every = socket2::Protocol::from(EVERY_PROTOCOL);
    let mut socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::from(3), Some(every))?;
    std::thread::spawn(|| {
        drop(copy(&mut stdin(), &mut std::io::sink()));
        std::process::exit(0);
    });
    println!("ready");
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = socket.read(&mut buffer)?;
        if let Some(line) = segment(&buffer[..length]) {
            println!("{line}");
        }
    }
}

/// An Ethernet frame's TCP segment, if it has bytes.
fn segment(frame: &[u8]) -> Option<String> {
    let short = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let packet = frame.get(14..)?;
    let (source, destination, segment) = match short(frame, 12)? {
        0x0800 if *packet.get(9)? == 6 => {
            let head = usize::from(packet[0] & 15) * 4;
            let address = |at: usize| {
                <[u8; 4]>::try_from(packet.get(at..at + 4)?)
                    .ok()
                    .map(std::net::Ipv4Addr::from)
            };
            let whole = packet.get(head..usize::from(short(packet, 2)?))?;
            (address(12)?.to_string(), address(16)?.to_string(), whole)
        }
        0x86dd if *packet.get(6)? == 6 => {
            let address = |at: usize| {
                <[u8; 16]>::try_from(packet.get(at..at + 16)?)
                    .ok()
                    .map(std::net::Ipv6Addr::from)
            };
            let whole = packet.get(40..40 + usize::from(short(packet, 4)?))?;
            (address(8)?.to_string(), address(24)?.to_string(), whole)
        }
        _ => return None,
    };
    let bytes = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    if bytes.is_empty() {
        return None;
    }
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!(
        "{source} {} {destination} {} {sequence} {hex}",
        short(segment, 0)?,
        short(segment, 2)?
    ))
}
