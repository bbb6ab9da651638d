//! `weft init`: the interception rules of one pod.
//!
//! Enters: the environment that the injector sets. Leaves: one nftables table, `inet weft`, in the pod's network namespace;
//! running it again gives the same. Never: a rule for another namespace, a change to tables of others, a rule that sends
//! the sidecar's own traffic back to it.
//!
//! ```text
//! output      the sidecar's own ── as it is      this pod ── as it is      excluded ── as it is      TCP ──> 15001
//! prerouting  from loopback ── as it is   the sidecar's ports ── as they are   excluded ── as it is   TCP ──> 15006
//! ```

use std::collections::BTreeSet;

use ipnet::IpNet;
use weft_netlink::nft::{Chain, Hook, Match, Protocol, Table, Verdict, priority};
use weft_proto::model::annotations::{self as names, env};

/// Most ports or ranges of one list.
const MAX_LIST: usize = 256;
/// Name of the table.
const TABLE: &str = "weft";

/// What is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// Uid of the sidecar.
    pub uid: u32,
    /// Mark of the sidecar's sockets, where a uid can't tell.
    pub mark: Option<u32>,
    /// Where outbound connections are sent.
    pub outbound: u16,
    /// Where inbound connections are sent.
    pub inbound: u16,
    /// Inbound ports that are intercepted; `None`: all.
    pub include_inbound: Option<BTreeSet<u16>>,
    /// Inbound ports that are not.
    pub exclude_inbound: BTreeSet<u16>,
    /// Destination ports that are intercepted whatever the ranges are.
    pub include_outbound_ports: BTreeSet<u16>,
    /// Destination ports that are not.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Destinations that are intercepted; `None`: all.
    pub include_outbound: Option<Vec<IpNet>>,
    /// Destinations that are not.
    pub exclude_outbound: Vec<IpNet>,
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum NotIntercepted {
    /// A variable can't be used.
    #[error("environment variable {name}: {reason}; it comes from the pod's annotations")]
    Value {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The kernel refuses.
    #[error(
        "the kernel refuses the interception rules: {0}; the init container needs CAP_NET_ADMIN and the kernel nf_tables with NAT"
    )]
    Kernel(#[from] weft_netlink::Error),
}

/// Reads the environment and writes the rules.
///
/// # Errors
/// Why there are none; the pod must not start then.
pub fn run() -> Result<(), NotIntercepted> {
    let interception = Interception::read(|name| std::env::var(name).ok())?;
    interception.table().replace()?;
    tracing::info!(
        outbound = interception.outbound,
        inbound = interception.inbound,
        "interception rules are in force"
    );
    Ok(())
}

impl Default for Interception {
    fn default() -> Self {
        Self {
            uid: names::PROXY_UID,
            mark: None,
            outbound: names::PORT_OUTBOUND,
            inbound: names::PORT_INBOUND,
            include_inbound: None,
            exclude_inbound: BTreeSet::new(),
            include_outbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            include_outbound: None,
            exclude_outbound: Vec::new(),
        }
    }
}

impl Interception {
    /// Reads variables by `lookup`.
    ///
    /// # Errors
    /// The first one that can't be used, and why.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, NotIntercepted> {
        let number = |name: &'static str| match lookup(name) {
            None => Ok(None),
            Some(text) if text.trim().is_empty() => Ok(None),
            Some(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| wrong(name, format!("{text:?} is no number"))),
        };
        let port = |name: &'static str, part: &str| match part.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(wrong(name, format!("{part:?} is no port from 1 to 65535"))),
        };
        let range = |name: &'static str, part: &str| {
            let network = part
                .parse::<IpNet>()
                .or_else(|_| part.parse().map(|ip: std::net::IpAddr| ip.into()));
            network
                .map(|network: IpNet| network.trunc())
                .map_err(|_| wrong(name, format!("{part:?} is no CIDR")))
        };
        let ports = |name: &'static str| -> Result<BTreeSet<u16>, NotIntercepted> {
            list(name, lookup(name).as_deref().unwrap_or_default())?
                .map(|part| port(name, part))
                .collect()
        };
        let ranges = |name: &'static str| -> Result<Vec<IpNet>, NotIntercepted> {
            list(name, lookup(name).as_deref().unwrap_or_default())?
                .map(|part| range(name, part))
                .collect()
        };
        let all = |name: &'static str| lookup(name).is_none_or(|text| text.trim() == "*");
        Ok(Self {
            uid: number(env::PROXY_UID)?.unwrap_or(names::PROXY_UID),
            mark: number(env::SOCKET_MARK)?.filter(|mark| *mark != 0),
            include_inbound: match all(env::INCLUDE_INBOUND_PORTS) {
                true => None,
                false => Some(ports(env::INCLUDE_INBOUND_PORTS)?),
            },
            exclude_inbound: ports(env::EXCLUDE_INBOUND_PORTS)?,
            include_outbound_ports: ports(env::INCLUDE_OUTBOUND_PORTS)?,
            exclude_outbound_ports: ports(env::EXCLUDE_OUTBOUND_PORTS)?,
            include_outbound: match all(env::INCLUDE_OUTBOUND_RANGES) {
                true => None,
                false => Some(ranges(env::INCLUDE_OUTBOUND_RANGES)?),
            },
            exclude_outbound: ranges(env::EXCLUDE_OUTBOUND_RANGES)?,
            ..Self::default()
        })
    }

    /// The rules.
    pub fn table(&self) -> Table {
        let mut table = Table::new(TABLE);
        self.output(table.chain(Chain::nat("output", Hook::Output, priority::DNAT)));
        self.prerouting(table.chain(Chain::nat("prerouting", Hook::Prerouting, priority::DNAT)));
        table
    }

    fn output(&self, chain: &mut Chain) {
        let tcp = || Match::protocol(Protocol::Tcp);
        let port = |port: u16| Match::port(Protocol::Tcp, port);
        chain
            .rule([Match::user(self.uid)], Verdict::Return)
            .comment("the sidecar's own, by uid");
        if let Some(mark) = self.mark {
            chain
                .rule([Match::mark(mark)], Verdict::Return)
                .comment("the sidecar's own, by mark");
        }
        chain
            .rule([Match::output("lo")], Verdict::Return)
            .comment("inside the pod");
        chain
            .rule([Match::local_destination()], Verdict::Return)
            .comment("to the pod itself");
        for excluded in &self.exclude_outbound_ports {
            chain.rule([port(*excluded)], Verdict::Return);
        }
        for excluded in &self.exclude_outbound {
            chain.rule([Match::destination(*excluded)], Verdict::Return);
        }
        for included in &self.include_outbound_ports {
            chain.rule([port(*included)], Verdict::Redirect(self.outbound));
        }
        match &self.include_outbound {
            None => {
                chain
                    .rule([tcp()], Verdict::Redirect(self.outbound))
                    .comment("to the sidecar");
            }
            Some(ranges) => {
                for range in ranges {
                    chain.rule(
                        [tcp(), Match::destination(*range)],
                        Verdict::Redirect(self.outbound),
                    );
                }
            }
        }
    }

    fn prerouting(&self, chain: &mut Chain) {
        let port = |port: u16| Match::port(Protocol::Tcp, port);
        chain
            .rule([Match::input("lo")], Verdict::Return)
            .comment("inside the pod");
        for own in names::SIDECAR_PORTS {
            chain
                .rule([port(own)], Verdict::Return)
                .comment("the sidecar's own port");
        }
        for excluded in &self.exclude_inbound {
            chain.rule([port(*excluded)], Verdict::Return);
        }
        match &self.include_inbound {
            None => {
                let tcp = Match::protocol(Protocol::Tcp);
                chain
                    .rule([tcp], Verdict::Redirect(self.inbound))
                    .comment("to the sidecar");
            }
            Some(ports) => {
                for included in ports {
                    chain.rule([port(*included)], Verdict::Redirect(self.inbound));
                }
            }
        }
    }
}

