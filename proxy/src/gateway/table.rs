//! What a gateway serves, ready for connections.
//!
//! Enters: the resource, and the table before. Leaves: ports with their listeners and rules, immutable. Never: a part built anew that
//! is the same as before; a resource of which only a part can be used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use weft_engine::route::{Choice, RouteTable};
use weft_proto::model::{
    ConnectionRule, Gateway, Listener, ListenerProtocol, RouteRule, Routes, ServiceName, VirtualHost,
};

use super::certificates;
use super::hosts::Hosts;
use crate::failure::Failure;
use crate::outbound::backend::at;
use crate::outbound::scene::Scene;
use crate::upstream::call::Target;

/// Everything that a gateway serves.
#[derive(Clone, Debug, Default)]
pub struct Table {
    ports: BTreeMap<u16, Arc<Port>>,
}

/// A port that the process listens on.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number here.
    pub bind: u16,
    /// What is spoken.
    pub spoken: Spoken,
    /// Whether header fields decide where requests go.
    pub looks_at_fields: bool,
    sites: Hosts<Arc<Site>>,
}

/// How a port's connections begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// With a request.
    Http,
    /// With a TLS hello.
    Tls,
    /// With anything, or nothing.
    Tcp,
}

/// One listener.
#[derive(Debug)]
pub struct Site {
    /// As the control plane says.
    pub listener: Listener,
    /// For TLS that ends here.
    pub tls: Option<Arc<ServerConfig>>,
    /// With the place of each pattern among the listener's.
    hosts: Hosts<(usize, Arc<RouteTable>)>,
    connections: Arc<RouteTable>,
    looks_at_fields: bool,
}

/// A field that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Table {
    /// Compiles a gateway. What is as in `previous` is taken from there.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn compile(gateway: &Gateway, previous: Option<&Self>) -> Result<Self, Invalid> {
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        for (index, listener) in gateway.listeners.iter().enumerate() {
            let old = previous.and_then(|table| table.site(listener));
            let site = match old {
                Some(old) if old.listener == *listener => old.clone(),
                old => Site::compile(listener, old)
                    .map(Arc::new)
                    .map_err(|invalid| Invalid {
                        field: format!("listeners[{index}].{}", invalid.field),
                        ..invalid
                    })?,
            };
            let port = ports.entry(listener.bind).or_insert_with(|| Port {
                bind: listener.bind,
                spoken: Spoken::of(listener.protocol),
                looks_at_fields: false,
                sites: Hosts::default(),
            });
            port.looks_at_fields |= site.looks_at_fields;
            if !port.sites.add(&listener.host, site) {
                tracing::warn!(
                    listener = %listener.origin,
                    port = listener.port,
                    host = %listener.host,
                    "two listeners have the same port and host; the first serves"
                );
            }
        }
        let ports = ports.into_iter().map(|(bind, port)| (bind, Arc::new(port)));
        Ok(Self {
            ports: ports.collect(),
        })
    }

    /// The listener of the same object, name and port.
    fn site(&self, listener: &Listener) -> Option<&Arc<Site>> {
        let same = |site: &&Arc<Site>| {
            let known = &site.listener;
            (&known.name, &known.origin, &known.host) == (&listener.name, &listener.origin, &listener.host)
        };
        self.ports.get(&listener.bind)?.sites.values().find(same)
    }

    /// A port, by its number here.
    pub fn port(&self, bind: u16) -> Option<&Arc<Port>> {
        self.ports.get(&bind)
    }

    /// Every port.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.ports.values()
    }
}

impl Spoken {
    fn of(protocol: ListenerProtocol) -> Self {
        match protocol {
            ListenerProtocol::Http => Self::Http,
            ListenerProtocol::Https | ListenerProtocol::Tls => Self::Tls,
            ListenerProtocol::Tcp => Self::Tcp,
        }
    }
}

impl Port {
    /// The listener with the most exact pattern that covers a host or server name; empty: none was named.
    pub fn site(&self, host: &str) -> Option<&Arc<Site>> {
        self.sites.covering(host).next()
    }

