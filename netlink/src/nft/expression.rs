//! From rules to nf_tables expressions, the kernel's small machine of registers.
//!
//! Enters: conditions and verdicts. Leaves: a list of expressions, with the checks of family and protocol that a
//! condition implies written once per rule. Never happens: a port read from a packet that is not TCP or UDP, an
//! address from one of the other family.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::kernel::*;
use super::rule::{Field, Match, Protocol, Rule, Verdict};
use crate::Error;
use crate::wire::Writer;

/// Longest name of an interface, without its NUL.
const INTERFACE_NAME: usize = 15;

/// Writes a rule's expressions into the list that `w` is at.
pub(super) fn rule(w: &mut Writer, rule: &Rule) {
    let mut known = Known::default();
    for m in &rule.matches {
        condition(w, m, &mut known);
    }
    if rule.counted {
        expression(w, "counter", |_| {});
    }
    verdict(w, &rule.verdict);
}

/// Refuses what the kernel would misread.
pub(super) fn check(rule: &Rule) -> Result<(), Error> {
    for m in &rule.matches {
        match &m.field {
            Field::Input(name) | Field::Output(name)
                if name.is_empty() || name == "*" || name.len() > INTERFACE_NAME =>
            {
                let reason = format!("interface name {name:?} must have 1 to {INTERFACE_NAME} bytes");
                return Err(Error::Invalid(reason));
            }
            Field::OneIn { modulus: 0, .. } => {
                return Err(Error::Invalid("once in 0 times is not a probability".into()));
            }
            Field::Port { range, .. } if range.is_empty() => {
                return Err(Error::Invalid(format!("port range {range:?} is empty")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the conditions so far have made sure of.
#[derive(Default)]
struct Known {
    family: Option<u8>,
    protocol: Option<Protocol>,
}

fn condition(w: &mut Writer, m: &Match, known: &mut Known) {
    let operator = if m.negate { NFT_CMP_NEQ } else { NFT_CMP_EQ };
    match &m.field {
        Field::V4 => {
            let family = if m.negate { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
            require_family(w, family, known);
        }
        Field::Protocol(p) if m.negate => {
            meta(w, NFT_META_L4PROTO);
            compare(w, NFT_CMP_NEQ, &[*p as u8]);
        }
        Field::Protocol(p) => require_protocol(w, *p, known),
        Field::Source(network) => address(w, network, true, operator, known),
        Field::Destination(network) => address(w, network, false, operator, known),
        Field::Port {
            protocol,
            destination,
            range,
        } => {
            require_protocol(w, *protocol, known);
            payload(
                w,
                NFT_PAYLOAD_TRANSPORT_HEADER,
                if *destination { 2 } else { 0 },
                2,
            );
            let (low, high) = (range.start().to_be_bytes(), range.end().to_be_bytes());
            if low == high {
                compare(w, operator, &low);
            } else {
                expression(w, "range", |w| {
                    w.be32(NFTA_RANGE_SREG, NFT_REG_1);
                    w.be32(NFTA_RANGE_OP, operator);
                    value(w, NFTA_RANGE_FROM_DATA, &low);
                    value(w, NFTA_RANGE_TO_DATA, &high);
                });
            }
        }
        Field::User(id) => meta_is(w, NFT_META_SKUID, operator, *id),
        Field::Group(id) => meta_is(w, NFT_META_SKGID, operator, *id),
        Field::Mark(mark) => meta_is(w, NFT_META_MARK, operator, *mark),
        Field::Input(name) => interface(w, NFT_META_IIFNAME, operator, name),
        Field::Output(name) => interface(w, NFT_META_OIFNAME, operator, name),
        Field::LocalDestination => {
            expression(w, "fib", |w| {
                w.be32(NFTA_FIB_DREG, NFT_REG_1);
                w.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                w.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            });
            compare(w, operator, &RTN_LOCAL.to_ne_bytes());
        }
        Field::State(state) => {
            connection(w, NFT_CT_STATE);
            mask(w, &state.0.to_ne_bytes());
            // In one of the states: what is left of the mask is not zero.
            let operator = if m.negate { NFT_CMP_EQ } else { NFT_CMP_NEQ };
            compare(w, operator, &0u32.to_ne_bytes());
        }
        Field::Direction(direction) => {
            connection(w, NFT_CT_DIRECTION);
            compare(w, operator, &[*direction as u8]);
        }
        Field::OneIn { modulus, value } => {
            expression(w, "numgen", |w| {
                w.be32(NFTA_NG_DREG, NFT_REG_1);
                w.be32(NFTA_NG_MODULUS, *modulus);
                w.be32(NFTA_NG_TYPE, NFT_NG_RANDOM);
            });
            compare(w, operator, &value.to_ne_bytes());
        }
    }
}

fn verdict(w: &mut Writer, verdict: &Verdict) {
    match verdict {
        Verdict::Accept => decide(w, NF_ACCEPT, None),
        Verdict::Drop => decide(w, NF_DROP, None),
        Verdict::Return => decide(w, NFT_RETURN, None),
        Verdict::Jump(chain) => decide(w, NFT_JUMP, Some(chain)),
        Verdict::Redirect(port) => {
            immediate(w, NFT_REG_1, &port.to_be_bytes());
            expression(w, "redir", |w| w.be32(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1));
        }
        Verdict::Dnat(to) => dnat(w, to),
        Verdict::Masquerade => expression(w, "masq", |_| {}),
        Verdict::Reset => reject(w, NFT_REJECT_TCP_RST, 0),
        Verdict::Unreachable => reject(w, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH),
        Verdict::Mark(mark) => {
            immediate(w, NFT_REG_1, &mark.to_ne_bytes());
            expression(w, "meta", |w| {
                w.be32(NFTA_META_KEY, NFT_META_MARK);
                w.be32(NFTA_META_SREG, NFT_REG_1);
            });
        }
    }
}

fn dnat(w: &mut Writer, to: &SocketAddr) {
    let family = match to.ip() {
        IpAddr::V4(ip) => {
            immediate(w, NFT_REG_1, &ip.octets());
            NFPROTO_IPV4
        }
        IpAddr::V6(ip) => {
            immediate(w, NFT_REG_1, &ip.octets());
            NFPROTO_IPV6
        }
    };
    immediate(w, NFT_REG_2, &to.port().to_be_bytes());
    expression(w, "nat", |w| {
        w.be32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
        w.be32(NFTA_NAT_FAMILY, u32::from(family));
        w.be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
        w.be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
    });
}

fn address(w: &mut Writer, network: &IpNet, source: bool, operator: u32, known: &mut Known) {
    match network {
        IpNet::V4(n) => {
            require_family(w, NFPROTO_IPV4, known);
            payload(w, NFT_PAYLOAD_NETWORK_HEADER, if source { 12 } else { 16 }, 4);
            if n.prefix_len() < 32 {
                mask(w, &n.netmask().octets());
            }
            compare(w, operator, &n.network().octets());
        }
        IpNet::V6(n) => {
            require_family(w, NFPROTO_IPV6, known);
            payload(w, NFT_PAYLOAD_NETWORK_HEADER, if source { 8 } else { 24 }, 16);
            if n.prefix_len() < 128 {
                mask(w, &n.netmask().octets());
            }
            compare(w, operator, &n.network().octets());
        }
    }
}

fn interface(w: &mut Writer, key: u32, operator: u32, name: &str) {
    meta(w, key);
    match name.strip_suffix('*') {
        Some(prefix) => compare(w, operator, prefix.as_bytes()),
        None => {
            let mut padded = [0u8; 16];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            compare(w, operator, &padded);
        }
    }
}

fn require_family(w: &mut Writer, family: u8, known: &mut Known) {
    if known.family != Some(family) {
        meta(w, NFT_META_NFPROTO);
        compare(w, NFT_CMP_EQ, &[family]);
        known.family = Some(family);
    }
}

fn require_protocol(w: &mut Writer, protocol: Protocol, known: &mut Known) {
    if known.protocol != Some(protocol) {
        meta(w, NFT_META_L4PROTO);
        compare(w, NFT_CMP_EQ, &[protocol as u8]);
        known.protocol = Some(protocol);
    }
}

fn meta_is(w: &mut Writer, key: u32, operator: u32, expected: u32) {
    meta(w, key);
    compare(w, operator, &expected.to_ne_bytes());
}

fn meta(w: &mut Writer, key: u32) {
    expression(w, "meta", |w| {
        w.be32(NFTA_META_DREG, NFT_REG_1);
        w.be32(NFTA_META_KEY, key);
    });
}

fn connection(w: &mut Writer, key: u32) {
    expression(w, "ct", |w| {
        w.be32(NFTA_CT_DREG, NFT_REG_1);
        w.be32(NFTA_CT_KEY, key);
    });
}

fn payload(w: &mut Writer, base: u32, offset: u32, length: u32) {
    expression(w, "payload", |w| {
        w.be32(NFTA_PAYLOAD_DREG, NFT_REG_1);
        w.be32(NFTA_PAYLOAD_BASE, base);
        w.be32(NFTA_PAYLOAD_OFFSET, offset);
        w.be32(NFTA_PAYLOAD_LEN, length);
    });
}

fn mask(w: &mut Writer, bits: &[u8]) {
    expression(w, "bitwise", |w| {
        w.be32(NFTA_BITWISE_SREG, NFT_REG_1);
        w.be32(NFTA_BITWISE_DREG, NFT_REG_1);
        w.be32(NFTA_BITWISE_LEN, bits.len() as u32);
        value(w, NFTA_BITWISE_MASK, bits);
        value(w, NFTA_BITWISE_XOR, &[0; 16][..bits.len()]);
    });
}

fn compare(w: &mut Writer, operator: u32, expected: &[u8]) {
    expression(w, "cmp", |w| {
        w.be32(NFTA_CMP_SREG, NFT_REG_1);
        w.be32(NFTA_CMP_OP, operator);
        value(w, NFTA_CMP_DATA, expected);
    });
}

fn immediate(w: &mut Writer, register: u32, bytes: &[u8]) {
    expression(w, "immediate", |w| {
        w.be32(NFTA_IMMEDIATE_DREG, register);
        value(w, NFTA_IMMEDIATE_DATA, bytes);
    });
}

fn decide(w: &mut Writer, code: i32, chain: Option<&str>) {
    expression(w, "immediate", |w| {
        w.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        w.nest(NFTA_IMMEDIATE_DATA, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| {
                w.be32(NFTA_VERDICT_CODE, code as u32);
                if let Some(chain) = chain {
                    w.string(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

fn reject(w: &mut Writer, kind: u32, code: u8) {
    expression(w, "reject", |w| {
        w.be32(NFTA_REJECT_TYPE, kind);
        w.attribute(NFTA_REJECT_ICMP_CODE, &[code]);
    });
}

fn value(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.attribute(NFTA_DATA_VALUE, bytes));
}

fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.string(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, data);
    });
}
