//! Authorization policies.

use super::matcher::{all, all_wire};
use super::{Invalid, each, port};
use crate::model::{Action, Operation, Policy, PolicyRule, Source};
use crate::wire::v1;
use ipnet::IpNet;
use std::net::IpAddr;

/// Most rules of one policy.
const MOST_RULES: usize = 1_000;

impl TryFrom<v1::Policy> for Policy {
    type Error = Invalid;
    fn try_from(wire: v1::Policy) -> Result<Self, Invalid> {
        let action = match v1::Action::try_from(wire.action) {
            Ok(v1::Action::Allow) => Action::Allow,
            Ok(v1::Action::Deny) => Action::Deny,
            _ => {
                return Err(Invalid::new(
                    "action",
                    format!("{} is no action that this version knows", wire.action),
                ));
            }
        };
        if wire.rules.len() > MOST_RULES {
            return Err(Invalid::new(
                "rules",
                format!("has {}; at most {MOST_RULES} are allowed", wire.rules.len()),
            ));
        }
        let origin: crate::model::Origin = wire.origin.unwrap_or_default().into();
        if origin.name.is_empty() {
            return Err(Invalid::new("origin.name", "is missing"));
        }
        Ok(Self {
            origin,
            action,
            rules: each("rules", wire.rules, PolicyRule::try_from)?,
        })
    }
}

impl From<&Policy> for v1::Policy {
    fn from(policy: &Policy) -> Self {
        let action = match policy.action {
            Action::Allow => v1::Action::Allow,
            Action::Deny => v1::Action::Deny,
        };
        Self {
            origin: Some((&policy.origin).into()),
            action: action.into(),
            rules: policy.rules.iter().map(v1::PolicyRule::from).collect(),
        }
    }
}

impl TryFrom<v1::PolicyRule> for PolicyRule {
    type Error = Invalid;
    fn try_from(wire: v1::PolicyRule) -> Result<Self, Invalid> {
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            from: each("from", wire.from, Source::try_from)?,
            to: each("to", wire.to, Operation::try_from)?,
            unsupported: (!wire.unsupported.is_empty()).then(|| wire.unsupported.into()),
        })
    }
}

impl From<&PolicyRule> for v1::PolicyRule {
    fn from(rule: &PolicyRule) -> Self {
        Self {
            origin: Some((&rule.origin).into()),
            from: rule.from.iter().map(v1::PolicySource::from).collect(),
            to: rule.to.iter().map(v1::PolicyOperation::from).collect(),
            unsupported: rule.unsupported.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

impl TryFrom<v1::PolicySource> for Source {
    type Error = Invalid;
    fn try_from(wire: v1::PolicySource) -> Result<Self, Invalid> {
        Ok(Self {
            principals: all("principals", wire.principals)?,
            not_principals: all("not_principals", wire.not_principals)?,
            namespaces: all("namespaces", wire.namespaces)?,
            not_namespaces: all("not_namespaces", wire.not_namespaces)?,
            ip_blocks: each("ip_blocks", wire.ip_blocks, |text| block(&text))?,
            not_ip_blocks: each("not_ip_blocks", wire.not_ip_blocks, |text| block(&text))?,
        })
    }
}

impl From<&Source> for v1::PolicySource {
    fn from(source: &Source) -> Self {
        Self {
            principals: all_wire(&source.principals),
            not_principals: all_wire(&source.not_principals),
            namespaces: all_wire(&source.namespaces),
            not_namespaces: all_wire(&source.not_namespaces),
            ip_blocks: source.ip_blocks.iter().map(ToString::to_string).collect(),
            not_ip_blocks: source.not_ip_blocks.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::PolicyOperation> for Operation {
    type Error = Invalid;
    fn try_from(wire: v1::PolicyOperation) -> Result<Self, Invalid> {
        Ok(Self {
            ports: each("ports", wire.ports, |number| port("", number))?,
            not_ports: each("not_ports", wire.not_ports, |number| port("", number))?,
            methods: all("methods", wire.methods)?,
            not_methods: all("not_methods", wire.not_methods)?,
            paths: all("paths", wire.paths)?,
            not_paths: all("not_paths", wire.not_paths)?,
            hosts: all("hosts", wire.hosts)?,
            not_hosts: all("not_hosts", wire.not_hosts)?,
        })
    }
}

impl From<&Operation> for v1::PolicyOperation {
    fn from(operation: &Operation) -> Self {
        Self {
            ports: operation.ports.iter().map(|port| u32::from(*port)).collect(),
            not_ports: operation.not_ports.iter().map(|port| u32::from(*port)).collect(),
            methods: all_wire(&operation.methods),
            not_methods: all_wire(&operation.not_methods),
            paths: all_wire(&operation.paths),
            not_paths: all_wire(&operation.not_paths),
            hosts: all_wire(&operation.hosts),
            not_hosts: all_wire(&operation.not_hosts),
        }
    }
}

/// A CIDR, or one address.
fn block(text: &str) -> Result<IpNet, Invalid> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| Invalid::new("", format!("{text:?} is no address and no CIDR")))
}
