//! `docs/fields.md`: every field of every kind that Weft acts on, and those that it knows and doesn't act on.
//!
//! Enters: example objects (`tests/fields/*.yaml`), read while it is written down what is asked for. Leaves: the page. Never: a field that no reader
//! asks for, or one whose use is reported: every field of the page has a value in an example, and what is said about that value is seen.
//!
//! `UPDATE=1 cargo test -p weft-control-plane --lib supported` writes the page anew.

use super::recorder::{self, Asked};
use crate::ingest::files::{self, Object};
use crate::ingest::kind::{KINDS, Kind, Role};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// What is said of one kind.
#[derive(Default)]
struct Page {
    asked: Asked,
    /// Fields of examples, and the types of their values.
    given: BTreeMap<String, &'static str>,
    /// Field, and why it isn't acted on.
    not: BTreeMap<String, String>,
}

const FIRST: &str = "\
# Fields

Made from the code by `UPDATE=1 cargo test -p weft-control-plane --lib supported`, which reads example objects and writes down what is asked for:
this page can't say more than the code does. What a kind has besides is reported for every object that uses it (`weft analyze`, code
`field-unknown` or `field-unsupported`) and never makes a policy wider.

`[]` stands for every entry of a list. Fields under `metadata` other than labels and annotations, and `status`, are not configuration.
";

fn plain(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => {
                inside = true;
                out.push_str("[]");
            }
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn pages(objects: &[Object]) -> BTreeMap<(&'static str, &'static str), Page> {
    let mut pages: BTreeMap<_, Page> = BTreeMap::new();
    for object in objects {
        let kind: &'static Kind = object.kind;
        if !matches!(kind.role, Role::Required | Role::Optional | Role::Referenced) {
            continue;
        }
        let page = pages.entry((kind.group, kind.kind)).or_default();
        give(&object.body, "", &mut page.given);
        let mut findings = Vec::new();
        let asked = recorder::record(|| {
            findings = super::read(kind, &object.metadata, &object.body, object.origin.clone()).findings;
        });
        page.asked.extend(asked);
        for finding in findings
            .iter()
            .filter(|finding| finding.code == "field-unsupported")
        {
            // An entry of a list that isn't acted on as it is written is no field of its own.
            if !finding.field.ends_with(']') {
                page.not
                    .entry(plain(&finding.field))
                    .or_insert_with(|| finding.reason.to_string());
            }
        }
    }
    for (kind, read) in super::structures() {
        let asked = recorder::record(read);
        let kind = KINDS.iter().find(|known| known.kind == kind);
        let kind = kind.unwrap_or_else(|| panic!("no such kind"));
        let page = pages.entry((kind.group, kind.kind)).or_default();
        page.given.extend(asked.clone());
        page.asked.extend(asked);
    }
    pages
}

/// Every field of an example.
fn give(value: &Value, path: &str, given: &mut BTreeMap<String, &'static str>) {
    let what = match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = match path {
                    "" => name.clone(),
                    _ => format!("{path}.{name}"),
                };
                give(value, &path, given);
            }
            "object"
        }
        Value::Array(list) => {
            for value in list {
                give(value, &format!("{path}[]"), given);
            }
            "list"
        }
        Value::Bool(_) => "true or false",
        Value::Number(_) => "number",
        _ => "text",
    };
    given.insert(path.to_owned(), what);
}

/// No configuration.
const IGNORED: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

impl Page {
    /// Fields that are asked for and that no example has.
    fn missing(&self) -> impl Iterator<Item = &String> {
        self.asked.keys().filter(|path| {
            !IGNORED.contains(&path.as_str())
                && !self.given.contains_key(*path)
                && !self.reported(path)
                && !self.alternative(path)
        })
    }

    /// Whether it is one way to match a text, and an example has another one.
    fn alternative(&self, path: &str) -> bool {
        const WAYS: [&str; 3] = ["exact", "prefix", "regex"];
        let Some((parent, way)) = path.rsplit_once('.') else {
            return false;
        };
        let given = |way: &&str| self.given.contains_key(&format!("{parent}.{way}"));
        WAYS.contains(&way) && WAYS.iter().any(given)
    }

    /// Whether a field, or what it is in, isn't acted on.
    fn reported(&self, path: &str) -> bool {
        let within = |not: &String| {
            path == not
                || path
                    .strip_prefix(&**not)
                    .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        self.not.keys().any(within)
    }
}

fn text(pages: &BTreeMap<(&'static str, &'static str), Page>) -> String {
    let mut out = FIRST.to_owned();
    for ((group, name), page) in pages {
        let group = if group.is_empty() { "core" } else { group };
        let _ = writeln!(out, "\n## {name} ({group})\n");
        // An object is shown by what is in it.
        let parents: BTreeSet<&str> = page
            .asked
            .keys()
            .filter_map(|path| path.rsplit_once('.').map(|(parent, _)| parent))
            .map(|parent| parent.trim_end_matches("[]"))
            .collect();
        let rows: Vec<_> = page
            .asked
            .iter()
            .filter(|(path, _)| !IGNORED.contains(&path.as_str()) && !parents.contains(path.as_str()))
            .filter(|(path, _)| !page.reported(path))
            .collect();
        if rows.is_empty() {
            let _ = writeln!(out, "Only its metadata is read.");
        } else {
            let _ = writeln!(out, "| field | type |\n|---|---|");
            for (path, what) in rows {
                let what = match *what {
                    "any" => page.given.get(path.as_str()).copied().unwrap_or("any"),
                    what => what,
                };
                let _ = writeln!(out, "| `{path}` | {what} |");
            }
        }
        if !page.not.is_empty() {
            let _ = writeln!(out, "\nKnown, not acted on, and said so:\n");
            for (path, reason) in &page.not {
                let _ = writeln!(out, "- `{path}`: {reason}");
            }
        }
    }
    out
}

#[test]
fn the_page_of_fields_is_what_the_readers_ask_for() {
    let (objects, findings) = files::load(&[PathBuf::from("tests/fields")]);
    assert_eq!(findings, []);
    let pages = pages(&objects);
    // Every kind that is read has an example or a structure.
    for kind in KINDS
        .iter()
        .filter(|kind| matches!(kind.role, Role::Required | Role::Optional | Role::Referenced))
    {
        assert!(
            pages.contains_key(&(kind.group, kind.kind)),
            "tests/fields has no example of {}",
            kind.kind
        );
    }
    let missing: Vec<String> = pages
        .iter()
        .flat_map(|((_, kind), page)| page.missing().map(move |path| format!("{kind} {path}")))
        .collect();
    assert!(missing.is_empty(), "no example in tests/fields has {missing:#?}");
    let text = text(&pages);
    let path = PathBuf::from("../docs/fields.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/fields.md is not what the readers ask for; see UPDATE=1 in {}",
        file!()
    );
}
