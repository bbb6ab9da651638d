//! Manifests as text (`weft inject -f`).
//!
//! In: one or more YAML or JSON documents. Out: the same text, in which every document with pods is written anew, injected:
//! fields in their order, comments lost. Never: a document without pods changed by a byte, or one that was refused passed on.

use crate::containers::Parts;
use crate::decide::{Decision, SkipCause, cut};
use crate::diff::diff;
use crate::json::Json;
use crate::offline::inject_manifest;
use crate::ordered::Ordered;
use crate::settings::Settings;

/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 64 * 1024 * 1024;

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Line on which its document begins, from 1.
    pub line: usize,
    /// Kind, namespace and name; empty where the document has none.
    pub object: String,
    /// What was done: a sentence.
    pub what: String,
    /// Whether that is a refusal.
    pub refused: bool,
    /// Sentences for whoever applies it.
    pub warnings: Vec<String>,
}

/// A text and what became of its objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// The text, to be applied only if nothing was refused.
    pub text: String,
    /// Of every object with pods, and of every document that can't be read.
    pub outcomes: Vec<Outcome>,
}

impl Injected {
    /// Whether an object was refused, or a document could not be read.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.refused)
    }
}

/// Injects every pod and pod template of a manifest. Objects without a namespace count as of `namespace`.
#[must_use]
pub fn inject(text: &str, namespace: &str, settings: &Settings) -> Injected {
    let mut all = Injected::default();
    if text.len() > MAX_MANIFEST {
        all.outcomes
            .push(unread(1, format!("longer than {MAX_MANIFEST} bytes")));
        return all;
    }
    let parts = Parts::new(settings.template.clone());
    for piece in split(text) {
        all.text.push_str(piece.marker);
        match document(piece.body, piece.line, namespace, &parts, &mut all.outcomes) {
            Ok(Some(new)) => {
                if piece.marker.trim_end() == "---" && !piece.marker.ends_with('\n') {
                    all.text.push('\n');
                }
                all.text.push_str(&new);
            }
            Ok(None) => all.text.push_str(piece.body),
            Err(reason) => all.outcomes.push(unread(piece.line, reason)),
        }
    }
    all
}

/// One document; none where it stays as it is.
fn document(
    body: &str,
    line: usize,
    namespace: &str,
    parts: &Parts,
    outcomes: &mut Vec<Outcome>,
) -> Result<Option<String>, String> {
    let is_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if !body.lines().any(is_content) {
        return Ok(None);
    }
    let is_json = body.trim_start().starts_with('{');
    let parsed = parse(body, is_json)?;
    let mut new = parsed.clone();
    if !object(&mut new, line, namespace, parts, outcomes)? || new == parsed {
        return Ok(None);
    }
    let text = if is_json {
        serde_json::to_string_pretty(&new)
            .map(|text| text + "\n")
            .map_err(|e| e.to_string())?
    } else {
        // Several lines stay several lines; one long line stays one.
        let options =
            serde_saphyr::ser_options! { folded_wrap_chars: MAX_MANIFEST, compact_list_indent: true };
        serde_saphyr::to_string_with_options(&new, options).map_err(|e| e.to_string())?
    };
    // What is written is read again: nobody applies what was not meant.
    if parse(&text, is_json)? != new {
        return Err("can't be written as it was read; give its unusual texts quotes".to_owned());
    }
    Ok(Some(text))
}

fn parse(text: &str, is_json: bool) -> Result<Ordered, String> {
    if is_json {
        return serde_json::from_str(text).map_err(|error| cut(format!("not JSON: {error}"), 300));
    }
    // As Kubernetes reads it: 0644 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet().to_string();
        cut(
            format!("not YAML: {}", error.lines().next().unwrap_or_default()),
            300,
        )
    })
}

