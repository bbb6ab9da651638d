//! `weft-tcp`: many TCP connections through one mutual-TLS connection.
//!
//! Enters: a secured connection between two sidecars. Leaves: on the side that began it, a stream for each TCP connection
//! of the application, without a handshake; on the other side, each of these streams, to be connected to the application or
//! refused. Never: a byte of the application before the other side has said that its application is connected (so that a
//! stream that isn't open yet can always be moved to another endpoint), a stream that keeps others waiting, more memory
//! than the windows allow.
//!
//! In order of travel (`docs/decisions/0004-weft-tcp.md` says why it is so):
//!
//! - [`frame`]: the bytes on the wire.
//! - [`window`]: how much a peer may send ahead.
//! - [`queue`]: bytes that were received and wait for their reader.
//! - [`liveness`]: when to ask whether the peer is there, and when it is not.
//! - [`state`]: all streams of one tunnel; no I/O.
//! - [`driver`]: moves bytes between the state and the connection.
//! - [`stream`]: one TCP connection inside.
//! - [`open`]: the side that begins streams; [`accept`]: the side that is asked for them.
//! - [`pool`]: the tunnels of one thread, by destination.

pub mod frame;
mod window;
mod queue;
mod liveness;
mod state;
pub mod driver;
pub mod stream;
pub mod open;
pub mod accept;
pub mod pool;

#[cfg(test)]
mod tests;

pub use accept::{Arrival, Arrivals, server};
pub use driver::{Driver, Ended};
pub use frame::{Refusal, Reset};
pub use open::{NotOpened, Opener, Opening, client};
pub use state::Violation;
pub use stream::TunnelStream;

/// Streams that may be open or opening at once in one tunnel; more are refused, and go through another tunnel.
pub const MOST_STREAMS: usize = 1_024;
