//! Rules that the path doesn't tell apart, told apart by a value that they ask for.
//!
//! In: rules in order of precedence; then heads. Out: the first that matches, without a look at those that ask for another value. Never: a
//! rule left out that a search through all of them would find.

use super::super::RequestHead;
use super::super::matches::first_value;
use super::FEW;
use http::header::HeaderName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{RouteMatch, StringMatch};

/// Fewer values of something don't tell enough rules apart.
const FEW_VALUES: usize = 3;

/// Rules in order of precedence.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
    /// Those that ask for one value of something.
    by: Option<Box<By>>,
    /// The others.
    rest: Vec<u32>,
}

/// Rules by the value that they ask for.
#[derive(Clone, Debug)]
struct By {
    key: Key,
    values: BTreeMap<Box<[u8]>, List>,
}

/// What rules ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Method,
    /// By its lower-case name.
    Header(Arc<str>),
    Query(Arc<str>),
}

/// The exact values that a match asks for.
fn values(of: &RouteMatch) -> impl Iterator<Item = (Key, &Arc<str>)> {
    let method = of.method.iter().map(|wanted| (Key::Method, wanted));
    let headers = of.headers.iter();
    let headers = headers.map(|(name, wanted)| (Key::Header(name.to_ascii_lowercase().into()), wanted));
    let query = of
        .query
        .iter()
        .map(|(name, wanted)| (Key::Query(name.clone()), wanted));
    let all = method.chain(headers).chain(query);
    all.filter_map(|(key, wanted)| match wanted {
        StringMatch::Exact(text) => Some((key, text)),
        _ => None,
    })
}

impl List {
    /// Sorts rules that are given in order; `of` is what a rule asks for.
    pub fn new(rules: Vec<u32>, of: &[&RouteMatch]) -> Self {
        let asked = |rule: u32| of.get(rule as usize).into_iter().flat_map(|of| values(of));
        let Some(key) = (rules.len() > FEW).then(|| telling(&rules, asked)).flatten() else {
            return Self {
                by: None,
                rest: rules,
            };
        };
        let (mut by_value, mut rest) = (BTreeMap::<Box<[u8]>, Vec<u32>>::new(), Vec::new());
        for rule in rules {
            match asked(rule).find(|(asked, _)| *asked == key) {
                Some((_, value)) => by_value.entry(value.as_bytes().into()).or_default().push(rule),
                None => rest.push(rule),
            }
        }
        let values = by_value.into_iter();
        let values = values
            .map(|(value, rules)| (value, Self::new(rules, of)))
            .collect();
        Self {
            by: Some(Box::new(By { key, values })),
            rest,
        }
    }

    /// Looks for a rule before `best` that `matches`, which takes its place.
    pub fn look(&self, head: &RequestHead<'_>, best: &mut u32, matches: &impl Fn(usize) -> bool) {
        if let Some(by) = &self.by {
            by.look(head, best, matches);
        }
        for rule in &self.rest {
            if *rule >= *best {
                return;
            }
            if matches(*rule as usize) {
                *best = *rule;
                return;
            }
        }
    }
}

impl By {
    fn look(&self, head: &RequestHead<'_>, best: &mut u32, matches: &impl Fn(usize) -> bool) {
        let mut of = |value: &[u8]| {
            if let Some(list) = self.values.get(value) {
                list.look(head, best, matches);
            }
        };
        match &self.key {
            Key::Method => of(head.method.as_bytes()),
            Key::Header(name) => {
                let values = head.headers.get_all(&**name).iter();
                values.for_each(|value| of(value.as_bytes()));
            }
            Key::Query(name) => {
                if let Some(value) = first_value(head.query.unwrap_or_default(), name) {
                    of(&value);
                }
            }
        }
    }
}

/// What tells most rules apart.
fn telling<'a, I>(rules: &[u32], asked: impl Fn(u32) -> I) -> Option<Key>
where
    I: Iterator<Item = (Key, &'a Arc<str>)>,
{
    let mut seen: BTreeMap<Key, BTreeSet<&Arc<str>>> = BTreeMap::new();
    for (key, value) in rules.iter().flat_map(|rule| asked(*rule)) {
        // A name that can't be looked for tells nothing.
        let known = !matches!(&key, Key::Header(name) if HeaderName::from_bytes(name.as_bytes()).is_err());
        if known {
            seen.entry(key).or_default().insert(value);
        }
    }
    let most = seen.into_iter().max_by_key(|(_, values)| values.len());
    most.filter(|(_, values)| values.len() > FEW_VALUES)
        .map(|(key, _)| key)
}
