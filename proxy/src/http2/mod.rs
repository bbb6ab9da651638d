//! HTTP/2 of the data path, on `h2` itself: streams are moved frame by frame, without a channel in between.
//!
//! Enters: a connection of a client. Leaves: each of its streams as a stream of a connection to the server, with
//! informational responses, trailers, resets and flow control passed on. Never: a stream in another version of HTTP than
//! the client's, more unread bytes than the windows allow.

/// Connections that nobody uses.
pub mod idle;
/// What a peer's frames cost.
pub mod meter;
/// The bytes under a connection, and what its streams share.
pub mod wire;
/// A client's connection and its streams.
pub mod serve;
/// The tasks that serve streams.
pub mod lanes;
/// One direction of one stream.
pub mod flow;
/// One request sent, its response awaited and forwarded.
pub mod exchange;
/// What a request asks for, its path in normal form; fields that end at this hop.
pub mod asked;

use std::time::Duration;

use crate::http1::serve::IDLE_OUTSIDE;

/// Streams of one client connection at a time.
pub const MOST_STREAMS: u32 = 250;
/// Most bytes of a decoded head, 32 for each field included (RFC 9113 section 10.5.1). All of a connection's streams may hold one at the
/// same moment: 8 MiB.
pub const MAX_HEAD: u32 = 32 * 1024;
/// Most fields of a head.
pub const MAX_FIELDS: usize = 100;
/// Bytes that may come in on one stream before they were forwarded: what a receiver that stands still makes this side hold.
pub const STREAM_WINDOW: u32 = 32 * 1024;
/// The same for a few streams that move much.
pub const WIDE_WINDOW: u32 = 1024 * 1024;
/// The same for a connection: never the limit, so that no stream that stands still stops the others.
pub const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW + 8 * WIDE_WINDOW;
/// Bytes of one stream that wait to be written.
pub const SEND_BUFFER: usize = 256 * 1024;
/// What small pieces of bodies that were not forwarded yet may cost beyond their bytes.
pub const SMALL_PIECES: usize = 512 * 1024;
/// How long a client may take for its preface.
pub const PREFACE: Duration = Duration::from_secs(10);

/// What one connection may do that is of no use, at once and in each second (CVE-2023-44487 and what came after it).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames that ask for nothing.
    pub frames: (u32, u32),
    /// Requests that are taken back within [`PREMATURE`], or can't be read.
    pub cancelled: (u32, u32),
    /// Requests that are taken back before anybody has looked at them, at one moment.
    pub unseen: usize,
    /// How long it may be without a request; `None`: for ever.
    pub idle: Option<Duration>,
}

/// An ordinary client: at most 5,000 frames of an attack are read.
pub const CLIENT: Limits = Limits {
    frames: (1_000, 100),
    cancelled: (500, 50),
    unseen: 20,
    idle: None,
};
/// A client outside the mesh, who may be anybody. Idle: as long as one that speaks HTTP/1.
pub const OUTSIDE: Limits = Limits {
    idle: Some(IDLE_OUTSIDE),
    ..CLIENT
};
/// Another sidecar, which speaks for many clients that it has checked itself.
pub const SIDECAR: Limits = Limits {
    frames: (2_000, 1_000),
    cancelled: (2_000, 500),
    unseen: 1_000,
    idle: None,
};
/// A server.
pub const SERVER: Limits = Limits {
    frames: (2_000, 1_000),
    cancelled: (0, 0),
    unseen: 0,
    idle: None,
};
/// A request that its client takes back sooner than this was hardly meant.
pub const PREMATURE: Duration = Duration::from_secs(1);