/// One object, or a List of them. Returns whether anything in it may have changed.
fn object(
    object: &mut Ordered,
    line: usize,
    namespace: &str,
    parts: &Parts,
    outcomes: &mut Vec<Outcome>,
) -> Result<bool, String> {
    let is_list = {
        let value = object.to_json();
        let kind = value["kind"].as_str().unwrap_or_default();
        kind.ends_with("List") && value["items"].as_array().is_some()
    };
    if is_list {
        let mut changed = false;
        if let Some(Ordered::List(items)) = object.field_mut("items") {
            for item in items {
                changed |= self::object(item, line, namespace, parts, outcomes)?;
            }
        }
        return Ok(changed);
    }
    let original = object.clone();
    let mut before = original.to_json();
    let own = before["metadata"]["namespace"].as_str().is_some();
    if !own && before["metadata"].is_object() {
        before.entry("metadata").fields().set("namespace", namespace);
    }
    let verdict = inject_manifest(&before, parts);
    let mut outcome = Outcome {
        line,
        object: title(&before),
        what: String::new(),
        refused: false,
        warnings: Vec::new(),
    };
    match verdict.decision {
        Decision::Skip(SkipCause::NoPods) => return Ok(false),
        Decision::Skip(cause) => outcome.what = format!("left alone: {}", cause.explain()),
        Decision::Inject(_) => {
            outcome.what = "injected".into();
            outcome.warnings = verdict.warnings;
        }
        Decision::Refuse(refusal) => {
            outcome.what = format!("refused: {refusal}");
            outcome.refused = true;
        }
    }
    if let Some(changed) = verdict.changed.filter(|_| !outcome.refused) {
        for operation in diff(&before, &changed) {
            if !object.apply(&operation) {
                return Err("can't be changed in place; write its lists and objects as such".to_owned());
            }
        }
    }
    outcomes.push(outcome);
    Ok(true)
}

fn title(object: &Json<'_>) -> String {
    let text = |path: &str| object.pointer(path).and_then(Json::as_str).unwrap_or_default();
    let title = format!(
        "{} {}/{}",
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name")
    );
    cut(title, 300)
}

fn unread(line: usize, reason: String) -> Outcome {
    Outcome {
        line,
        object: String::new(),
        what: format!("refused: {reason}"),
        refused: true,
        warnings: Vec::new(),
    }
}

/// A part of a manifest: its marker (`---`, or nothing) and what follows it.
struct Piece<'a> {
    marker: &'a str,
    body: &'a str,
    line: usize,
}

