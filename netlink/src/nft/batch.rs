//! One transaction: all of a table or nothing.
//!
//! Enters: a table. Leaves: the batch's messages in the order that the kernel needs (table, chains, rules). Never
//! happens: a message outside of a transaction.

use super::kernel::*;
use super::{ChainKind, Table, expression};
use crate::Error;
use crate::socket::Exchange;
use crate::wire::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};

/// Longest name of a table or chain, without its NUL (the kernel's `NFT_NAME_MAXLEN`, halved to stay readable).
const NAME: usize = 127;
/// Longest comment in bytes, without its NUL; the kernel takes 256 for all user data.
const COMMENT: usize = 120;

pub(super) fn replace(table: &Table) -> Result<(), Error> {
    let mut batch = Batch::begin();
    batch.table(NFT_MSG_NEWTABLE, &table.name)?;
    batch.table(NFT_MSG_DELTABLE, &table.name)?;
    batch.table(NFT_MSG_NEWTABLE, &table.name)?;
    batch.fill(table)?;
    batch.commit()
}

pub(super) fn refill(table: &Table) -> Result<(), Error> {
    let mut batch = Batch::begin();
    batch.table(NFT_MSG_NEWTABLE, &table.name)?;
    let what = format!("empty the chains of table {}", table.name);
    batch.push(what, NFT_MSG_DELRULE, 0, |w| {
        w.string(NFTA_RULE_TABLE, &table.name)
    });
    batch.fill(table)?;
    batch.commit()
}

pub(super) fn delete(name: &str) -> Result<(), Error> {
    let mut batch = Batch::begin();
    batch.table(NFT_MSG_NEWTABLE, name)?;
    batch.table(NFT_MSG_DELTABLE, name)?;
    batch.commit()
}

struct Batch {
    exchange: Exchange,
    acked: usize,
}

impl Batch {
    fn begin() -> Self {
        let mut exchange = Exchange::default();
        let header = header(NFPROTO_UNSPEC, BATCH_SUBSYSTEM);
        exchange.push("begin a transaction", NFNL_MSG_BATCH_BEGIN, 0, &header, |_| {});
        Self { exchange, acked: 0 }
    }

    fn commit(mut self) -> Result<(), Error> {
        let header = header(NFPROTO_UNSPEC, BATCH_SUBSYSTEM);
        self.exchange
            .push("commit the transaction", NFNL_MSG_BATCH_END, 0, &header, |_| {});
        self.exchange.send(NETLINK_NETFILTER, self.acked)
    }

    fn push(
        &mut self,
        what: String,
        kind: u16,
        flags: u16,
        attributes: impl FnOnce(&mut crate::wire::Writer),
    ) {
        self.exchange
            .push(what, kind, flags, &header(NFPROTO_INET, 0), attributes);
    }

    fn table(&mut self, kind: u16, name: &str) -> Result<(), Error> {
        check_name("table", name)?;
        let (verb, flags) = match kind {
            NFT_MSG_NEWTABLE => ("make", NLM_F_CREATE),
            _ => ("remove", 0),
        };
        // Asking for an acknowledgement of the tables alone keeps the answer short.
        self.acked += 1;
        self.push(
            format!("{verb} table inet {name}"),
            kind,
            flags | NLM_F_ACK,
            |w| {
                w.string(NFTA_TABLE_NAME, name);
            },
        );
        Ok(())
    }

    fn fill(&mut self, table: &Table) -> Result<(), Error> {
        for chain in &table.chains {
            check_name("chain", &chain.name)?;
            let what = format!("make chain {} of table {}", chain.name, table.name);
            self.push(what, NFT_MSG_NEWCHAIN, NLM_F_CREATE, |w| {
                w.string(NFTA_CHAIN_TABLE, &table.name);
                w.string(NFTA_CHAIN_NAME, &chain.name);
                let Some(base) = &chain.base else { return };
                w.nest(NFTA_CHAIN_HOOK, |w| {
                    w.be32(NFTA_HOOK_HOOKNUM, base.hook as u32);
                    w.be32(NFTA_HOOK_PRIORITY, base.priority as u32);
                });
                w.be32(
                    NFTA_CHAIN_POLICY,
                    if base.drop { NF_DROP } else { NF_ACCEPT } as u32,
                );
                w.string(
                    NFTA_CHAIN_TYPE,
                    match base.kind {
                        ChainKind::Filter => "filter",
                        ChainKind::Nat => "nat",
                        ChainKind::Route => "route",
                    },
                );
            });
        }
        for chain in &table.chains {
            for (index, rule) in chain.rules.iter().enumerate() {
                expression::check(rule)?;
                let what = format!(
                    "rule {} of chain {} of table {}{} ({rule:?})",
                    index + 1,
                    chain.name,
                    table.name,
                    rule.comment
                        .as_deref()
                        .map(|c| format!(", {c:?}"))
                        .unwrap_or_default()
                );
                self.push(what, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |w| {
                    w.string(NFTA_RULE_TABLE, &table.name);
                    w.string(NFTA_RULE_CHAIN, &chain.name);
                    w.nest(NFTA_RULE_EXPRESSIONS, |w| expression::rule(w, rule));
                    if let Some(comment) = &rule.comment {
                        w.attribute(NFTA_RULE_USERDATA, &user_data(comment));
                    }
                });
            }
        }
        Ok(())
    }
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn user_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let text = &comment.as_bytes()[..end];
    let mut data = vec![UDATA_COMMENT, text.len() as u8 + 1];
    data.extend_from_slice(text);
    data.push(0);
    data
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME || name.contains('\0') {
        return Err(Error::Invalid(format!(
            "{what} name {name:?} must have 1 to {NAME} bytes"
        )));
    }
    Ok(())
}
