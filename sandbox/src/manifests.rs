//! Manifests: files of YAML or JSON, as `kubectl apply` takes them.
//!
//! In: files and folders. Out: objects in the order to apply them, each with file and line; and a problem for
//! everything that can't be used. Never: one bad document stopping the others; an unbounded file, document or alias.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::kinds::{Kinds, unsupported};

/// Largest file, bytes.
pub const MAX_FILE: u64 = 4 << 20;
/// Most files.
pub const MAX_FILES: usize = 1000;
/// Most objects in all.
pub const MAX_OBJECTS: usize = 10_000;
/// Deepest folder below one that was named.
const MAX_DEPTH: usize = 8;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line on which the document begins, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One object, as written.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where.
    pub place: Place,
    /// What.
    pub object: Value,
}

impl Document {
    /// `Deployment shop/web`.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.object)
    }
}

/// Something that can't be used, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// `Deployment shop/web`, where that much could be read.
    pub object: Option<String>,
    /// The field, where it is one.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether the object is used all the same.
    pub warning: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Objects in the order to apply them.
    pub documents: Vec<Document>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Whether any document can't be used at all.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| !p.warning)
    }
}

/// Reads files, and all `.yaml`, `.yml` and `.json` files in folders.
#[must_use]
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            walk(path, 0, &mut files, &mut loaded.problems);
            if files.len() == before {
                loaded.problems.push(whole(
                    path,
                    "there is no .yaml, .yml or .json file in this folder",
                ));
            }
        } else {
            files.push(path.clone());
        }
    }
    if files.len() > MAX_FILES {
        loaded.problems.push(whole(
            &files[MAX_FILES],
            format!("more than {MAX_FILES} files: the rest is left out"),
        ));
        files.truncate(MAX_FILES);
    }
    for file in &files {
        match read(file) {
            Ok(text) => parse(file, &text, &mut loaded),
            Err(reason) => loaded.problems.push(whole(file, reason)),
        }
    }
    settle(&mut loaded);
    loaded
}

/// Reads one text as if it were a file.
#[must_use]
pub fn load_text(name: &Path, text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    parse(name, text, &mut loaded);
    settle(&mut loaded);
    loaded
}

fn whole(path: &Path, reason: impl Into<String>) -> Problem {
    let place = Place {
        file: path.to_owned(),
        line: 1,
    };
    Problem {
        place,
        object: None,
        field: None,
        reason: reason.into(),
        warning: false,
    }
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return problems.push(whole(folder, format!("cannot be listed: {e}"))),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.starts_with('.') || files.len() > MAX_FILES {
            continue;
        }
        let symlink = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
        if path.is_dir() {
            if depth < MAX_DEPTH && !symlink {
                walk(&path, depth + 1, files, problems);
            }
        } else if matches!(
            path.extension().and_then(|e| e.to_str()),
            Some("yaml" | "yml" | "json")
        ) && !name.starts_with("kustomization.")
        {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let open = std::fs::File::open(file).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut bytes = Vec::new();
    open.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|e| format!("is not UTF-8 (byte {})", e.utf8_error().valid_up_to()))
}

/// The documents of a text, each with the number of its first line.
fn split(text: &str) -> Vec<(usize, String)> {
    let (mut pieces, mut from, mut piece) = (Vec::new(), 1, String::new());
    for (index, line) in text.lines().enumerate() {
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = marker {
            pieces.push((from, std::mem::take(&mut piece)));
            from = index + 1;
            piece.push_str(rest);
        } else if line.trim_end() != "..." {
            piece.push_str(line);
        }
        piece.push('\n');
    }
    pieces.push((from, piece));
    pieces
}

/// How many lines of a document come before its first word.
fn lead(piece: &str) -> usize {
    let blank = |l: &&str| l.trim().is_empty() || l.trim_start().starts_with('#');
    piece.lines().take_while(blank).count()
}

fn parse(file: &Path, text: &str, loaded: &mut Loaded) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (from, piece) in split(text) {
        let lead = lead(&piece);
        if lead == piece.lines().count() {
            continue;
        }
        let place = Place {
            file: file.to_owned(),
            line: from + lead,
        };
        match serde_saphyr::from_str::<Value>(&piece) {
            Ok(Value::Null) => {}
            Ok(object) => take(place, object, loaded, 0),
            Err(e) => {
                let line = e
                    .location()
                    .and_then(|l| usize::try_from(l.line()).ok())
                    .map_or(place.line, |l| from + l - 1);
                let reason = format!("this is not YAML that can be used: {}", reason_of(&e));
                let place = Place {
                    file: file.to_owned(),
                    line,
                };
                let object = guess(&piece);
                loaded.problems.push(Problem {
                    place,
                    object,
                    field: None,
                    reason,
                    warning: false,
                });
            }
        }
    }
}