/// A line that begins with `---` or `...` is a marker wherever it is: YAML allows it in no text (YAML 1.2.2, section 9.1.4).
fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = vec![Piece {
        marker: "",
        body: "",
        line: 1,
    }];
    let mut from = 0;
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end_matches(['\n', '\r']);
        let is = |mark: &str| {
            bare.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        if is("---") || is("...") {
            if let Some(piece) = pieces.last_mut() {
                piece.body = &text[from..at];
            }
            // `--- # comment` goes with the marker, `--- {a: 1}` is content.
            let rest = bare[3..].trim_start();
            let marker = if rest.is_empty() || rest.starts_with('#') {
                line
            } else {
                &line[..3]
            };
            from = at + marker.len();
            pieces.push(Piece {
                marker,
                body: "",
                line: index + 1,
            });
        }
        at += line.len();
    }
    if let Some(piece) = pieces.last_mut() {
        piece.body = &text[from..];
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn ask(text: &str) -> Injected {
        inject(text, "shop", &Settings::default())
    }

    #[test]
    fn what_has_no_pods_passes_byte_for_byte() {
        for text in [
            "",
            "# only a comment\n",
            "---\n---\n...\n",
            "a:   1 # odd\n--- # next\nkind: Service\nspec:   {x: 'y'}",
            "kind: ConfigMap\r\ndata:\r\n  x: |\r\n    a\r\n     --- not a marker\r\n",
            "{\"kind\":   \"Service\"}",
            "- 1\n- 2\n",
            "kind: List\nitems:   []\n",
        ] {
            let injected = ask(text);
            assert_eq!(injected.text, text);
            assert_eq!(injected.outcomes, Vec::new(), "{text}");
        }
    }

    #[test]
    fn each_document_is_for_itself() {
        let text = "# first\nkind: Service\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  \
                    - name: web\n    volumeMounts: []\n--- # last\nkind: Pod\nmetadata:\n  name: host\nspec: {hostNetwork: true, containers: [{name: a}]}\n";
        let injected = ask(text);
        assert!(
            injected.text.starts_with(
                "# first\nkind: Service\nmetadata: {name: a}\n---\nkind: Pod\nmetadata:\n  name: web\n"
            ),
            "{}",
            injected.text
        );
        let said: Vec<_> = injected
            .outcomes
            .iter()
            .map(|outcome| {
                (
                    outcome.line,
                    outcome.object.as_str(),
                    outcome.what.as_str().split(':').next().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                (4, "Pod shop/web", "injected"),
                (11, "Pod shop/host", "left alone")
            ]
        );
        // A namespace that was only assumed is not written.
        assert!(!injected.text.contains("namespace: shop"));
        // Twice is once.
        assert_eq!(ask(&injected.text).text, injected.text);
    }

    #[test]
    fn values_mean_the_same_afterwards() {
        let text = "kind: Pod\nmetadata: {name: web, annotations: {a: \"1.10\", b: 'yes', c: \"0644\", d: 'null', e: \"a: b # c\"}}\nspec:\n  \
                    volumes:\n  - name: v\n    secret: {secretName: s, defaultMode: 0644}\n  containers:\n  - name: web\n    tty: yes\n    args:\n    - |\n      two\n      lines\n    - >-\n      folded\n      text\n    - ''\n    - '~'\n    - 1e3\n";
        let injected = ask(text);
        assert!(!injected.is_refused(), "{:?}", injected.outcomes);
        let new = parse(&injected.text, false).unwrap();
        let new = serde_json::to_value(&new).unwrap();
        let annotations = &new["metadata"]["annotations"];
        for (name, wanted) in [
            ("a", "1.10"),
            ("b", "yes"),
            ("c", "0644"),
            ("d", "null"),
            ("e", "a: b # c"),
        ] {
            assert_eq!(annotations[name], wanted);
        }
        assert_eq!(new["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
        assert_eq!(new["spec"]["containers"][0]["tty"], true);
        assert_eq!(new["spec"]["containers"][0]["args"][0], "two\nlines\n");
        assert_eq!(new["spec"]["containers"][0]["args"][1], "folded text");
    }

    #[test]
    fn json_stays_json_and_lists_are_opened() {
        let text = r#"{"kind": "List", "apiVersion": "v1", "items": [
            {"kind": "Service", "spec": {"z": 1, "a": 2}},
            {"kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}}]}"#;
        let injected = ask(text);
        let new: Value = serde_json::from_str(&injected.text).unwrap();
        assert_eq!(new["items"][1]["spec"]["initContainers"][1]["name"], "weft-proxy");
        assert!(injected.text.find("\"z\"").unwrap() < injected.text.find("\"a\"").unwrap());
        assert_eq!(injected.outcomes.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, word) in [
            ("a: 1\n---\nb: [\n", 2, "not YAML"),
            ("{\"a\": }", 1, "not JSON"),
            ("\n---\nkind: Pod\nmetadata: {name: x}\nspec: 1\n", 2, "spec"),
            ("kind: Deployment\nmetadata: {name: x}\n", 1, "not an object"),
            ("a: 1\na: 2\n", 1, "not YAML"),
        ] {
            let injected = ask(text);
            assert!(injected.is_refused(), "{text}");
            let outcome = &injected.outcomes[0];
            assert_eq!(outcome.line, line, "{text}");
            assert!(outcome.what.contains(word), "{text}: {}", outcome.what);
        }
    }
}
