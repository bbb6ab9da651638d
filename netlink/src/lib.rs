//! nftables rules, links, addresses and routes, written over netlink without any system tool.
//!
//! Enters: typed tables of rules ([`nft`]) and links, addresses and routes ([`link`]). Leaves: one answer of the
//! kernel per request, with the kernel's own words where it gave any. Never happens: a half-applied set of rules
//! (a table is one transaction), a call of `nft` or `ip`, a shared or long-lived socket.
//!
//! In order of travel:
//!
//! - [`nft`]: tables, chains, rules; compiled to nf_tables expressions and sent as one batch.
//! - [`link`]: veth pairs, addresses, routes, static neighbours.
//! - [`namespace`]: run a piece of work inside another network namespace.
//! - [`sysctl`]: the settings under `/proc/sys/net` that forwarding and IPv6 need.
//!
//! Everything here is blocking, takes microseconds and needs `CAP_NET_ADMIN` in the user namespace that owns the
//! network namespace (which the creator of an unprivileged user namespace has).

mod socket;
mod wire;

pub mod link;
pub mod namespace;
pub mod nft;
pub mod sysctl;

pub use socket::{Error, KernelError};
