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
//! - [`view`]: what is known of the mesh, an immutable snapshot.
//! - [`state`]: files that outlive a restart.
//! - [`telemetry`]: the standard metrics, Weft's own, and the log.
//! - [`health`]: readiness, the application's probes (15021) and metrics (15020).
//! - [`admin`]: what the sidecar knows, on loopback (15000).
//! - [`drain`]: from SIGTERM to the last connection.

pub mod clock;
pub mod drain;
pub mod identity;
pub mod settings;
pub mod state;
pub mod telemetry;
pub mod view;
pub mod xds;
