//! HTTP/2 of the data path, on `h2` itself: streams are moved frame by frame, without a channel in between.
//!
//! Enters: a connection of a client. Leaves: each of its streams as a stream of a connection to the server, with
//! informational responses, trailers, resets and flow control passed on. Never: a stream in another version of HTTP than
//! the client's, more unread bytes than the windows allow.

/// A client's connection and its streams.
pub mod serve;
/// One direction of one stream.
pub mod flow;
/// One request sent, its response awaited and forwarded.
pub mod exchange;
/// What a request asks for, its path in normal form; fields that end at this hop.
pub mod asked;

use std::time::Duration;

/// Streams of one client connection at a time.
pub const MOST_STREAMS: u32 = 1_000;
/// Most bytes of a decoded head, 32 for each field included (RFC 9113 section 10.5.1).
pub const MAX_HEAD: u32 = 64 * 1024;
/// Most fields of a head.
pub const MAX_FIELDS: usize = 100;
/// Bytes that may come in on one stream before they were forwarded.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for a connection.
pub const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes of one stream that wait to be written.
pub const SEND_BUFFER: usize = 256 * 1024;
/// How long a client may take for its preface.
pub const PREFACE: Duration = Duration::from_secs(10);
/// How many more of its streams than were answered a client may take back before its connection ends (CVE-2023-44487).
pub const MOST_CANCELLED: u64 = 500;
