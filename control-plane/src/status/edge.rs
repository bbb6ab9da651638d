//! What the status of Weft's Gateways, their classes and Ingresses shall say: Gateway API, `GatewayStatus`.
//!
//! Enters: Gateways as they were judged, the pods that serve them and the Services that lead there. Leaves: addresses and conditions. Never: I/O, an
//! object of another implementation.

use super::Wanted;
use super::wanted::Condition;
use crate::mesh::{DeclaredGateway, Key, Mesh, Pod};
use crate::translate::gateway::{Gateways, JudgedListener, left_out, pods_of, services_of};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::ServiceName;
use weft_proto::model::annotations::{GATEWAY_CONTROLLER, GATEWAY_NAME};

/// What a Gateway's status shall say.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayStatus {
    /// `status.addresses`.
    pub addresses: Vec<Value>,
    /// `Accepted` and `Programmed`.
    pub conditions: Vec<Condition>,
    /// One for each listener.
    pub listeners: Vec<ListenerStatus>,
}

/// What is to be said of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Kinds of route that it takes.
    pub kinds: Vec<&'static str>,
    /// How many routes are attached to it.
    pub attached: usize,
    /// `Accepted`, `Conflicted`, `ResolvedRefs` and `Programmed`.
    pub conditions: Vec<Condition>,
}

/// Whether the pods of gateways are the same, as far as a status depends on them.
pub(super) fn same_pods(old: &Mesh, new: &Mesh) -> bool {
    if new.gateways.is_empty() && new.ingresses.is_empty() {
        return true;
    }
    let pods = |mesh: &Mesh| -> Vec<Arc<Pod>> { pods_of(mesh).cloned().collect() };
    let (old, new) = (pods(old), pods(new));
    old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new))
}

/// What the status of an object shall say; `None`: that isn't Weft's to say, or can't be said yet.
pub(super) fn wanted(mesh: &Mesh, gateways: &Gateways, key: &Key, generation: i64) -> Option<Wanted> {
    let name = ServiceName::new(&key.namespace, &key.name);
    match &*key.kind {
        "GatewayClass" => {
            let class = mesh.gateway_classes.get(&key.name)?;
            let ours = *class.controller == *GATEWAY_CONTROLLER;
            (ours && class.generation.unwrap_or_default() == generation).then(|| {
                Wanted::Class(Condition {
                    kind: "Accepted",
                    holds: true,
                    reason: "Accepted",
                    message: "Weft serves Gateways of this class".to_owned(),
                })
            })
        }
        "Gateway" => {
            let declared = mesh.gateways.get(&name)?;
            let judged = gateways.gateways.get(&name)?;
            let current = declared.generation.unwrap_or_default() == generation && !judged.waiting;
            current.then(|| Wanted::Gateway(gateway(mesh, gateways, declared, &judged.listeners)))
        }
        _ => {
            let ingress = mesh.ingresses.get(&name)?;
            let class = ingress.class.as_ref()?;
            mesh.serves_ingresses(Some(class)).then(|| {
                let pods = pods_of(mesh).filter(|pod| {
                    let label = weft_proto::model::annotations::INGRESS_CLASS;
                    pod.labels.get(label) == Some(class)
                });
                let addresses = pods.filter_map(|pod| addresses(mesh, pod)).next();
                let ingress = |address: &Arc<str>| match address.parse::<IpAddr>() {
                    Ok(_) => json!({"ip": address}),
                    Err(_) => json!({"hostname": address}),
                };
                Wanted::Ingress(
                    addresses
                        .into_iter()
                        .flatten()
                        .map(|address| ingress(&address))
                        .collect(),
                )
            })
        }
    }
}

/// Addresses that clients reach a pod of a gateway by: those that a load balancer gave, else of the Service itself. `None`: no Service leads there.
fn addresses(mesh: &Mesh, pod: &Pod) -> Option<Vec<Arc<str>>> {
    let services: Vec<_> = services_of(mesh, pod).collect();
    let balanced = services.iter().find_map(|service| service.external.clone());
    balanced.or_else(|| {
        let service = services.iter().find(|service| !service.addresses.is_empty())?;
        Some(
            service
                .addresses
                .iter()
                .map(|address| address.to_string().into())
                .collect(),
        )
    })
}

