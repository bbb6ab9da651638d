//! The first rule that matches a request, without a look at every rule.
//!
//! In: what all rules ask for, once; then heads of requests. Out: the rules that may match, in a few lists, each in order of precedence. Never: a
//! rule left out that a search through all of them would find.
//!
//! Paths and prefixes are sorted. All of them that begin a path lie before it, and the nearest one before it begins with all others:
//! each knows the longest other that it begins with, so that one binary search and a walk find them all.

mod list;

use super::RequestHead;
use list::List;
use weft_proto::model::{RouteMatch, StringMatch};

/// Fewer rules are looked at one by one.
const FEW: usize = 8;

/// Rules by their paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Sorted by text; empty if there are few rules.
    texts: Vec<Text>,
    /// Rules whose paths say nothing before they are looked at.
    others: List,
}

#[derive(Clone, Debug)]
struct Text {
    text: Box<[u8]>,
    /// The longest other text that this one begins with.
    parent: Option<u32>,
    /// Rules for exactly this path.
    exact: List,
    /// Rules for what begins with it.
    prefix: List,
}

impl Index {
    /// Sorts rules, in order of precedence.
    pub fn new<'a>(rules: impl ExactSizeIterator<Item = &'a RouteMatch>) -> Self {
        let count = rules.len();
        if count <= FEW {
            return Self {
                texts: Vec::new(),
                others: List::new(
                    (0..count).filter_map(|rule| u32::try_from(rule).ok()).collect(),
                    &[],
                ),
            };
        }
        let all: Vec<&RouteMatch> = rules.collect();
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        for (rule, matches) in all.iter().enumerate() {
            let Ok(rule) = u32::try_from(rule) else { break };
            let path = matches.path.as_ref().map(super::matches::normal);
            match path {
                _ if matches.path_ignores_case => others.push(rule),
                Some(StringMatch::Exact(text)) => keys.push((text, rule, true)),
                Some(StringMatch::Prefix(text)) => keys.push((text, rule, false)),
                Some(StringMatch::PathPrefix(text)) => {
                    keys.push((text.strip_suffix('/').unwrap_or(&text).into(), rule, false));
                }
                _ => others.push(rule),
            }
        }
        // Within a text the rules stay in order.
        keys.sort();
        let mut texts: Vec<Text> = Vec::new();
        for same in keys.chunk_by(|(a, ..), (b, ..)| a == b) {
            let Some((text, ..)) = same.first() else { continue };
            let of = |wanted: bool| {
                let rules = same.iter().filter(|(_, _, exact)| *exact == wanted);
                List::new(rules.map(|(_, rule, _)| *rule).collect(), &all)
            };
            texts.push(Text {
                parent: parent(&texts, text.as_bytes()),
                text: text.as_bytes().into(),
                exact: of(true),
                prefix: of(false),
            });
        }
        Self {
            texts,
            others: List::new(others, &all),
        }
    }

    /// The first rule, by precedence, that `matches`; it is only asked of rules that may.
    pub fn first(&self, head: &RequestHead<'_>, matches: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = u32::MAX;
        let mut look = |list: &List| list.look(head, &mut best, &matches);
        let path = head.path.as_bytes();
        let at = self.texts.partition_point(|each| *each.text <= *path);
        let mut next = at.checked_sub(1);
        while let Some(text) = next.and_then(|next| self.texts.get(next)) {
            next = text.parent.map(|parent| parent as usize);
            if path.starts_with(&text.text) {
                if text.text.len() == path.len() {
                    look(&text.exact);
                }
                look(&text.prefix);
            }
        }
        look(&self.others);
        (best != u32::MAX).then_some(best as usize)
    }
}

/// The longest of the texts, all before `text` by order, that it begins with.
fn parent(texts: &[Text], text: &[u8]) -> Option<u32> {
    let mut next = texts.len().checked_sub(1);
    while let Some((index, before)) = next.and_then(|index| Some((index, texts.get(index)?))) {
        if text.starts_with(&before.text) {
            return u32::try_from(index).ok();
        }
        next = before.parent.map(|parent| parent as usize);
    }
    None
}
