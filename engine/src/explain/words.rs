//! Values that must match, in words.

use weft_proto::model::StringMatch;

/// How a value must be, after "must": `be x`, `start with x`.
pub(super) fn must(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact(text) => format!("be {text}"),
        StringMatch::Prefix(text) => format!("start with {text}"),
        StringMatch::Suffix(text) => format!("end with {text}"),
        StringMatch::PathPrefix(text) => format!("be {text} or below it"),
        StringMatch::Regex(text) => format!("match the expression {text}"),
        StringMatch::Present => "be there".to_owned(),
    }
}

/// A value of a policy's list, as Istio writes it.
pub(super) fn listed(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::PathPrefix(text) => format!("{text} and below"),
        StringMatch::Regex(text) => format!("/{text}/"),
        StringMatch::Present => "*".to_owned(),
    }
}

/// A few of many.
pub(super) fn some<T>(list: &[T], each: impl Fn(&T) -> String) -> String {
    const MOST: usize = 5;
    let words: Vec<String> = list.iter().take(MOST).map(each).collect();
    match list.len() {
        0..=MOST => words.join(", "),
        more => format!("{} and {} more", words.join(", "), more - MOST),
    }
}