fn condition(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Condition {
    Condition {
        kind,
        holds,
        reason,
        message: message.into().chars().take(1024).collect(),
    }
}

fn gateway(
    mesh: &Mesh,
    gateways: &Gateways,
    declared: &DeclaredGateway,
    judged: &[JudgedListener],
) -> GatewayStatus {
    let namespace = &declared.name.namespace;
    let pods: Vec<&Arc<Pod>> = pods_of(mesh)
        .filter(|pod| {
            pod.name.namespace == *namespace
                && pod
                    .labels
                    .get(GATEWAY_NAME)
                    .is_some_and(|name| *name == declared.name.name)
        })
        .collect();
    let ready = pods
        .iter()
        .filter(|pod| pod.ready == Some(true) && !pod.terminating)
        .count();
    let addresses = pods.iter().find_map(|pod| addresses(mesh, pod));
    let unbound = match pods.first() {
        Some(pod) => left_out(gateways, mesh, pod),
        None => Vec::new(),
    };
    let why = |listener: &JudgedListener| {
        let at = format!("listeners[{}]", listener.name);
        let found = unbound.iter().find(|(origin, _)| {
            *origin.kind == *declared.origin.kind && origin.namespace == *namespace && *origin.rule == *at
        });
        found.map(|(_, reason)| reason.clone())
    };
    let serving = match ready {
        0 if pods.is_empty() => Err("no pod serves this Gateway: install its gateway"),
        0 => Err("no pod of the gateway is ready"),
        _ => Ok(()),
    };
    let listeners: Vec<ListenerStatus> = judged
        .iter()
        .map(|listener| of_listener(listener, why(listener), serving))
        .collect();
    let good = |listener: &&ListenerStatus| listener.conditions[0].holds;
    let (all, valid) = (listeners.len(), listeners.iter().filter(good).count());
    let accepted = match (all - valid, valid) {
        (0, _) => condition("Accepted", true, "Accepted", "Weft's gateways carry it out"),
        (bad, 0) => {
            let message = format!("none of its {bad} listeners can be served: see their conditions");
            condition("Accepted", false, "ListenersNotValid", message)
        }
        (bad, _) => {
            let message = format!("{bad} of its {all} listeners can't be served: see their conditions");
            condition("Accepted", true, "ListenersNotValid", message)
        }
    };
    let given = addresses.clone().unwrap_or_default();
    let programmed = if !accepted.holds {
        condition("Programmed", false, "Invalid", "no listener can be served")
    } else if pods.is_empty() {
        let message = format!(
            "no pod has the label {GATEWAY_NAME}: {}; install one: weft install --gateway {namespace}/{}",
            declared.name.name, declared.name.name
        );
        condition("Programmed", false, "NoResources", message)
    } else if given.is_empty() {
        let message = match addresses {
            Some(_) => "the load balancer of the gateway's Service has given it no address yet",
            None => "no Service leads to the gateway's pods",
        };
        condition("Programmed", false, "AddressNotAssigned", message)
    } else if ready == 0 {
        condition("Programmed", false, "Pending", "no pod of the gateway is ready")
    } else {
        condition("Programmed", true, "Programmed", "pods of the gateway serve it")
    };
    let address = |address: &Arc<str>| match address.parse::<IpAddr>() {
        Ok(_) => json!({"type": "IPAddress", "value": address}),
        Err(_) => json!({"type": "Hostname", "value": address}),
    };
    GatewayStatus {
        // As many as the API takes.
        addresses: given.iter().take(16).map(address).collect(),
        conditions: vec![accepted, programmed],
        listeners,
    }
}

fn of_listener(
    judged: &JudgedListener,
    unbound: Option<String>,
    serving: Result<(), &'static str>,
) -> ListenerStatus {
    let accepted = match (&judged.refused, &judged.conflicted, unbound) {
        (Some(refused), ..) | (None, Some(refused), _) => {
            condition("Accepted", false, refused.reason, &*refused.message)
        }
        (None, None, Some(reason)) => condition("Accepted", false, "PortUnavailable", reason),
        (None, None, None) => condition("Accepted", true, "Accepted", "it can be served"),
    };
    let conflicted = match &judged.conflicted {
        Some(conflict) => condition("Conflicted", true, conflict.reason, &*conflict.message),
        None => condition("Conflicted", false, "NoConflicts", "no other listener is like it"),
    };
    let resolved = match &judged.unresolved {
        Some(unresolved) => condition("ResolvedRefs", false, unresolved.reason, &*unresolved.message),
        None => condition(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "all that it refers to is there",
        ),
    };
    let programmed = match (accepted.holds && judged.served(), serving) {
        (false, _) => condition(
            "Programmed",
            false,
            "Invalid",
            "it can't be served: see the other conditions",
        ),
        (true, Err(reason)) => condition("Programmed", false, "Pending", reason),
        (true, Ok(())) => condition("Programmed", true, "Programmed", "pods of the gateway serve it"),
    };
    ListenerStatus {
        name: judged.name.clone(),
        kinds: judged.kinds.clone(),
        attached: judged.attached,
        conditions: vec![accepted, conflicted, resolved, programmed],
    }
}
