//! The sidecar: connections in, connections out.
//!
//! Enters: intercepted TCP connections of one pod, and configuration from the control plane. Leaves: connections to the
//! application (only with a permit of `policy`) and to other pods (over mutual TLS where the other side has a sidecar).
//! Never: a connection that skips a stage, a wait for the control plane on the way of a request.
//!
//! Control side, in the order in which a sidecar comes to life:
//!
//! - [`init`]: `weft init`, the interception rules of the pod, written once before the sidecar starts.
//! - [`settings`]: the environment, checked and bounded.
//! - [`server`]: one control thread and the data-plane threads.
//! - [`identity`]: the workload's key and certificate, their renewal, and the mutual TLS that uses them.
//! - [`xds`]: the configuration stream; the only writer of [`view`].
//! - [`view`]: what is known of the mesh, an immutable snapshot; its engine counts time by [`clock`].
//! - [`state`]: files that outlive a restart.
//! - [`prober`]: whether endpoints that could not be reached are back.
//! - [`telemetry`]: the standard metrics, Weft's own, and the log.
//! - [`health`]: readiness, the application's probes (15021) and metrics (15020), served by [`pages`].
//! - [`admin`]: what the sidecar knows, on loopback (15000). [`explain`]: why a request goes where it goes.
//! - [`drain`]: from SIGTERM to the last connection.
//!
//! Data side, in the order in which a connection travels:
//!
//! - [`worker`]: one thread, its listeners and what it owns ([`context`]).
//! - [`accept`]: a socket, and where it was meant to go.
//! - [`detect`]: what is spoken, by the first bytes.
//! - [`outbound`]: from the application to endpoints. [`inbound`]: from callers to the application. [`gateway`]: from clients outside the
//!   mesh to endpoints, where the process is no sidecar but a gateway.
//! - [`policy`]: the permit without which nothing reaches the application.
//! - [`http1`], [`http2`], [`tcp`]: what is spoken between the two sides.
//! - [`upstream`]: endpoints, tries, connections kept and new.
//! - [`failure`]: what follows from whatever went wrong. [`request_id`]: the name of a request in every log.
//! - [`changes`]: header fields that routes change. [`stream`], [`buffer`], [`signal`], [`alarm`], [`access`]: bytes, change, time and lines, for all of them.

pub mod accept;
pub mod access;
pub mod admin;
pub mod alarm;
pub mod buffer;
pub mod changes;
pub mod clock;
pub mod context;
pub mod detect;
pub mod drain;
pub mod explain;
pub mod failure;
pub mod gateway;
pub mod health;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod inbound;
pub mod init;
pub mod outbound;
pub mod pages;
pub mod policy;
pub mod prober;
pub mod recent;
pub mod request_id;
pub mod server;
pub mod settings;
pub mod signal;
pub mod state;
pub mod stream;
pub mod tcp;
pub mod telemetry;
pub mod tunnel;
pub mod upstream;
pub mod view;
pub mod worker;
pub mod xds;
#[cfg(test)]
mod tests;
