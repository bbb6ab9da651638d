//! Things by host pattern, the most exact one first.
//!
//! Enters: patterns, once; then hosts. Leaves: what covers a host, in order. Never: a walk through all patterns.

use std::borrow::Cow;
use std::sync::Arc;

use rapidhash::RapidHashMap;
use weft_proto::model::HostPattern;

/// Longest host that is looked for, in bytes (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// Values by host pattern.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exact: RapidHashMap<Arc<str>, T>,
    /// By what a host ends with, which begins with a dot.
    suffixes: RapidHashMap<Arc<str>, T>,
    /// The same, for hosts with one label before it.
    labels: RapidHashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self {
            exact: RapidHashMap::default(),
            suffixes: RapidHashMap::default(),
            labels: RapidHashMap::default(),
            any: None,
        }
    }
}

impl<T> Hosts<T> {
    /// Adds a value. `false`: the pattern has one already, which stays.
    pub fn add(&mut self, pattern: &HostPattern, value: T) -> bool {
        let place = match pattern {
            HostPattern::Exact(host) => (&mut self.exact, host),
            HostPattern::Suffix(suffix) => (&mut self.suffixes, suffix),
            HostPattern::Label(suffix) => (&mut self.labels, suffix),
            HostPattern::Any => {
                let free = self.any.is_none();
                self.any.get_or_insert(value);
                return free;
            }
        };
        let free = !place.0.contains_key(place.1);
        place.0.entry(place.1.clone()).or_insert(value);
        free
    }

    /// What covers a host (as [`name`] gives it), the most exact first.
    pub fn covering<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let host = if host.len() > LONGEST { "" } else { host };
        let label = host.find('.').filter(|at| *at > 0);
        let label = label.and_then(|at| self.labels.get(&host[at..]));
        let suffixes = host
            .match_indices('.')
            // At least one label stands before the suffix.
            .filter(|(at, _)| *at > 0 && !self.suffixes.is_empty())
            .filter_map(|(at, _)| self.suffixes.get(&host[at..]));
        let exact = self.exact.get(host).into_iter();
        exact.chain(label).chain(suffixes).chain(&self.any)
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        let patterns = self.labels.values().chain(self.suffixes.values());
        self.exact.values().chain(patterns).chain(&self.any)
    }
}

/// The host of an authority: without its port and the dot that ends a full name, in lower case.
pub fn name(authority: &str) -> Cow<'_, str> {
    let host = match authority.rfind([':', ']']) {
        Some(at) if authority.as_bytes()[at] == b':' => &authority[..at],
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_pattern_goes_first() {
        let mut hosts = Hosts::default();
        for pattern in ["", "*.test", "*.shop.test", "www.shop.test"] {
            assert!(hosts.add(&HostPattern::parse(pattern).unwrap(), pattern));
        }
        let label = HostPattern::parse("*.shop.test").unwrap().of_one_label();
        assert!(hosts.add(&label, "one label"));
        assert!(!hosts.add(&label, "again"));
        assert!(!hosts.add(&HostPattern::Any, "again"));
        assert!(!hosts.add(&HostPattern::parse("*.test").unwrap(), "again"));
        let long = "a.".repeat(200) + "test";
        for (host, wanted) in [
            (
                "www.shop.test",
                &["www.shop.test", "one label", "*.shop.test", "*.test", ""][..],
            ),
            ("a.shop.test", &["one label", "*.shop.test", "*.test", ""]),
            ("a.b.shop.test", &["*.shop.test", "*.test", ""]),
            ("shop.test", &["*.test", ""]),
            ("test", &[""]),
            (".test", &[""]),
            ("", &[""]),
            (&long, &[""]),
        ] {
            assert_eq!(
                hosts.covering(host).copied().collect::<Vec<_>>(),
                wanted,
                "{host}"
            );
        }
        assert_eq!(hosts.values().count(), 5);
    }

    #[test]
    fn an_authority_is_a_host_and_more() {
        for (authority, wanted) in [
            ("Shop.test:8080", "shop.test"),
            ("shop.test.", "shop.test"),
            ("shop.test.:80", "shop.test"),
            ("[fd00::1]:80", "[fd00::1]"),
            ("[fd00::1]", "[fd00::1]"),
            ("", ""),
        ] {
            assert_eq!(name(authority), wanted);
        }
    }
}
