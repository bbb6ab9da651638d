//! Nodes: an address range each, and a kubelet each.
//!
//! In: Node objects. Out: addresses, a kubelet per node for as long as the node is there. Never: one address for two pods
//! at a time, nor for the next pod at once.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::store::StoreError;
use crate::api::{Api, Change, object};
use crate::fabric::Fabric;
use crate::kubelet::{self, NodeContext, Running};

/// Most nodes: their number is a byte of their pods' addresses.
pub const MAX_NODES: u8 = 250;
/// Host numbers of pods within their node's range.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// The addresses of a node and of its pods.
#[derive(Debug)]
pub struct Network {
    /// The node's own addresses, IPv4 and IPv6.
    pub node: [IpAddr; 2],
    /// The ranges of its pods' addresses (10.244.N.0/24, fd00:10:244:N::/64).
    pub pods: [IpNet; 2],
    number: u8,
    taken: Mutex<(BTreeSet<u8>, u8)>,
}

impl Network {
    /// The network of the node with this number.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let v6 = |third: u16, host: u16| Ipv6Addr::new(0xfd00, 0x10, third, u16::from(number), 0, 0, 0, host);
        let pods_v4 = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24);
        let pods_v6 = ipnet::Ipv6Net::new_assert(v6(0x244, 0), 64);
        Self {
            node: [
                IpAddr::V4(Ipv4Addr::new(10, 245, number, 1)),
                IpAddr::V6(v6(0x245, 1)),
            ],
            pods: [IpNet::V4(pods_v4), IpNet::V6(pods_v6)],
            number,
            taken: Mutex::new((BTreeSet::new(), *HOSTS.start())),
        }
    }

    /// Addresses for a pod.
    ///
    /// # Errors
    /// A sentence, when the node has as many pods as it has addresses.
    pub fn take(&self) -> Result<[IpAddr; 2], String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in HOSTS {
            let host = taken.1;
            taken.1 = if host == *HOSTS.end() {
                *HOSTS.start()
            } else {
                host + 1
            };
            if taken.0.insert(host) {
                let v6 = Ipv6Addr::new(
                    0xfd00,
                    0x10,
                    0x244,
                    u16::from(self.number),
                    0,
                    0,
                    0,
                    u16::from(host),
                );
                return Ok([
                    IpAddr::V4(Ipv4Addr::new(10, 244, self.number, host)),
                    IpAddr::V6(v6),
                ]);
            }
        }
        Err(format!(
            "the node has {} pods, as many as it has addresses",
            HOSTS.count()
        ))
    }

    /// Gives a pod's addresses back.
    pub fn release(&self, addresses: &[IpAddr]) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            if let IpAddr::V4(v4) = address {
                taken.0.remove(&v4.octets()[3]);
            }
        }
    }
}

/// Everything that nodes share.
#[derive(Debug)]
pub struct Nodes {
    api: Arc<Api>,
    fabric: Arc<Fabric>,
    directory: PathBuf,
    cut: watch::Sender<BTreeSet<String>>,
    running: Arc<Running>,
    known: Mutex<HashMap<String, Arc<NodeContext>>>,
}

