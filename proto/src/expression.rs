//! Regular expressions, the same for who writes them and for who obeys them.
//!
//! Enters: the text of an expression. Leaves: it, compiled, or why it isn't taken. Never: an expression that the control plane takes
//! and a sidecar refuses; unbounded work (expressions run in linear time and have a bounded size).

use crate::convert::Invalid;
use crate::model::{Answer, PathChange, RouteRule, StringMatch};
use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const LONGEST: usize = 1_024;
/// Most expressions of one Service's routes: each may take as much memory as some thousand plain rules.
pub const MOST: usize = 1_000;
/// Largest compiled expression, in bytes.
const LARGEST: usize = 256 << 10;

/// Compiles an expression that must match the whole value; `folded`: whatever the case of ASCII letters.
///
/// It works on bytes, so that no value escapes `.` by not being UTF-8; only expressions that name characters beyond ASCII in
/// classes need Unicode.
///
/// # Errors
/// When it isn't in RE2's syntax as the `regex` crate has it, is longer than [`LONGEST`], or becomes too large.
pub fn whole(text: &str, folded: bool) -> Result<Regex, Invalid> {
    // Compiled on its own first: "a)|(b" must not become valid by what is put around it.
    anywhere(text)?;
    compile(&format!(r"\A(?:{text})\z"), folded)
}

/// Compiles an expression that may match any part of a value.
///
/// # Errors
/// As [`whole`].
pub fn anywhere(text: &str) -> Result<Regex, Invalid> {
    if text.len() > LONGEST {
        let reason = format!(
            "an expression has at most {LONGEST} bytes, this one has {}",
            text.len()
        );
        return Err(Invalid::new("regex", reason));
    }
    compile(text, false)
}

/// How many expressions a rule has; those of the routes of one Service are at most [`MOST`] together.
pub fn count(rule: &RouteRule) -> usize {
    let m = &rule.matches;
    let single = [&m.path, &m.method, &m.authority, &m.scheme];
    let lists = m.headers.iter().chain(&m.query).chain(&m.without_headers);
    let origins = rule.cors.iter().flat_map(|cors| &cors.allow_origins);
    let texts = single
        .into_iter()
        .flatten()
        .chain(lists.map(|(_, value)| value))
        .chain(origins);
    let redirect = match &rule.answer {
        Some(Answer::Redirect(redirect)) => redirect.path.as_ref(),
        _ => None,
    };
    let edits = redirect.into_iter().chain(&rule.rewrite.path);
    texts.filter(|text| matches!(text, StringMatch::Regex(_))).count()
        + edits
            .filter(|edit| matches!(edit, PathChange::Regex { .. }))
            .count()
}

fn compile(text: &str, folded: bool) -> Result<Regex, Invalid> {
    let build = |unicode: bool| {
        RegexBuilder::new(text)
            .unicode(unicode)
            .case_insensitive(folded)
            .dot_matches_new_line(true)
            .size_limit(LARGEST)
            .dfa_size_limit(LARGEST)
            .build()
    };
    build(false)
        .or_else(|_| build(true))
        .map_err(|error| Invalid::new("regex", reason(&error)))
}

/// The last line of a message that shows where.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("becomes too large when compiled: more than its size limit of {limit} bytes")
        }
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            format!(
                "is no regular expression (RE2 syntax): {}",
                last.trim_start_matches("error: ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_bytes_whole_or_anywhere() {
        assert!(whole("a|b", false).unwrap().is_match(b"a"));
        assert!(!whole("a|b", false).unwrap().is_match(b"ab"));
        assert!(whole("/Adm.*", true).unwrap().is_match(b"/aDMin\xff"));
        assert!(whole("[éè]+", false).unwrap().is_match("éè".as_bytes()));
        assert!(anywhere("b").unwrap().is_match(b"abc"));
        // Small without Unicode.
        assert!(whole(r"\w{90}", false).unwrap().is_match(&[b'a'; 90]));
    }

    #[test]
    fn expressions_are_bounded() {
        for (text, wanted) in [
            ("a".repeat(LONGEST + 1), "at most 1024 bytes"),
            ("(((a{100}){100}){100})".into(), "size limit"),
            ("(".into(), "unclosed group"),
            ("a)|(b".into(), "unopened group"),
            (r"(a)\1".into(), "backreferences"),
        ] {
            let error = whole(&text, false).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
