//! `weft apply` and `weft delete`: objects of a running sandbox.

use crate::target::Which;
use clap::Args;
use std::path::PathBuf;
use weft_sandbox::control::{Applied, Client, Request};
use weft_sandbox::manifests;

/// Create or change objects of a running sandbox
#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    which: Which,
    /// Manifests, or directories of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Delete objects of a running sandbox
#[derive(Args, Debug)]
pub struct Delete {
    #[command(flatten)]
    which: Which,
    /// Manifests, or directories of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// `weft apply`.
pub fn apply(args: &Apply) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let loaded = manifests::load(&args.paths);
    finish(send(&client, &loaded, true)?)
}

/// `weft delete`.
pub fn delete(args: &Delete) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let loaded = manifests::load(&args.paths);
    finish(send(&client, &loaded, false)?)
}

fn finish(refused: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        refused == 0,
        "{refused} of them could not be used; the rest is in force"
    );
    Ok(())
}

/// Sends what could be read, prints what became of each, and returns how many problems there were.
pub fn send(client: &Client, loaded: &manifests::Loaded, apply: bool) -> anyhow::Result<usize> {
    let mut refused = 0;
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    if loaded.has_errors() {
        refused += 1;
    }
    let objects = loaded
        .documents
        .iter()
        .map(|document| document.object.clone())
        .collect();
    let request = if apply {
        Request::Apply { objects }
    } else {
        Request::Delete { objects }
    };
    let outcomes: Vec<Applied> = client.ask(&request)?;
    for (applied, document) in outcomes.iter().zip(&loaded.documents) {
        let place = &document.place;
        if applied.outcome == "refused" {
            refused += 1;
            eprintln!(
                "{place}: {} refused: {}",
                applied.object,
                applied.messages.join("; ")
            );
            continue;
        }
        println!("{} {}", applied.object, applied.outcome);
        for message in &applied.messages {
            eprintln!("{place}: {}: {message}", applied.object);
        }
    }
    Ok(refused)
}

/// Sends objects that must all be accepted.
pub fn send_quietly(client: &Client, loaded: &manifests::Loaded) -> anyhow::Result<()> {
    if let Some(problem) = loaded.problems.first() {
        anyhow::bail!("{problem}");
    }
    let objects = loaded
        .documents
        .iter()
        .map(|document| document.object.clone())
        .collect();
    let outcomes: Vec<Applied> = client.ask(&Request::Apply { objects })?;
    if let Some(refused) = outcomes.iter().find(|applied| applied.outcome == "refused") {
        anyhow::bail!("{} was refused: {}", refused.object, refused.messages.join("; "));
    }
    Ok(())
}
