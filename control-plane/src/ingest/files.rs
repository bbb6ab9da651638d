//! The offline source: folders of manifests.
//!
//! Enters: paths of files and folders. Leaves: objects with file and line, and findings. Never: an object that is lost
//! because another one can't be read.

use super::kind::{self, Kind};
use super::read::{Metadata, read};
use crate::mesh::gateway::SecretProblem;
use crate::mesh::{Change, Diagnostic, Key, Read, Settings, Store, TlsSecret};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_proto::model::{Origin, TrustDomain};

/// Most files that are read.
const MOST_FILES: usize = 10_000;
/// Largest file, in bytes.
const LARGEST_FILE: u64 = 16 << 20;
/// Most folders inside one another.
const DEEPEST: usize = 32;

/// An object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its metadata; a namespaced object without a namespace is in `default`, as for `kubectl`.
    pub metadata: Metadata,
    /// All of it.
    pub body: Value,
    /// Which one, and where it was read.
    pub origin: Origin,
    /// The file can't be parsed any more; this is how the object was before.
    pub stale: bool,
}

/// Files that are read again and again.
#[derive(Debug, Default)]
pub struct Folder {
    paths: Vec<PathBuf>,
    good: BTreeMap<PathBuf, Vec<Object>>,
}

/// Reads files, and folders with everything in them, once.
pub fn load(paths: &[PathBuf]) -> (Vec<Object>, Vec<Diagnostic>) {
    Folder::new(paths.to_vec()).read()
}

/// The changes that make a mesh of objects: everything of every kind, complete. Each workload counts as a pod of its name.
pub fn changes(objects: &[Object]) -> Vec<Change> {
    complete(objects, template)
}

/// The changes that make a mesh of objects that have their pods among them.
pub fn changes_as_they_are(objects: &[Object]) -> Vec<Change> {
    complete(objects, |_| None)
}

fn complete(objects: &[Object], more: impl Fn(&Object) -> Option<Read>) -> Vec<Change> {
    let mut kinds: BTreeMap<&str, Vec<Read>> =
        kind::KINDS.iter().map(|kind| (kind.kind, Vec::new())).collect();
    for object in objects {
        let read = read(object.kind, &object.metadata, &object.body, object.origin.clone());
        kinds.entry(object.kind.kind).or_default().push(read);
        kinds.entry("Pod").or_default().extend(more(object));
    }
    let replace = |(kind, objects): (&str, _)| Change::Replace {
        kind: kind.into(),
        objects,
    };
    let mut changes: Vec<Change> = kinds.into_iter().map(replace).chain([Change::Synced]).collect();
    changes.extend(absent_secrets(&changes));
    changes
}

/// Secrets that are referred to and are in no file: there is nowhere else to look for them.
fn absent_secrets(changes: &[Change]) -> Vec<Change> {
    let edge = |change: &Change| matches!(change, Change::Replace { kind, objects } if matches!(&**kind, "Gateway" | "Ingress") && !objects.is_empty());
    if !changes.iter().any(edge) {
        return Vec::new();
    }
    // Who is asked for names only asks no trust domain.
    let Ok(domain) = TrustDomain::new("cluster.local") else {
        return Vec::new();
    };
    let (mut store, _) = Store::new(Settings::new(domain));
    store.apply(changes.iter().cloned());
    let mesh = store.mesh();
    let wanted = crate::translate::gateway::secrets(mesh).into_iter();
    let absent = wanted.filter(|name| !mesh.tls_secrets.contains_key(name));
    absent
        .map(|name| Change::Put(Box::new(TlsSecret::without(&name, SecretProblem::Missing).read())))
        .collect()
}

