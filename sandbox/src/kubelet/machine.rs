//! What a node is and has.
//!
//! Enters: the machine. Leaves: a node's `nodeInfo`, `capacity` and `allocatable`. Never: a share of it: nothing keeps the nodes of a sandbox apart, so that each
//! has all of the machine, and the scheduler doesn't count what pods ask for.

use serde_json::{Value, json};
use std::net::IpAddr;
use std::num::NonZero;

/// Where a node is found.
pub(super) fn addresses(of_node: &[IpAddr], name: &str) -> Value {
    let own = of_node.iter();
    let own = own.map(|address| json!({"type": "InternalIP", "address": address}));
    own.chain([json!({"type": "Hostname", "address": name})])
        .collect()
}

/// What a node says of itself.
pub(super) fn info() -> Value {
    json!({
        "kubeletVersion": concat!("v1.32.0+weft-", env!("CARGO_PKG_VERSION")),
        "operatingSystem": "linux",
        "architecture": crate::api::defaults::ARCHITECTURE,
        "containerRuntimeVersion": "weft://namespaces",
        "osImage": "",
        "kernelVersion": "",
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kubeProxyVersion": "",
    })
}

/// Processors, and memory as far as the system tells it.
pub(super) fn capacity() -> Value {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut capacity = json!({"cpu": processors.to_string()});
    if let Some(memory) = memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
        capacity["memory"] = memory.into();
    }
    capacity
}

/// `MemTotal:       24543988 kB` as a quantity.
fn memory(meminfo: &str) -> Option<String> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{kib}Ki"))
}

#[cfg(test)]
mod tests {
    use super::{capacity, memory};

    #[test]
    fn memory_is_a_quantity() {
        assert_eq!(
            memory("MemTotal:       24543988 kB\nMemFree: 1 kB\n"),
            Some("24543988Ki".to_owned())
        );
        assert_eq!(memory(""), None);
    }

    #[test]
    fn there_is_a_processor() {
        assert_ne!(capacity()["cpu"], "0");
    }
}
