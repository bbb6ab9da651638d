//! Whom a client outside the mesh wants, and what becomes of its requests.
//!
//! Enters: the door that a connection came in by, and requests' heads. Leaves: the rules that decide. Never: a host that belongs to
//! another listener than the one whose certificate the client was shown (RFC 9110, section 7.4).

use std::sync::Arc;

use weft_engine::route::{Found, RequestHead, RouteTable};

use super::hosts;
use super::table::{Port, Site};
use crate::failure::Failure;
use crate::view::View;

/// By which way a connection came in. It outlives changes of what is served there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The port here.
    pub bind: u16,
    /// TLS ended here; with the server name that the client asked for, if it did.
    pub tls: Option<Option<Arc<str>>>,
}

/// A door, and what is served behind it now.
#[derive(Debug)]
pub struct Arrival {
    /// `None`: nothing any more.
    port: Option<Arc<Port>>,
    /// Which listener the TLS of the connection is for.
    site: Option<Arc<Site>>,
    tls: bool,
}

impl Door {
    /// What is served behind it.
    pub fn arrive(&self, view: &View) -> Arrival {
        let port = view.gateway.as_ref().and_then(|table| table.port(self.bind));
        let site = match (&self.tls, port) {
            (Some(name), Some(port)) => port.site(name.as_deref().unwrap_or_default()),
            _ => None,
        };
        Arrival {
            site: site.cloned(),
            port: port.cloned(),
            tls: self.tls.is_some(),
        }
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

impl Arrival {
    /// Whether header fields decide where requests go.
    pub fn looks_at_fields(&self) -> bool {
        self.port.as_ref().is_some_and(|port| port.looks_at_fields)
    }

    /// The port here; 0: it isn't served any more.
    pub fn bind(&self) -> u16 {
        self.port.as_ref().map_or(0, |port| port.bind)
    }

    /// What is served on the port; `None`: nothing any more.
    pub fn port(&self) -> Option<&Arc<Port>> {
        self.port.as_ref()
    }

    /// Whose TLS the connection's is.
    pub fn own(&self) -> Option<&Arc<Site>> {
        self.site.as_ref()
    }

    /// The listener whose a host is, as [`hosts::name`] gives it.
    ///
    /// # Errors
    /// [`Failure::NoRoute`] or [`Failure::Misdirected`].
    pub fn listener(&self, host: &str) -> Result<&Arc<Site>, Failure> {
        let found = self.port.as_ref().and_then(|port| port.site(host));
        let site = found.ok_or(Failure::NoRoute)?;
        if self.tls && !self.site.as_ref().is_some_and(|own| Arc::ptr_eq(own, site)) {
            return Err(Failure::Misdirected);
        }
        Ok(site)
    }

    /// The rule for a request: its table, and its place there.
    ///
    /// # Errors
    /// [`Failure::NoRoute`] or [`Failure::Misdirected`].
    pub fn rule(&self, head: &RequestHead<'_>) -> Result<(Arc<RouteTable>, usize), Failure> {
        // A tunnel to wherever the client likes is not what a gateway is for.
        if head.method == "CONNECT" {
            return Err(Failure::NoRoute);
        }
        let host = hosts::name(head.host);
        let site = self.listener(&host)?;
        for table in site.tables(&host) {
            if let Found::Rule(rule) = table.find(site.listener.port, head) {
                return Ok((table.clone(), rule.index));
            }
        }
        Err(Failure::NoRoute)
    }
}
