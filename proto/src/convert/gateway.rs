//! What a gateway serves.

use super::route::{MOST_RULES, most};
use super::{Invalid, each, name, port};
use crate::model::{
    ConnectionRule, Gateway, HostPattern, Listener, ListenerProtocol, RouteRule, ServerCertificate,
    VirtualHost,
};
use crate::wire::v1;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most listeners of one gateway.
const MOST_LISTENERS: usize = 1_000;
/// Most hosts of one listener.
const MOST_HOSTS: usize = 10_000;
/// Most certificates of one listener, and in one chain.
const MOST_CERTIFICATES: usize = 64;
/// Longest certificate or key, in bytes.
const LONGEST_CERTIFICATE: usize = 64 * 1024;

impl TryFrom<v1::Gateway> for Gateway {
    type Error = Invalid;
    fn try_from(wire: v1::Gateway) -> Result<Self, Invalid> {
        most("listeners", wire.listeners.len(), MOST_LISTENERS)?;
        let listeners = each("listeners", wire.listeners, Listener::try_from)?;
        let mut bound: BTreeMap<u16, (u16, ListenerProtocol)> = BTreeMap::new();
        for (index, listener) in listeners.iter().enumerate() {
            let mine = (listener.port, listener.protocol);
            let Some(first) = bound.insert(listener.bind, mine) else {
                continue;
            };
            if first.0 != listener.port || !together(first.1, listener.protocol) {
                let reason = format!("listens on {}, as another one that isn't like it", listener.bind);
                return Err(Invalid::new(format!("listeners[{index}].bind"), reason));
            }
        }
        Ok(Self { listeners })
    }
}

/// Whether listeners of both protocols can share a port.
fn together(one: ListenerProtocol, other: ListenerProtocol) -> bool {
    use ListenerProtocol::{Http, Https, Tls};
    matches!((one, other), (Http, Http) | (Https | Tls, Https | Tls))
}

impl From<&Gateway> for v1::Gateway {
    fn from(gateway: &Gateway) -> Self {
        Self {
            listeners: gateway.listeners.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Listener> for Listener {
    type Error = Invalid;
    fn try_from(wire: v1::Listener) -> Result<Self, Invalid> {
        most("certificates", wire.certificates.len(), MOST_CERTIFICATES)?;
        most("hosts", wire.hosts.len(), MOST_HOSTS)?;
        most("connections", wire.connections.len(), MOST_RULES)?;
        let protocol = match wire.protocol() {
            v1::ListenerProtocol::Http => ListenerProtocol::Http,
            v1::ListenerProtocol::Https => ListenerProtocol::Https,
            v1::ListenerProtocol::Tls => ListenerProtocol::Tls,
            v1::ListenerProtocol::Tcp => ListenerProtocol::Tcp,
            v1::ListenerProtocol::Unspecified => {
                let reason = format!("{} is no protocol that this version knows", wire.protocol);
                return Err(Invalid::new("protocol", reason));
            }
        };
        if protocol == ListenerProtocol::Https && wire.certificates.is_empty() {
            return Err(Invalid::new("certificates", "are missing; HTTPS needs one"));
        }
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            name: name("name", &wire.name)?,
            port: port("port", wire.port)?,
            bind: port("bind", wire.bind)?,
            protocol,
            host: pattern("hostname", &wire.hostname, wire.one_label)?,
            certificates: each("certificates", wire.certificates, ServerCertificate::try_from)?,
            hosts: each("hosts", wire.hosts, VirtualHost::try_from)?,
            connections: each("connections", wire.connections, ConnectionRule::try_from)?,
        })
    }
}

impl From<&Listener> for v1::Listener {
    fn from(listener: &Listener) -> Self {
        let protocol = match listener.protocol {
            ListenerProtocol::Http => v1::ListenerProtocol::Http,
            ListenerProtocol::Https => v1::ListenerProtocol::Https,
            ListenerProtocol::Tls => v1::ListenerProtocol::Tls,
            ListenerProtocol::Tcp => v1::ListenerProtocol::Tcp,
        };
        Self {
            origin: Some((&listener.origin).into()),
            name: listener.name.to_string(),
            port: listener.port.into(),
            bind: listener.bind.into(),
            protocol: protocol.into(),
            hostname: text(&listener.host),
            one_label: matches!(listener.host, HostPattern::Label(_)),
            certificates: listener.certificates.iter().map(Into::into).collect(),
            hosts: listener.hosts.iter().map(Into::into).collect(),
            connections: listener.connections.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::VirtualHost> for VirtualHost {
    type Error = Invalid;
    fn try_from(wire: v1::VirtualHost) -> Result<Self, Invalid> {
        most("rules", wire.rules.len(), MOST_RULES)?;
        Ok(Self {
            host: pattern("hostname", &wire.hostname, wire.one_label)?,
            rules: each("rules", wire.rules, RouteRule::try_from)?,
        })
    }
}

impl From<&VirtualHost> for v1::VirtualHost {
    fn from(host: &VirtualHost) -> Self {
        Self {
            hostname: text(&host.host),
            one_label: matches!(host.host, HostPattern::Label(_)),
            rules: host.rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ServerCertificate> for ServerCertificate {
    type Error = Invalid;
    fn try_from(wire: v1::ServerCertificate) -> Result<Self, Invalid> {
        most("chain", wire.chain.len(), MOST_CERTIFICATES)?;
        if wire.chain.is_empty() {
            return Err(Invalid::new("chain", "is empty"));
        }
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            chain: each("chain", wire.chain, |certificate| der(&certificate))?,
            key: der(&wire.key).map_err(|invalid| invalid.within("key"))?,
        })
    }
}

impl From<&ServerCertificate> for v1::ServerCertificate {
    fn from(certificate: &ServerCertificate) -> Self {
        let bytes = |der: &Arc<[u8]>| bytes::Bytes::copy_from_slice(der);
        Self {
            origin: Some((&certificate.origin).into()),
            chain: certificate.chain.iter().map(bytes).collect(),
            key: bytes(&certificate.key),
        }
    }
}

fn der(bytes: &[u8]) -> Result<Arc<[u8]>, Invalid> {
    match bytes.len() {
        0 => Err(Invalid::new("", "is empty")),
        length if length > LONGEST_CERTIFICATE => {
            let reason = format!("has {length} bytes; at most {LONGEST_CERTIFICATE} are taken");
            Err(Invalid::new("", reason))
        }
        _ => Ok(bytes.into()),
    }
}

fn pattern(field: &str, text: &str, one_label: bool) -> Result<HostPattern, Invalid> {
    let pattern = HostPattern::parse(text);
    let pattern = pattern.ok_or_else(|| Invalid::new(field, "is no host, and no `*.suffix`"))?;
    Ok(if one_label {
        pattern.of_one_label()
    } else {
        pattern
    })
}

fn text(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => String::new(),
        pattern => pattern.to_string(),
    }
}
