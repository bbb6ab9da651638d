//! One rule: what it matches, what it decides.

use std::net::SocketAddr;
use std::ops::{Not, RangeInclusive};

use ipnet::IpNet;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP (6).
    Tcp = 6,
    /// UDP (17).
    Udp = 17,
}

/// What connection tracking says of a packet; several may be asked for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub(super) u32);

impl State {
    /// Belongs to no connection that makes sense.
    pub const INVALID: State = State(1);
    /// Belongs to a connection that saw both directions.
    pub const ESTABLISHED: State = State(2);
    /// Belongs to an error about, or a child of, a known connection.
    pub const RELATED: State = State(4);
    /// Starts a connection.
    pub const NEW: State = State(8);

    /// Either of the two.
    pub const fn or(self, other: State) -> State {
        State(self.0 | other.0)
    }
}

/// Which way a packet goes in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// As the first packet.
    Original = 0,
    /// Against the first packet.
    Reply = 1,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    V4,
    Protocol(Protocol),
    Source(IpNet),
    Destination(IpNet),
    Port {
        protocol: Protocol,
        destination: bool,
        range: RangeInclusive<u16>,
    },
    User(u32),
    Group(u32),
    Mark(u32),
    Input(String),
    Output(String),
    LocalDestination,
    State(State),
    Direction(Direction),
    OneIn {
        modulus: u32,
        value: u32,
    },
}

/// A condition on a packet; `!condition` is its opposite.
///
/// The opposite of a condition on an address or a port is still about that family or protocol only:
/// `!Match::destination("10.0.0.0/8")` matches IPv4 packets to elsewhere and no IPv6 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub(super) field: Field,
    pub(super) negate: bool,
}

impl Not for Match {
    type Output = Match;

    fn not(self) -> Match {
        Match {
            negate: !self.negate,
            ..self
        }
    }
}

impl Match {
    fn new(field: Field) -> Self {
        Self { field, negate: false }
    }

    /// An IPv4 packet (the opposite is an IPv6 packet).
    pub fn v4() -> Self {
        Self::new(Field::V4)
    }

    /// A packet of this transport protocol.
    pub fn protocol(protocol: Protocol) -> Self {
        Self::new(Field::Protocol(protocol))
    }

    /// The source address is in this network.
    pub fn source(network: impl Into<IpNet>) -> Self {
        Self::new(Field::Source(network.into()))
    }

    /// The destination address is in this network.
    pub fn destination(network: impl Into<IpNet>) -> Self {
        Self::new(Field::Destination(network.into()))
    }

    /// The destination port of this protocol is this one.
    pub fn port(protocol: Protocol, port: u16) -> Self {
        Self::ports(protocol, port..=port)
    }

    /// The destination port of this protocol is in this range.
    pub fn ports(protocol: Protocol, range: RangeInclusive<u16>) -> Self {
        Self::new(Field::Port {
            protocol,
            destination: true,
            range,
        })
    }

    /// The source port of this protocol is in this range.
    pub fn source_ports(protocol: Protocol, range: RangeInclusive<u16>) -> Self {
        Self::new(Field::Port {
            protocol,
            destination: false,
            range,
        })
    }

    /// The packet comes from a local socket of this user (as numbered in the user namespace of the writer).
    pub fn user(id: u32) -> Self {
        Self::new(Field::User(id))
    }

    /// The packet comes from a local socket of this group.
    pub fn group(id: u32) -> Self {
        Self::new(Field::Group(id))
    }

    /// The packet carries exactly this mark (`SO_MARK` of its socket).
    pub fn mark(mark: u32) -> Self {
        Self::new(Field::Mark(mark))
    }

    /// The packet came in by this interface; a name that ends in `*` is a prefix. At most 15 bytes.
    pub fn input(interface: impl Into<String>) -> Self {
        Self::new(Field::Input(interface.into()))
    }

    /// The packet goes out by this interface; a name that ends in `*` is a prefix. At most 15 bytes.
    pub fn output(interface: impl Into<String>) -> Self {
        Self::new(Field::Output(interface.into()))
    }

    /// The destination is an address of this network namespace.
    pub fn local_destination() -> Self {
        Self::new(Field::LocalDestination)
    }

    /// The connection is in one of these states.
    pub fn state(state: State) -> Self {
        Self::new(Field::State(state))
    }

    /// The packet goes this way in its connection.
    pub fn direction(direction: Direction) -> Self {
        Self::new(Field::Direction(direction))
    }

    /// True at random once in `modulus` times (1 or more; 1 is always).
    pub fn one_in(modulus: u32) -> Self {
        Self::new(Field::OneIn { modulus, value: 0 })
    }
}

/// What happens to a packet that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Passes this hook's chain (chains of a later priority still see it).
    Accept,
    /// Vanishes.
    Drop,
    /// Back to the chain that jumped here; from a base chain: its policy.
    Return,
    /// Through another chain of the table, and on from here if that decides nothing.
    Jump(String),
    /// To this port of this namespace (NAT chains at output or pre-routing; needs a protocol condition).
    Redirect(u16),
    /// To this address and port (NAT chains at output or pre-routing; needs a protocol condition).
    Dnat(SocketAddr),
    /// From the address of the interface that it leaves by (NAT chains at post-routing).
    Masquerade,
    /// Refused with a TCP reset (needs a TCP condition).
    Reset,
    /// Refused with ICMP port unreachable.
    Unreachable,
    /// Gets this mark, and on to the next rule.
    Mark(u32),
}

/// All conditions must hold, then the verdict falls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
    /// Count packets and bytes that matched.
    pub counted: bool,
    /// Shown by `nft list ruleset`; cut to 120 bytes.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without counter and comment.
    pub fn new(matches: impl IntoIterator<Item = Match>, verdict: Verdict) -> Self {
        Self {
            matches: matches.into_iter().collect(),
            verdict,
            counted: false,
            comment: None,
        }
    }

    /// Counts what matched.
    pub fn counted(&mut self) -> &mut Self {
        self.counted = true;
        self
    }

    /// Says what the rule is for.
    pub fn comment(&mut self, comment: impl Into<String>) -> &mut Self {
        self.comment = Some(comment.into());
        self
    }
}