/// The pod that a workload would make, under the workload's name: manifests have no other pods that a selector could
/// select.
fn template(object: &Object) -> Option<Read> {
    let spec = object.body.get("spec")?;
    let template = match object.kind.kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => spec.get("template")?,
        "CronJob" => spec.pointer("/jobTemplate/spec/template")?,
        _ => return None,
    };
    let pod = kind::find("v1", "Pod").ok()?;
    let declared = Metadata::from_json(template.get("metadata").unwrap_or(&Value::Null)).unwrap_or_default();
    let metadata = Metadata {
        labels: declared.labels,
        ..object.metadata.clone()
    };
    let origin = Origin {
        kind: "Pod".into(),
        ..object.origin.clone()
    };
    Some(read(pod, &metadata, template, origin))
}

impl Folder {
    /// Files and folders to read; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            good: BTreeMap::new(),
        }
    }

    /// Reads everything. A file that can't be parsed keeps the objects that it had when it last could, marked stale;
    /// one that never could gives those of its documents that can be.
    pub fn read(&mut self) -> (Vec<Object>, Vec<Diagnostic>) {
        let mut findings = Vec::new();
        let mut files = BTreeSet::new();
        for path in &self.paths {
            let before = (files.len(), findings.len());
            find(path, true, DEEPEST, &mut files, &mut findings);
            if (files.len(), findings.len()) == before
                && path.is_dir()
                && !files.iter().any(|file| file.starts_with(path))
            {
                let finding =
                    about(path, 0, "folder-empty").because("no file in it ends in .yaml, .yml or .json");
                findings.push(finding.so("name the folder that the manifests are in"));
            }
        }
        if files.len() > MOST_FILES {
            let reason = format!("there are {} files; the first {MOST_FILES} are read", files.len());
            findings.push(
                about(&self.paths[0], 0, "file-too-many")
                    .because(reason)
                    .so("name fewer"),
            );
        }
        let mut all = Vec::new();
        let mut good = BTreeMap::new();
        for file in files.into_iter().take(MOST_FILES) {
            let (objects, whole) = parse(&file, &mut findings);
            let objects = match (whole, self.good.get(&file)) {
                (false, Some(before)) => {
                    let keep = before.iter().cloned().map(|object| Object {
                        stale: true,
                        ..object
                    });
                    keep.collect()
                }
                _ => objects,
            };
            all.extend(objects.iter().cloned());
            if whole || self.good.contains_key(&file) {
                good.insert(file, objects);
            }
        }
        self.good = good;
        (without_collisions(all, &mut findings), findings)
    }
}

/// Of objects with the same kind, namespace and name the first counts.
fn without_collisions(objects: Vec<Object>, findings: &mut Vec<Diagnostic>) -> Vec<Object> {
    let mut seen: BTreeMap<(&str, Key), Origin> = BTreeMap::new();
    let mut kept = Vec::new();
    for object in objects {
        let key = Key::new(object.kind.kind, &object.origin.namespace, &object.origin.name);
        let first = seen
            .entry((object.kind.group, key))
            .or_insert_with(|| object.origin.clone());
        if *first == object.origin {
            kept.push(object);
        } else {
            let place = format!("{}:{}", first.file.as_deref().unwrap_or_default(), first.line);
            let finding = Diagnostic::error("object-collides", &object.origin)
                .because(format!("is declared already, in {place}, which counts"))
                .so("rename or remove one of the two");
            findings.push(finding);
        }
    }
    kept
}

/// Files below a path. What is named counts whatever it is called; of a folder, what ends in `.yaml`, `.yml` or `.json`.
fn find(
    path: &Path,
    named: bool,
    depth: usize,
    files: &mut BTreeSet<PathBuf>,
    findings: &mut Vec<Diagnostic>,
) {
    let failed = |error: std::io::Error| {
        about(path, 0, "file-unreadable")
            .because(error.to_string())
            .so("check the path and its permissions")
    };
    match fs::metadata(path) {
        Err(error) => findings.push(failed(error)),
        Ok(what) if what.is_dir() && depth > 0 => match fs::read_dir(path) {
            Err(error) => findings.push(failed(error)),
            Ok(entries) => {
                for entry in entries.filter_map(Result::ok) {
                    if !entry.file_name().as_encoded_bytes().starts_with(b".") && files.len() <= MOST_FILES {
                        find(&entry.path(), false, depth - 1, files, findings);
                    }
                }
            }
        },
        Ok(what) if what.is_file() => {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if named || matches!(extension, Some("yaml" | "yml" | "json")) {
                files.insert(path.to_path_buf());
            }
        }
        Ok(_) => {}
    }
}

