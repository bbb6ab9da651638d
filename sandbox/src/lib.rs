//! Nodes, pods and services on one machine, from ordinary manifests.
//!
//! In order of travel:
//! - [`hidden_main`]: the subcommands that the sandbox starts itself by.
//! - [`enter`]: into namespaces of our own.
//! - [`manifests`]: files in, objects out, with file and line.
//! - [`api`]: the Kubernetes API, served from memory.
//! - [`controllers`]: each keeps one kind of object true.
//! - [`schedule`]: which node a pod runs on.
//! - [`offline`]: what manifests would run, without running it, by the rules of the four above.
//! - [`node`]: an address range and a kubelet each.
//! - [`kubelet`]: a pod's life: volumes, containers, probes, status.
//! - [`pod`]: namespaces, view of the files, processes.
//! - [`fabric`]: the router between pods; services.
//! - [`fault`]: nodes cut off.
//! - [`service`], [`dns`]: cluster addresses and names.
//! - [`system`]: the mesh's own parts, as objects.
//! - [`control`]: the sandbox from outside.
//! - [`sandbox`]: all of it together.

mod hidden;

pub mod enter;
pub mod manifests;
pub mod api;
pub mod controllers;
pub mod schedule;
pub mod offline;
pub mod node;
pub mod kubelet;
pub mod pod;
pub mod fabric;
pub mod fault;

pub use hidden::hidden_main;

/// The namespace of the mesh's own parts.
pub const SYSTEM_NAMESPACE: &str = weft_proto::model::annotations::SYSTEM_NAMESPACE;

pub mod dns;
pub mod service;
pub mod system;
pub mod control;
pub mod sandbox;
