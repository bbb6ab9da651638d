//! A pod that is called by its own address, and the headless Services that it is behind: their rules hold for its callers.
//!
//! Enters: the pods of an address, and the host that a request names. Leaves: the one Service whose rules hold, if there is one. Never: a
//! Service that doesn't have the pod at that port: what a request says of its host moves no connection elsewhere by itself.

use std::sync::Arc;

use weft_engine::route::{RouteTable, without_port};
use weft_proto::model::{Endpoint, ServiceName};

use super::members::Member;
use super::{Destination, Names, View};

/// A pod that was addressed directly.
#[derive(Clone, Debug)]
pub struct Direct {
    /// The pod.
    pub endpoint: Arc<Endpoint>,
    /// The Service's port that leads to the pod's port, if one does: it says what is spoken there.
    pub destination: Option<Arc<Destination>>,
    /// Headless Services with a port that leads to the pod's port, in the order of their names; none, if none of them has rules for it.
    behind: Vec<Behind>,
}

/// A headless Service that a pod is behind.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Its port that leads to the pod's.
    pub destination: Arc<Destination>,
    /// The pod's own name below the Service's; empty: none.
    pub hostname: Arc<str>,
    /// The rules that hold for the pod; `None`: none is about the port.
    pub routes: Option<Arc<RouteTable>>,
}

impl Direct {
    pub(super) fn new(endpoint: Arc<Endpoint>, destination: Option<&Arc<Destination>>) -> Self {
        Self {
            endpoint,
            destination: destination.cloned(),
            behind: Vec::new(),
        }
    }

    /// Looks for the port in the headless Services that have the pod.
    pub(super) fn behind<'a>(
        &mut self,
        names: &Names,
        pods: impl Iterator<Item = (&'a ServiceName, &'a Member)>,
        port: u16,
    ) {
        let mut found: Vec<Behind> = Vec::new();
        for (service, member) in pods {
            let Some(entry) = names.services.get(service) else {
                continue;
            };
            let leads = member.ports().iter().filter(|(_, target)| *target == port);
            // Of several ports that lead there the one of the same number: who calls a pod names the pod's.
            let Some((own, _)) = leads.min_by_key(|(own, _)| (*own != port, *own)) else {
                continue;
            };
            let Some(destination) = entry.port(*own) else {
                continue;
            };
            let table = entry.table.as_ref();
            let hostname = member.hostname();
            let table = table.map(|table| table.of_pod(hostname).unwrap_or(table));
            found.push(Behind {
                destination: destination.clone(),
                hostname: hostname.into(),
                routes: table
                    .filter(|table| table.applies(*own) || table.connects(*own))
                    .cloned(),
            });
        }
        if found.iter().any(|behind| behind.routes.is_some()) {
            self.behind = found;
        }
    }

    /// The only headless Service that it is behind: its rules hold, whatever a request says.
    pub fn only(&self) -> Option<&Behind> {
        match &self.behind[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The headless Service whose rules hold for a request to `host` (with or without a port): the only one, else the one that the host
    /// names, as DNS would expand it for this pod.
    pub fn meant(&self, view: &View, host: &str) -> Option<&Behind> {
        self.only().or_else(|| {
            let host = without_port(host);
            self.behind.iter().find(|behind| behind.is_called(view, host))
        })
    }

    /// Whether rules of some of them look at header fields.
    pub fn looks_at_fields(&self) -> bool {
        let mut tables = self.behind.iter().filter_map(|behind| behind.routes.as_ref());
        tables.any(|table| table.looks_at_fields())
    }

    /// Whether a rule may be about it.
    pub fn is_ruled(&self) -> bool {
        !self.behind.is_empty()
    }
}

impl Behind {
    fn is_called(&self, view: &View, host: &str) -> bool {
        let names = |host: &str| {
            let entry = view.entry(host);
            entry.is_some_and(|entry| entry.service.name == self.destination.service)
        };
        names(host)
            || host.split_once('.').is_some_and(|(pod, rest)| {
                !self.hostname.is_empty() && pod.eq_ignore_ascii_case(&self.hostname) && names(rest)
            })
    }
}
