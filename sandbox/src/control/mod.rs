//! The sandbox from outside: a unix socket in its state directory.
//!
//! Enters: one request a connection, a line of JSON. Leaves: one line of JSON, and after [`Request::Dial`] and [`Request::Logs`] raw
//! bytes. Never: a request of another user (the directory is its owner's alone).

mod client;
mod report;
mod request;
pub(crate) mod server;

pub use client::{Client, ControlError, Sandbox as Listed, list, state_directory};
pub use request::{Applied, Exec, Fault, NodeStatus, PodStatus, Reply, Request, ServiceStatus, Status};

/// The socket's name in the state directory.
pub const SOCKET: &str = "control.sock";
/// Longest request line, in bytes.
pub const LONGEST_REQUEST: usize = 64 << 20;
