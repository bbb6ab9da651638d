//! What tells whether two sets of documents are the same.
//!
//! In: JSON. Out: a hash. Never: a difference because of the order of fields, or a copy of a document: this is done for every
//! pod.

use crate::json::Json;

/// SHA-256 of the documents, fields in the order of their names; its first 16 bytes in hexadecimal.
#[must_use]
pub fn hash<'d, 'a: 'd>(documents: impl Iterator<Item = &'d Json<'a>>) -> String {
    let mut text = String::with_capacity(1024);
    for document in documents {
        write(document, &mut text);
        text.push('\n');
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut short = String::with_capacity(32);
    for byte in digest.as_ref().iter().take(16) {
        for digit in [byte >> 4, byte & 15] {
            short.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    short
}

/// Text that is the same for the same document, whatever the order of its fields.
fn write(value: &Json<'_>, text: &mut String) {
    match value {
        Json::Object(fields) => {
            text.push('{');
            for (name, value) in fields.iter() {
                quoted(name, text);
                write(value, text);
            }
            text.push('}');
        }
        Json::Array(list) => {
            text.push('[');
            for item in list.iter() {
                write(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Json::String(string) => quoted(string, text),
        Json::Number(number) => {
            let _ = std::fmt::Write::write_fmt(text, format_args!("{number}"));
        }
        Json::Bool(true) => text.push('t'),
        Json::Bool(false) => text.push('f'),
        Json::Null => text.push('n'),
    }
}

/// A text behind its length, so that no two documents are written alike.
fn quoted(string: &str, text: &mut String) {
    text.push('"');
    decimal(string.len(), text);
    text.push(':');
    text.push_str(string);
}

fn decimal(number: usize, text: &mut String) {
    if number > 9 {
        decimal(number / 10, text);
    }
    text.push(char::from(b"0123456789"[number % 10]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Arena;

    #[test]
    fn a_hash_knows_every_value_and_no_order() {
        let arena = Arena::default();
        let one = |text| hash(std::iter::once(&Json::read(text, &arena).unwrap()));
        assert_eq!(one(r#"{"a": 1, "b": [null]}"#), one(r#"{"b": [null], "a": 1}"#));
        assert_eq!(one("{}").len(), 32);
        let texts = [
            r#"{"a": 1}"#,
            r#"{"a": "1"}"#,
            r#"{"a": [1]}"#,
            r#"["a", 1]"#,
            r#"["a,1"]"#,
            r#"["a", "1"]"#,
            r#"[["a"], "1"]"#,
            "true",
            "false",
            "null",
        ];
        let all: std::collections::BTreeSet<_> = texts.map(one).into();
        assert_eq!(all.len(), texts.len());
    }
}
