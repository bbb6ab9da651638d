//! HTTP/1 of the data path: a codec of its own, since a proxy forwards what it reads.
//!
//! Enters: a [`Half`](half::Half) towards the client. Leaves: the same bytes towards the server, heads rewritten for the
//! hop, bodies untouched. Never: a task, channel or copy between the two sides; both are driven by the client's task.

/// Where a message ends, read one way only.
pub mod head;
/// What the fields of a head mean for its message.
mod settle;
/// What a field means to a proxy.
pub mod field;
/// Where a body ends.
pub mod body;
/// A stream and its bytes; moving a body from one to the other.
pub mod half;
/// What a request asks for, its path in normal form.
pub mod asked;
/// Heads as they leave.
pub mod write;
/// A request sent, its response awaited and forwarded.
pub mod alone;
pub mod exchange;
/// The loop of a client's connection.
pub mod serve;
