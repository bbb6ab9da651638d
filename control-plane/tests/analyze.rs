//! Manifests in, everything that `weft analyze` says out, compared with what is kept beside them.
//!
//! `UPDATE=1 cargo test -p weft-control-plane --test analyze` writes `tests/analyze/<case>.txt` anew.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_control_plane::analyze::analyze;
use weft_control_plane::ingest::files;
use weft_control_plane::mesh::{Settings, Store};
use weft_control_plane::translate::Shared;
use weft_proto::model::TrustDomain;

#[test]
fn findings_are_as_kept() {
    for case in ["shop", "gateway"] {
        let folder = Path::new("tests/analyze").join(case);
        let (objects, findings) = files::load(std::slice::from_ref(&folder));
        assert_eq!(findings, []);
        let mut store = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap())).0;
        store.apply(files::changes(&objects));
        let mut text = String::new();
        for found in analyze(&Shared::new(Arc::new(store.mesh().clone()))) {
            writeln!(text, "{:?}: {found}", found.severity).unwrap();
        }
        let kept = folder.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&kept, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&kept).unwrap_or_default(), text, "{case}");
    }
}

/// Codes of findings in the sources.
fn codes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for (at, _) in text.match_indices("Diagnostic::") {
                let rest = &text[at + "Diagnostic::".len()..];
                let Some((name, rest)) = rest.split_once('(') else {
                    continue;
                };
                if !["error", "warning", "info"].contains(&name) {
                    continue;
                }
                if let Some(code) = rest.trim_start().strip_prefix('"') {
                    found.insert(code.split('"').next().unwrap().to_owned());
                }
            }
        }
    }
}

#[test]
fn every_code_is_in_the_documents() {
    let mut found = BTreeSet::new();
    codes(Path::new("src"), &mut found);
    assert!(found.len() > 20, "{found:?}");
    let page = std::fs::read_to_string(PathBuf::from("../docs/analyze.md")).unwrap();
    let missing: Vec<_> = found
        .iter()
        .filter(|code| !page.contains(&format!("| `{code}` |")))
        .collect();
    assert!(missing.is_empty(), "docs/analyze.md has no line for {missing:?}");
}