impl Nodes {
    /// No node yet. `directory` is where pods keep their files.
    #[must_use]
    pub fn new(api: Arc<Api>, fabric: Arc<Fabric>, directory: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            api,
            fabric,
            directory,
            cut: watch::Sender::new(BTreeSet::new()),
            running: Arc::default(),
            known: Mutex::default(),
        })
    }

    /// The pods that run.
    #[must_use]
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// The nodes that are cut off.
    #[must_use]
    pub fn cut(&self) -> BTreeSet<String> {
        self.cut.borrow().clone()
    }

    /// Says which nodes are cut off: their kubelets neither hear nor report. (The packets are `fault`'s.)
    pub fn set_cut(&self, nodes: BTreeSet<String>) {
        self.cut.send_replace(nodes);
    }

    /// The ranges of a node's pods.
    #[must_use]
    pub fn pod_networks(&self, node: &str) -> Option<[IpNet; 2]> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .map(|n| n.network.pods)
    }

    /// Runs a kubelet for every Node object, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut kubelets = JoinSet::new();
        let mut watch = self.api.store.watch();
        self.start_all(&mut kubelets);
        loop {
            tokio::select! {
                events = watch.next() => match events {
                    Ok(events) => {
                        let new = |e: &crate::api::Event| &*e.kind == "nodes" && e.change == Change::Added;
                        if events.iter().any(new) {
                            self.start_all(&mut kubelets);
                        }
                    }
                    Err(_) => {
                        watch = self.api.store.watch();
                        self.start_all(&mut kubelets);
                    }
                },
                Some(done) = kubelets.join_next() => {
                    if let Ok(name) = done {
                        self.stopped(&name);
                    }
                    // A node of the same name may have come back meanwhile.
                    self.start_all(&mut kubelets);
                }
            }
        }
    }

    fn start_all(&self, kubelets: &mut JoinSet<String>) {
        for node in self.api.store.list("nodes", None).0 {
            let name = object::name(&node).to_owned();
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.contains_key(&name) {
                continue;
            }
            let free = (1..=MAX_NODES).find(|n| !known.values().any(|k| k.network.number == *n));
            let Some(number) = free else {
                self.api.record(
                    &node,
                    true,
                    "TooManyNodes",
                    &format!("the sandbox has {MAX_NODES} nodes already"),
                );
                continue;
            };
            let network = Network::new(number);
            for address in network.node {
                if let Err(e) = self.fabric.add_address(address) {
                    self.api.record(&node, true, "FailedNodeAddress", &e.to_string());
                }
            }
            self.describe(&name, &network);
            let context = Arc::new(NodeContext {
                name: name.clone(),
                api: Arc::clone(&self.api),
                fabric: Arc::clone(&self.fabric),
                network,
                directory: self.directory.clone(),
                cut: self.cut.subscribe(),
                running: Arc::clone(&self.running),
            });
            known.insert(name.clone(), Arc::clone(&context));
            kubelets.spawn(async move {
                kubelet::run(context).await;
                name
            });
        }
    }

    /// What a node's kubelet and cloud would have written.
    fn describe(&self, name: &str, network: &Network) {
        let written = self.api.store.modify::<StoreError>("nodes", "", name, |node| {
            complete_labels(node);
            node["spec"]["podCIDR"] = json!(network.pods[0]);
            node["spec"]["podCIDRs"] = json!(network.pods);
            Ok(())
        });
        if let Err(e) = written {
            tracing::debug!("node {name}: {e}");
        }
    }

    fn stopped(&self, name: &str) {
        let gone = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if let Some(node) = gone {
            for address in node.network.node {
                if let Err(e) = self.fabric.remove_address(address) {
                    tracing::debug!("node {name}: {e}");
                }
            }
        }
    }
}

/// Gives a node the labels that its kubelet would.
pub(crate) fn complete_labels(node: &mut Value) {
    let name = object::name(node).to_owned();
    let labels = object::member(&mut node["metadata"], "labels");
    labels
        .entry("kubernetes.io/hostname")
        .or_insert_with(|| name.into());
    labels
        .entry("kubernetes.io/arch")
        .or_insert_with(|| crate::api::defaults::ARCHITECTURE.into());
    labels.entry("kubernetes.io/os").or_insert_with(|| "linux".into());
}

/// The node of a sandbox whose manifests have none.
#[must_use]
pub fn local() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "local", "labels": {
        "topology.kubernetes.io/region": "local", "topology.kubernetes.io/zone": "local-a"}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_reused_at_once() {
        let network = Network::new(3);
        let first = network.take().unwrap();
        assert_eq!(first[0].to_string(), "10.244.3.2");
        assert_eq!(first[1].to_string(), "fd00:10:244:3::2");
        network.release(&first);
        assert_ne!(network.take().unwrap(), first);
        for _ in 0..252 {
            network.take().unwrap();
        }
        assert!(network.take().is_err());
        assert!(network.pods.iter().all(|n| first.iter().any(|a| n.contains(a))));
    }
}