/// Objects of a file, and whether all of it could be parsed.
fn parse(path: &Path, findings: &mut Vec<Diagnostic>) -> (Vec<Object>, bool) {
    let text = match text(path) {
        Ok(text) => text,
        Err(reason) => {
            findings.push(
                about(path, 0, "file-unreadable")
                    .because(reason)
                    .so("check the file"),
            );
            return (Vec::new(), false);
        }
    };
    let mut objects = Vec::new();
    let mut whole = true;
    for (line, document) in documents(&text) {
        match serde_saphyr::from_str::<Value>(&document) {
            Ok(Value::Null) => {}
            Ok(value) => object(path, line, value, &mut objects, findings, true),
            Err(error) => {
                whole = false;
                let (at, error) = match error.location() {
                    Some(place) => (
                        line + u32::try_from(place.line()).unwrap_or(1).max(1) - 1,
                        error.to_string(),
                    ),
                    None => (line, error.to_string()),
                };
                let reason = error.lines().next().unwrap_or_default();
                // Its own place is within the document; the finding's is within the file.
                let reason = match reason
                    .strip_prefix("error: line ")
                    .and_then(|rest| rest.split_once(": "))
                {
                    Some((_, reason)) => reason,
                    None => reason,
                };
                let finding = about(path, at, "file-malformed").because(format!("is no YAML: {reason}"));
                findings.push(finding.so("correct the file; what this document says is left out"));
            }
        }
    }
    (objects, whole)
}

/// The text of a file, if it is not too large.
pub(super) fn text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("is larger than {} MiB", LARGEST_FILE >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// The documents of a YAML stream, each with the line where its content starts. A line that starts with `---` is
/// always a boundary (YAML 1.2, section 9.1.2).
pub(super) fn documents(text: &str) -> Vec<(u32, String)> {
    let mut documents: Vec<(u32, String)> = vec![(1, String::new())];
    for (number, line) in (1u32..).zip(text.split_inclusive('\n')) {
        let boundary = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        match (boundary, documents.last_mut()) {
            (Some(rest), _) => documents.push((number, format!("   {rest}"))),
            (None, Some((_, document))) => document.push_str(line),
            (None, None) => {}
        }
    }
    for (line, document) in &mut documents {
        let blank = document.split_inclusive('\n').take_while(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#')
        });
        let skipped = blank.clone().count();
        let bytes: usize = blank.map(str::len).sum();
        document.drain(..bytes);
        *line += u32::try_from(skipped).unwrap_or_default();
    }
    documents.retain(|(_, document)| !document.is_empty());
    documents
}

