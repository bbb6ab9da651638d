//! `weft inject`: what the webhook does, to manifests.
//!
//! Enters: a manifest, and the injector's settings from the environment. Leaves: the manifest with sidecars in it. Never: a part of
//! a manifest of which another part was refused.

use anyhow::Context as _;
use clap::Args;
use std::io::{Read as _, Write as _};
use weft_injector::manifest::{self, MAX_MANIFEST};

/// Put the sidecar into the pods of a manifest, as the webhook would
///
/// Documents without pods pass unchanged; those with pods lose their comments. The injector's settings are read from the
/// environment (WEFT_IMAGE, WEFT_CONTROL_PLANE, ...).
#[derive(Args, Debug)]
pub struct Inject {
    /// The manifest; `-` reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Image of the sidecar, instead of WEFT_IMAGE
    #[arg(long)]
    image: Option<String>,
}

/// Writes the injected manifest to standard output, and what became of each object to standard error.
pub fn run(args: &Inject) -> anyhow::Result<()> {
    let mut settings = weft_injector::Settings::from_env().context("the environment")?;
    if let Some(image) = &args.image {
        settings.template.image.clone_from(image);
    }
    let text = read(&args.file)?;
    let injected = manifest::inject(&text, &args.namespace, &settings);
    let file = if args.file == "-" { "stdin" } else { &args.file };
    for outcome in &injected.outcomes {
        let subject = if outcome.object.is_empty() {
            String::new()
        } else {
            format!("{}: ", outcome.object)
        };
        eprintln!("{file}:{}: {subject}{}", outcome.line, outcome.what);
        for warning in &outcome.warnings {
            eprintln!("{file}:{}: {subject}warning: {warning}", outcome.line);
        }
    }
    anyhow::ensure!(
        !injected.is_refused(),
        "nothing was written, since a part of {file} was refused"
    );
    let mut out = std::io::stdout().lock();
    out.write_all(injected.text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")
}

fn read(file: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let most = MAX_MANIFEST as u64 + 1;
    if file == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut bytes))
    }
    .with_context(|| format!("can't read {file}"))?;
    anyhow::ensure!(
        bytes.len() <= MAX_MANIFEST,
        "{file} is longer than {MAX_MANIFEST} bytes"
    );
    String::from_utf8(bytes).with_context(|| format!("{file} is not UTF-8"))
}
