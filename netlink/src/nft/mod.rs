//! Tables, chains and rules of nf_tables, in the `inet` family (IPv4 and IPv6 in one table).
//!
//! Enters: a [`Table`] of typed rules. Leaves: the kernel's ruleset, changed in one transaction, or an error that
//! names the rule that was refused. Never happens: a moment without rules while a table is replaced, a change to
//! another table, a rule that matches more than it says (a rule about an IPv4 address never sees IPv6 packets, a rule
//! about a TCP port never sees UDP).
//!
//! ```no_run
//! use weft_netlink::nft::*;
//! # fn main() -> Result<(), weft_netlink::Error> {
//! let mut table = Table::new("weft");
//! let output = table.chain(Chain::nat("output", Hook::Output, priority::DNAT));
//! output.rule([Match::user(1337)], Verdict::Return);
//! output.rule([Match::protocol(Protocol::Tcp), !Match::output("lo")], Verdict::Redirect(15001));
//! table.replace()?;
//! # Ok(()) }
//! ```

mod batch;
mod expression;
mod kernel;
mod rule;

pub use rule::{Direction, Match, Protocol, Rule, State, Verdict};

use crate::Error;

/// A chain's place among others at the same hook: lower comes first.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// After connection tracking, before any address is translated.
    pub const MANGLE: i32 = -150;
    /// Where destinations are translated (pre-routing and output).
    pub const DNAT: i32 = -100;
    /// Where packets are let through or not.
    pub const FILTER: i32 = 0;
    /// Where sources are translated (post-routing and input).
    pub const SNAT: i32 = 100;
}

/// Where in a packet's way a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Just received, before the routing decision.
    Prerouting = 0,
    /// For this network namespace.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// Made in this network namespace.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Let through, drop, reject; sees every packet.
    Filter,
    /// Translate addresses; sees the first packet of a connection, all others follow it.
    Nat,
    /// Mark packets so that they are routed anew (output only).
    Route,
}

/// How a chain is tied to a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where it sits.
    pub hook: Hook,
    /// Its place among the hook's chains, see [`priority`].
    pub priority: i32,
    /// Whether a packet that no rule decided is dropped (else let through).
    pub drop: bool,
}

/// A list of rules, tried in order until one decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Unique in the table, 1 to 127 bytes.
    pub name: String,
    /// The hook; a chain without one is reached by [`Verdict::Jump`] only.
    pub base: Option<Base>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that others jump to.
    pub fn plain(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            base: None,
            rules: Vec::new(),
        }
    }

    /// A chain that translates addresses.
    pub fn nat(name: impl Into<String>, hook: Hook, priority: i32) -> Self {
        Self::based(name, ChainKind::Nat, hook, priority)
    }

    /// A chain that filters; what no rule decides passes.
    pub fn filter(name: impl Into<String>, hook: Hook, priority: i32) -> Self {
        Self::based(name, ChainKind::Filter, hook, priority)
    }

    fn based(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        let base = Some(Base {
            kind,
            hook,
            priority,
            drop: false,
        });
        Self {
            name: name.into(),
            base,
            rules: Vec::new(),
        }
    }

    /// Adds a rule at the end.
    pub fn rule(&mut self, matches: impl IntoIterator<Item = Match>, verdict: Verdict) -> &mut Rule {
        let at = self.rules.len();
        self.rules.push(Rule::new(matches, verdict));
        &mut self.rules[at]
    }
}

/// A table of the `inet` family: Weft's own; other tables are never touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Unique in the network namespace, 1 to 127 bytes.
    pub name: String,
    /// The chains; one must come before those that jump to it only in the kernel's eyes, the writer sees to that.
    pub chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            chains: Vec::new(),
        }
    }

    /// Adds a chain and lends it out to be filled.
    pub fn chain(&mut self, chain: Chain) -> &mut Chain {
        let at = self.chains.len();
        self.chains.push(chain);
        &mut self.chains[at]
    }

    /// Puts the table in force, in place of one with the same name, in one transaction.
    ///
    /// # Errors
    /// The first rule that the kernel refuses; the old table is still in force then.
    pub fn replace(&self) -> Result<(), Error> {
        batch::replace(self)
    }

    /// Puts other rules into the chains, in one transaction; cheaper than [`Table::replace`], because the hooks stay.
    /// Chains that do not exist yet are made, those not named lose their rules. Connections that were translated
    /// already keep their translation.
    ///
    /// # Errors
    /// As for [`Table::replace`]; also when a chain exists with another hook.
    pub fn refill(&self) -> Result<(), Error> {
        batch::refill(self)
    }

    /// Removes the table of this name and all in it; one that does not exist is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete(name: &str) -> Result<(), Error> {
        batch::delete(name)
    }
}
