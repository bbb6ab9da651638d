//! Compiled string matchers, safe for any bytes.
//!
//! In: a `StringMatch` from a route or policy, once; then values from peers. Out: yes or no. Never: unbounded work (the
//! expressions run in linear time and have a bounded size), or a value that escapes because it isn't UTF-8.

use crate::Invalid;
use regex::bytes::Regex;
use weft_proto::expression;
use weft_proto::model::StringMatch;

/// Longest expression, in bytes.
pub const LONGEST_REGEX: usize = expression::LONGEST;

/// A compiled string matcher.
#[derive(Clone, Debug)]
pub struct Matcher {
    kind: Kind,
    /// ASCII letters match without regard to case.
    folded: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    /// Without the trailing slash.
    PathPrefix(Box<[u8]>),
    Regex(Box<Regex>),
    Present,
}

impl Matcher {
    /// Compiles a matcher that minds case.
    pub fn compile(wanted: &StringMatch) -> Result<Self, Invalid> {
        Self::build(wanted, false)
    }

    /// Compiles a matcher that doesn't mind the case of ASCII letters.
    pub fn compile_folded(wanted: &StringMatch) -> Result<Self, Invalid> {
        Self::build(wanted, true)
    }

    /// Whether the value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| {
            if self.folded {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        match &self.kind {
            Kind::Exact(wanted) => same(value, wanted),
            Kind::Prefix(wanted) => value.get(..wanted.len()).is_some_and(|start| same(start, wanted)),
            Kind::Suffix(wanted) => value
                .len()
                .checked_sub(wanted.len())
                .is_some_and(|at| same(&value[at..], wanted)),
            Kind::PathPrefix(wanted) => {
                value.get(..wanted.len()).is_some_and(|start| same(start, wanted))
                    && matches!(value.get(wanted.len()), None | Some(b'/'))
            }
            Kind::Regex(regex) => regex.is_match(value),
            Kind::Present => true,
        }
    }

    fn build(wanted: &StringMatch, folded: bool) -> Result<Self, Invalid> {
        let bytes = |text: &str| Box::from(text.as_bytes());
        let kind = match wanted {
            StringMatch::Exact(text) => Kind::Exact(bytes(text)),
            StringMatch::Prefix(text) => Kind::Prefix(bytes(text)),
            StringMatch::Suffix(text) => Kind::Suffix(bytes(text)),
            StringMatch::PathPrefix(text) => Kind::PathPrefix(bytes(text.strip_suffix('/').unwrap_or(text))),
            StringMatch::Regex(text) => {
                let compiled = expression::whole(text, folded);
                Kind::Regex(Box::new(compiled.map_err(|e| Invalid::new(e.field, e.reason))?))
            }
            StringMatch::Present => Kind::Present,
        };
        Ok(Self { kind, folded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(wanted: &StringMatch, value: &[u8]) -> bool {
        Matcher::compile(wanted).unwrap().matches(value)
    }

    #[test]
    fn each_kind_by_table() {
        use StringMatch::*;
        for (wanted, yes, no) in [
            (Exact("/a".into()), vec!["/a"], vec!["", "/", "/A", "/a/", "/ab"]),
            (
                Prefix("/a".into()),
                vec!["/a", "/ab", "/a/b"],
                vec!["", "/", "/A", "x/a"],
            ),
            (
                Suffix(".com".into()),
                vec![".com", "a.com"],
                vec!["com", "a.com.", ".COM"],
            ),
            (
                PathPrefix("/a".into()),
                vec!["/a", "/a/", "/a/b"],
                vec!["/ab", "/", "/A", "/a%2Fb"],
            ),
            (
                PathPrefix("/a/".into()),
                vec!["/a", "/a/", "/a/b"],
                vec!["/ab", "/"],
            ),
            (PathPrefix("/".into()), vec!["/", "/a", "/a/b"], vec!["*"]),
            (Regex("a|b".into()), vec!["a", "b"], vec!["ab", "xa", "bx", "a\n"]),
            (
                Regex("/v[0-9]+/.*".into()),
                vec!["/v1/", "/v12/x\ny"],
                vec!["/v/", "x/v1/"],
            ),
            (Regex("(?i)get".into()), vec!["GET", "get"], vec!["gets"]),
            (Regex("[éè]+".into()), vec!["é", "èé"], vec!["e"]),
            (Present, vec!["", "x"], vec![]),
        ] {
            for value in yes {
                assert!(matches(&wanted, value.as_bytes()), "{wanted:?} {value:?}");
            }
            for value in no {
                assert!(!matches(&wanted, value.as_bytes()), "{wanted:?} {value:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_text_match_like_any() {
        assert!(matches(
            &StringMatch::Regex(".*admin.*".into()),
            b"\xff/admin\xfe"
        ));
        assert!(matches(&StringMatch::Regex("/[^/]*".into()), b"/\xc3\x28"));
        assert!(matches(&StringMatch::Prefix("/a".into()), b"/a\xff"));
        assert!(!matches(&StringMatch::Exact("/a".into()), b"/a\0"));
    }

    #[test]
    fn folded_ones_do_not_mind_case() {
        for wanted in [
            StringMatch::Exact("/Admin".into()),
            StringMatch::Prefix("/aDm".into()),
            StringMatch::Suffix("MIN".into()),
            StringMatch::PathPrefix("/admin".into()),
            StringMatch::Regex("/adm.*".into()),
        ] {
            assert!(
                Matcher::compile_folded(&wanted).unwrap().matches(b"/ADMIN"),
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn expressions_are_bounded() {
        for (text, wanted) in [
            ("a".repeat(LONGEST_REGEX + 1), "at most 1024 bytes"),
            ("(((a{100}){100}){100})".into(), "size limit"),
            ("(".into(), "unclosed group"),
            ("a)|(b".into(), "unopened group"),
            (r"(a)\1".into(), "backreferences"),
        ] {
            let error = Matcher::compile(&StringMatch::Regex(text.as_str().into()))
                .unwrap_err()
                .to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