fn object(
    path: &Path,
    line: u32,
    value: Value,
    objects: &mut Vec<Object>,
    findings: &mut Vec<Diagnostic>,
    lists: bool,
) {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if lists && api_version == "v1" && kind == "List" {
        if let Some(Value::Array(items)) = value.get("items") {
            items
                .iter()
                .for_each(|item| object(path, line, item.clone(), objects, findings, false));
        }
        return;
    }
    if api_version.is_empty() || kind.is_empty() {
        let finding =
            about(path, line, "object-unreadable").at(if kind.is_empty() { "kind" } else { "apiVersion" });
        findings.push(
            finding
                .because("is missing")
                .so("every object needs apiVersion, kind and metadata.name"),
        );
        return;
    }
    let metadata = match Metadata::from_json(value.get("metadata").unwrap_or(&Value::Null)) {
        Ok(metadata) if !metadata.name.is_empty() => metadata,
        Ok(_) => {
            let finding = about(path, line, "object-unreadable")
                .at("metadata.name")
                .because("is missing");
            findings.push(finding.so("name the object"));
            return;
        }
        Err(error) => {
            let finding = about(path, line, "object-unreadable")
                .at("metadata")
                .because(error.to_string());
            findings.push(finding.so("correct it"));
            return;
        }
    };
    let origin = Origin {
        file: Some(name(path)),
        line,
        ..Origin::object(&kind, &metadata.namespace, &metadata.name)
    };
    match kind::find(&api_version, &kind) {
        Ok(kind) => {
            let mut metadata = metadata;
            if kind.namespaced && metadata.namespace.is_empty() {
                metadata.namespace = "default".into();
            }
            let origin = Origin {
                namespace: metadata.namespace.clone(),
                ..origin
            };
            objects.push(Object {
                kind,
                metadata,
                body: value,
                origin,
                stale: false,
            });
        }
        Err(error) => {
            let finding = Diagnostic::warning("kind-unknown", &origin)
                .at("kind")
                .because(error.to_string());
            findings.push(finding.so("check apiVersion and kind; the object is left out"));
        }
    }
}

fn about(path: &Path, line: u32, code: &'static str) -> Diagnostic {
    Diagnostic::error(
        code,
        &Origin {
            file: Some(name(path)),
            line,
            ..Origin::default()
        },
    )
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(objects: &[Object]) -> Vec<(&str, u32, bool)> {
        objects
            .iter()
            .map(|object| (&*object.origin.name, object.origin.line, object.stale))
            .collect()
    }

    #[test]
    fn a_file_that_breaks_keeps_its_last_good_objects_and_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let good = "kind: Namespace\napiVersion: v1\nmetadata: {name: a}\n---\n# b\n\nkind: Namespace\napiVersion: v1\nmetadata: {name: b}\n";
        fs::write(&file, good).unwrap();
        fs::write(folder.path().join(".hidden.yaml"), "{").unwrap();
        let mut watched = Folder::new(vec![folder.path().to_path_buf()]);
        let (objects, findings) = watched.read();
        assert_eq!(namespaces(&objects), [("a", 1, false), ("b", 7, false)]);
        assert_eq!(findings, []);

        fs::write(
            &file,
            "kind: Namespace\napiVersion: v1\nmetadata: {name: c}\n---\na: [1\nb: 2\n",
        )
        .unwrap();
        for _ in 0..2 {
            let (objects, findings) = watched.read();
            assert_eq!(namespaces(&objects), [("a", 1, true), ("b", 7, true)]);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(
                (findings[0].code, findings[0].object.line > 4),
                ("file-malformed", true),
                "{findings:?}"
            );
        }
        assert_eq!(
            namespaces(&load(std::slice::from_ref(&file)).0),
            [("c", 1, false)]
        );

        fs::write(&file, good).unwrap();
        assert_eq!(namespaces(&watched.read().0), [("a", 1, false), ("b", 7, false)]);
        fs::remove_file(&file).unwrap();
        let (objects, findings) = watched.read();
        assert_eq!(objects, []);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].code, "folder-empty");
    }

    #[test]
    fn bombs_and_oddities_are_refused_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        for (name, bytes) in [
            ("bomb.yaml", bomb.into_bytes()),
            ("deep.yaml", vec![b'['; 100_000]),
            ("binary.yaml", vec![0xff; 100]),
            ("scalar.yaml", b"just text".to_vec()),
            ("twice.yaml", b"kind: Namespace\nkind: Node\n".to_vec()),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let (objects, findings) = load(&[path]);
            assert_eq!((objects.len(), findings.len()), (0, 1), "{name}: {findings:?}");
        }
        let (_, findings) = load(&[folder.path().join("missing")]);
        assert_eq!(findings[0].code, "file-unreadable");
    }
}
