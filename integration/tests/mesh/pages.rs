//! The pages of `docs/`: their manifests run, and their commands print what the page says.
//!
//! Blocks of `yaml` are manifests; one that begins with `# name.yaml` is that file for the commands. A block of `console` has commands behind `$ ` and what each prints: `…` stands for anything within a line, a line
//! `…` for any lines. Commands of `weft up` are for the reader: the mesh is up, with all files but those that a command applies first. A command is repeated until it prints what the page says, for what is
//! applied takes effect a moment later.

use crate::binary;
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("pages::routing", |mesh| page(mesh, "routing")),
    ("pages::balancing", |mesh| page(mesh, "balancing")),
    ("pages::failover", |mesh| page(mesh, "failover")),
    ("pages::resilience", |mesh| page(mesh, "resilience")),
    ("pages::access", |mesh| page(mesh, "access")),
    ("pages::gateway", |mesh| page(mesh, "gateway")),
    // Its commands need no mesh.
    ("pages::simulate", |mesh| page(mesh, "simulate")),
];

const PAGES: [&str; 6] = [
    "failover",
    "routing",
    "balancing",
    "resilience",
    "access",
    "gateway",
];

/// A command and the lines that it prints.
type Step = (String, Vec<String>);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/{name}.md"))
}

/// The blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{language}") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks(text, "console") {
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command.to_owned(), Vec::new())),
                (None, Some((_, printed))) => printed.push(line.to_owned()),
                (None, None) => panic!("output before any command: {line}"),
            }
        }
    }
    steps.retain(|(command, _)| !command.starts_with("weft up"));
    steps
}

/// Whether a line is as the page says.
fn line_fits(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn fits(wanted: &[String], printed: &[&str]) -> bool {
    match wanted.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => (0..=printed.len()).any(|skip| fits(rest, &printed[skip..])),
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, more)| line_fits(line, first) && fits(rest, more)),
    }
}

/// The file that a block is for the commands.
fn file(block: &str) -> Option<&str> {
    block.lines().next()?.strip_prefix("# ")
}

/// The manifests of a page that are there from the start.
fn manifests(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let steps = steps(&text);
    let later = |block: &String| {
        let file = file(block)?;
        let (command, _) = steps.iter().find(|(command, _)| command.ends_with(file))?;
        command.starts_with("weft apply ").then_some(())
    };
    let blocks = blocks(&text, "yaml").into_iter();
    blocks.filter(|block| later(block).is_none()).collect()
}

/// A mesh with the manifests of every page.
pub fn start() -> Mesh {
    let manifests: Vec<String> = PAGES.iter().flat_map(|name| manifests(name)).collect();
    Mesh::start("pages", &manifests.join("\n---\n"))
}

fn page(mesh: &Mesh, name: &str) {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let steps = steps(&text);
    assert!(!steps.is_empty(), "docs/{name}.md has no commands");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(binary::weft(), folder.path().join("weft")).unwrap();
    for block in blocks(&text, "yaml") {
        if let Some(file) = file(&block) {
            std::fs::write(folder.path().join(file), &block).unwrap();
        }
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let own = std::iter::once(folder.path().to_owned());
    let search = std::env::join_paths(own.chain(std::env::split_paths(&search))).unwrap();
    for (command, wanted) in steps {
        until(&format!("docs/{name}.md: {command}"), || {
            let output = Command::new("sh")
                .args(["-c", &command])
                .current_dir(folder.path())
                .env("PATH", &search)
                .env("WEFT_SANDBOX", mesh.name())
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            let lines: Vec<&str> = printed.lines().collect();
            match fits(&wanted, &lines) {
                true => Ok(()),
                false => Err(format!(
                    "wanted\n{}\nbut it printed\n{printed}{}",
                    wanted.join("\n"),
                    String::from_utf8_lossy(&output.stderr)
                )),
            }
        });
    }
}