    /// Every listener, by name.
    pub fn sites(&self) -> Vec<&Arc<Site>> {
        let mut sites: Vec<_> = self.sites.values().collect();
        sites.sort_by(|a, b| a.listener.name.cmp(&b.listener.name));
        sites
    }
}

impl Site {
    fn compile(listener: &Listener, old: Option<&Arc<Self>>) -> Result<Self, Invalid> {
        let mut hosts = Hosts::default();
        let mut looks_at_fields = false;
        for (index, host) in listener.hosts.iter().enumerate() {
            let table = compile(&requests(listener, host), &format!("hosts[{index}]."))?;
            looks_at_fields |= table.looks_at_fields();
            hosts.add(&host.host, (index, table));
        }
        let kept = old.filter(|old| old.listener.certificates == listener.certificates);
        let tls = match (kept, &listener.certificates[..]) {
            (_, []) => None,
            (Some(old), _) => old.tls.clone(),
            (None, certificates) => {
                let http = listener.protocol == ListenerProtocol::Https;
                let config = certificates::config(certificates, http);
                Some(config.map_err(|unusable| Invalid {
                    field: unusable.field,
                    reason: unusable.reason,
                })?)
            }
        };
        Ok(Self {
            listener: listener.clone(),
            tls,
            hosts,
            connections: compile(&connections(listener), "")?,
            looks_at_fields,
        })
    }

    /// Rules for requests to a host, in the order in which they decide.
    pub fn tables<'a, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = &'a Arc<RouteTable>> + use<'a, 'h> {
        self.hosts.covering(host).map(|(_, table)| table)
    }

    /// The same, as declared.
    pub fn declared<'a, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = (&'a VirtualHost, &'a Arc<RouteTable>)> + use<'a, 'h> {
        let covering = self.hosts.covering(host);
        covering.filter_map(|(index, table)| Some((self.listener.hosts.get(*index)?, table)))
    }

    /// The rule and the backend of a connection whose bytes are forwarded as they are. `name`: of its TLS hello; `address`: where it came
    /// in.
    pub fn choice(&self, scene: &Scene<'_>, name: Option<&str>, address: IpAddr) -> Choice<'_> {
        let port = self.listener.port;
        scene.random(|rng| self.connections.connection(port, name, address, rng))
    }

    /// Where such a connection goes.
    ///
    /// # Errors
    /// [`Failure::NoRoute`] or [`Failure::NoBackend`].
    pub fn connection(
        &self,
        scene: &Scene<'_>,
        name: Option<&str>,
        address: IpAddr,
    ) -> Result<Target, Failure> {
        match self.choice(scene, name, address) {
            Choice::Rule { backend, .. } => at(scene.view, backend).ok_or(Failure::NoBackend),
            Choice::Service | Choice::NoMatch => Err(Failure::NoRoute),
            Choice::Answer { .. } | Choice::Unavailable { .. } => Err(Failure::NoBackend),
        }
    }
}

/// Rules for requests, as routes of nobody's port: the listener's own is the one that counts.
pub fn requests(listener: &Listener, host: &VirtualHost) -> Routes {
    let everywhere = |rule: &RouteRule| RouteRule {
        port: None,
        ..rule.clone()
    };
    Routes {
        service: ServiceName::new(&listener.origin.namespace, &listener.origin.name),
        rules: host.rules.iter().map(everywhere).collect(),
        connections: Vec::new(),
        pods: Vec::new(),
    }
}

/// The same for connections.
pub fn connections(listener: &Listener) -> Routes {
    let everywhere = |rule: &ConnectionRule| ConnectionRule {
        port: None,
        ..rule.clone()
    };
    Routes {
        service: ServiceName::new(&listener.origin.namespace, &listener.origin.name),
        rules: Vec::new(),
        connections: listener.connections.iter().map(everywhere).collect(),
        pods: Vec::new(),
    }
}

fn compile(routes: &Routes, within: &str) -> Result<Arc<RouteTable>, Invalid> {
    let compiled = RouteTable::compile(routes).map_err(|invalid| Invalid {
        field: format!("{within}{}", invalid.field),
        reason: invalid.reason,
    });
    compiled.map(Arc::new)
}
