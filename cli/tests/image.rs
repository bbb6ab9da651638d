//! The image's build gets what it needs: `.dockerignore` lets through every crate of the workspace, and every file that the program is made of.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

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

    let binary = Path::new(env!("CARGO_BIN_EXE_weft"));
    let made_of = read_to_string(binary.with_extension("d")).unwrap();
    let root = root.canonicalize().unwrap();
    let files = made_of
        .split_whitespace()
        .filter_map(|file| Path::new(file).canonicalize().ok());
    let files = files.filter_map(|file| file.strip_prefix(&root).map(Path::to_owned).ok());
    let files: Vec<_> = files.filter(|file| !file.starts_with("target")).collect();
    assert!(
        files.iter().any(|file| file.starts_with("deploy")),
        "the charts are in it"
    );
    for file in files {
        assert!(is_there(&file), ".dockerignore keeps {} out", file.display());
    }
}
