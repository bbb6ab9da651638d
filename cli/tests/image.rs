//! The image's build gets what it needs: `.dockerignore` lets through every crate of the workspace, and every file that the program is made of.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::Path;

#[test]
fn the_build_of_the_image_has_every_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let ignored = read_to_string(root.join(".dockerignore")).unwrap();
    let mut lines = ignored.lines();
    assert_eq!(lines.next(), Some("*"), "what isn't named isn't there");
    let there: Vec<&Path> = lines
        .filter_map(|line| line.strip_prefix('!'))
        .map(Path::new)
        .collect();
    let is_there = |path: &Path| there.iter().any(|one| path.starts_with(one));

    let manifest = read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .unwrap();
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    assert!(members.len() > 5, "{members:?}");
    for member in &members {
        assert!(is_there(Path::new(member)), ".dockerignore keeps {member} out");
    }

    // What the compiler says that its crates are made of.
    let root = root.canonicalize().unwrap();
    let compiled = Path::new(env!("CARGO_BIN_EXE_weft")).with_file_name("deps");
    let mut files = BTreeSet::new();
    for entry in compiled.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with("weft") && name.ends_with(".d") {
            let made_of = read_to_string(&path).unwrap();
            let there = made_of
                .split_whitespace()
                .filter_map(|file| root.join(file).canonicalize().ok());
            files.extend(there.filter_map(|file| file.strip_prefix(&root).map(Path::to_owned).ok()));
        }
    }
    files.retain(|file| !file.starts_with("target"));
    assert!(
        files.iter().any(|file| file.starts_with("deploy")),
        "the charts are in it"
    );
    for file in &files {
        assert!(is_there(file), ".dockerignore keeps {} out", file.display());
    }
}