fn wrong(name: &'static str, reason: impl Into<String>) -> NotIntercepted {
    NotIntercepted::Value {
        name,
        reason: reason.into(),
    }
}

fn list<'a>(name: &'static str, text: &'a str) -> Result<impl Iterator<Item = &'a str>, NotIntercepted> {
    let parts = || {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty() && *part != "*")
    };
    if parts().count() > MAX_LIST {
        Err(wrong(name, "more than 256 entries"))
    } else {
        Ok(parts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Interception, NotIntercepted> {
        Interception::read(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_intercepts_everything() {
        assert_eq!(read(&[]).unwrap(), Interception::default());
        let table = Interception {
            mark: Some(1337),
            ..Interception::default()
        }
        .table();
        let [output, prerouting] = &table.chains[..] else {
            panic!("two chains")
        };
        let verdicts = |chain: &Chain| {
            chain
                .rules
                .iter()
                .map(|rule| rule.verdict.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(output.rules[0].matches, [Match::user(1337)]);
        assert_eq!(output.rules[1].matches, [Match::mark(1337)]);
        assert_eq!(verdicts(output).last(), Some(&Verdict::Redirect(15001)));
        assert_eq!(verdicts(prerouting).last(), Some(&Verdict::Redirect(15006)));
        let returns = verdicts(prerouting)
            .iter()
            .filter(|verdict| **verdict == Verdict::Return)
            .count();
        assert_eq!(returns, 1 + names::SIDECAR_PORTS.len());
    }

    #[test]
    fn lists_are_read() {
        let interception = read(&[
            ("WEFT_SOCKET_MARK", "1337"),
            ("WEFT_INCLUDE_INBOUND_PORTS", "80, 8080"),
            ("WEFT_EXCLUDE_OUTBOUND_PORTS", "5432"),
            ("WEFT_INCLUDE_OUTBOUND_RANGES", "10.96.0.1/16,fd00::/8"),
            ("WEFT_EXCLUDE_OUTBOUND_RANGES", "169.254.169.254"),
        ])
        .unwrap();
        assert_eq!(interception.include_inbound, Some([80, 8080].into()));
        assert_eq!(
            interception.include_outbound.unwrap()[0].to_string(),
            "10.96.0.0/16"
        );
        assert_eq!(interception.exclude_outbound[0].to_string(), "169.254.169.254/32");
        // Set but empty: none.
        assert_eq!(
            read(&[("WEFT_INCLUDE_INBOUND_PORTS", "")])
                .unwrap()
                .include_inbound,
            Some([].into())
        );
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value) in [
            ("WEFT_EXCLUDE_INBOUND_PORTS", "http"),
            ("WEFT_EXCLUDE_INBOUND_PORTS", "0"),
            ("WEFT_INCLUDE_OUTBOUND_RANGES", "10.0.0.0/33"),
            ("WEFT_PROXY_UID", "root"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let many = vec!["1"; MAX_LIST + 1].join(",");
        assert!(read(&[("WEFT_EXCLUDE_INBOUND_PORTS", &many)]).is_err());
    }
}
