//! Connections that the sidecar makes: to other pods, and to its own application.
//!
//! Enters: an endpoint that the engine picked, or a [`Permit`](crate::policy::Permit). Leaves: a connection, new or kept.
//! Never: a connection to the application without a permit, or to a sidecar whose identity isn't the endpoint's.

/// Sockets and TLS.
pub mod connect;
/// HTTP/1 connections that wait for their next request.
pub mod pool;
/// Room for HTTP/1 connections under a destination's bounds.
pub mod room;
/// How many HTTP/1 connections are made at once.
pub mod turn;
/// HTTP/2 connections, shared by their streams.
pub mod shared;
/// One request's tries.
pub mod call;
/// One request at two endpoints.
pub mod hedge;
/// Metric handles by endpoint.
pub mod edges;
/// The application.
pub mod app;