/// The parser's reason, without its own idea of line numbers and without a snippet.
fn reason_of(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    first
        .split(" at line ")
        .next()
        .unwrap_or(first)
        .chars()
        .take(300)
        .collect()
}

/// Kind and name of a document that can't be parsed, from its text.
fn guess(piece: &str) -> Option<String> {
    let after = |key: &str| {
        piece
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .map(|v| v.trim().to_owned())
    };
    let kind = after("kind:").filter(|k| !k.is_empty() && k.chars().all(char::is_alphanumeric))?;
    Some(match after("  name:") {
        Some(name) => format!("{kind} {name}"),
        None => kind,
    })
}

fn title(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    }
}

/// Takes one document, or every item of a List.
fn take(place: Place, object: Value, loaded: &mut Loaded, depth: usize) {
    let mut refuse = |field: Option<&str>, reason: String| {
        let known = object.get("kind").is_some().then(|| title(&object));
        let field = field.map(str::to_owned);
        loaded.problems.push(Problem {
            place: place.clone(),
            object: known,
            field,
            reason,
            warning: false,
        });
    };
    if !object.is_object() {
        return refuse(
            None,
            "this document is not an object with apiVersion, kind and metadata".to_owned(),
        );
    }
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            return refuse(
                Some(field),
                "is missing: every object says its apiVersion and kind".to_owned(),
            );
        }
    }
    if object["kind"].as_str().is_some_and(|k| k.ends_with("List")) && object["items"].is_array() {
        if depth > 2 {
            return refuse(Some("items"), "lists in lists in lists are not read".to_owned());
        }
        let Value::Object(mut list) = object else { return };
        if let Some(Value::Array(items)) = list.remove("items") {
            for item in items {
                take(place.clone(), item, loaded, depth + 1);
            }
        }
        return;
    }
    if object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        let has = object
            .pointer("/metadata/name")
            .is_some_and(|n| !n.is_null() && !n.is_string());
        let reason = if has {
            "is not a string (quote it)"
        } else {
            "is missing"
        };
        return refuse(Some("metadata.name"), reason.to_owned());
    }
    if loaded.documents.len() >= MAX_OBJECTS {
        return refuse(
            None,
            format!("more than {MAX_OBJECTS} objects: this one is left out"),
        );
    }
    loaded.documents.push(Document { place, object });
}

/// When an object is applied: what others need comes first.
fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "Node" => 2,
        "ServiceAccount" => 3,
        "ConfigMap" | "Secret" => 4,
        "Service" => 5,
        "Pod" | "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => 7,
        _ => 6,
    }
}

/// Refuses objects of unknown kinds and those that are there twice; puts the rest in order.
fn settle(loaded: &mut Loaded) {
    loaded.documents.sort_by_key(|d| rank(&d.object));
    let kinds = Kinds::default();
    let mut seen: HashMap<(String, String), Place> = HashMap::new();
    let problems = &mut loaded.problems;
    loaded.documents.retain(|document| {
        let (version, kind) = (&document.object["apiVersion"], &document.object["kind"]);
        let (version, kind) = (
            version.as_str().unwrap_or_default(),
            kind.as_str().unwrap_or_default(),
        );
        let mut problem = |field: Option<&str>, reason: String, warning: bool| {
            problems.push(Problem {
                place: document.place.clone(),
                object: Some(document.title()),
                field: field.map(str::to_owned),
                reason,
                warning,
            });
        };
        if kind == "CustomResourceDefinition"
            && let Err(reason) = kinds.define(&document.object)
        {
            problem(None, reason, false);
            return false;
        }
        if kinds.by_type(version, kind).is_none() {
            problem(Some("kind"), unsupported(version, kind), true);
            return false;
        }
        let group = version.split_once('/').map_or("", |(g, _)| g).to_owned();
        match seen.entry((group, document.title())) {
            std::collections::hash_map::Entry::Occupied(first) => {
                problem(
                    None,
                    format!("is defined before, at {}: that one is used", first.get()),
                    false,
                );
                false
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(document.place.clone());
                true
            }
        }
    });
    problems.sort_by(|a, b| (&a.place.file, a.place.line).cmp(&(&b.place.file, b.place.line)));
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
