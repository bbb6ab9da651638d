//! `weft analyze`: what has no effect, conflicts, refers to nothing or can't work.
//!
//! Enters: manifests, or a mesh that runs. Leaves: findings for people, programs or GitHub, and an exit code. Never: a change.

use crate::reach::{self, Place, Reach};
use crate::simulate::strain::{self, Told};
use crate::status::{door, pods};
use crate::world::{self, World};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use weft_control_plane::analyze::analyze;
use weft_control_plane::ingest::lines::Lines;
use weft_control_plane::mesh::Diagnostic;
use weft_control_plane::translate::Shared;
use weft_proto::model::Origin;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

/// Exit code when there is a finding that --fail-on names.
const FOUND: u8 = 2;
/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Find what has no effect, conflicts, refers to nothing or can't work
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 nothing as bad as --fail-on; 2 something is; 1 that can't be told.

Every code is explained in docs/analyze.md.")]
pub struct Analyze {
    /// Manifests: files, and folders with everything in them; without it the mesh that runs is analyzed
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    told: Told,
    /// Only objects of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Leave out what is less bad
    #[arg(long, value_enum, default_value_t = Severity::Info)]
    level: Severity,
    /// What makes the exit code 2
    #[arg(long, value_enum, default_value_t = Severity::Error)]
    fail_on: Severity,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Namespace of the control plane
    #[arg(long, default_value = SYSTEM_NAMESPACE)]
    system_namespace: String,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// A list of objects.
    Json,
    /// Annotations of GitHub Actions.
    Github,
}

/// How bad it is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Something that was asked for doesn't happen.
    Error,
    /// Something may not be what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// A finding, as the control plane's debug page has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Found {
    severity: Severity,
    code: String,
    object: Origin,
    field: String,
    reason: String,
    action: String,
}

/// Prints the findings.
pub fn run(args: &Analyze) -> anyhow::Result<ExitCode> {
    let (mut found, objects) = match args.file.is_empty() {
        true => (reach::runtime()?.block_on(live(args))?, None),
        false => {
            let (found, objects) = offline(&args.file, &args.told)?;
            let of = |object: &&Arc<str>| args.namespace.as_deref().is_none_or(|only| *only == ***object);
            (found, Some(objects.iter().filter(of).count()))
        }
    };
    found.retain(|one| {
        let of_namespace = |namespace: &String| *one.object.namespace == **namespace;
        one.severity <= args.level && args.namespace.as_ref().is_none_or(of_namespace)
    });
    found.sort();
    match args.output {
        Output::Text => print!("{}", text(&found, objects, colours())),
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Github => print!("{}", github(&found)),
    }
    let fails = found.iter().any(|one| one.severity <= args.fail_on);
    Ok(ExitCode::from(if fails { FOUND } else { 0 }))
}

/// What is found in manifests, and the namespace of each of their objects.
fn offline(paths: &[PathBuf], told: &Told) -> anyhow::Result<(Vec<Found>, Vec<Arc<str>>)> {
    let world = world::load(paths)?;
    // What was made of an object has its place.
    let places: BTreeSet<_> = (world.objects.iter().map(|object| &object.origin))
        .filter(|origin| origin.file.is_some())
        .map(|origin| (&origin.file, origin.line, &origin.namespace))
        .collect();
    let objects = places
        .into_iter()
        .map(|(.., namespace)| namespace.clone())
        .collect();
    let strained = match told.asked()? {
        Some(asked) => strain::findings(&world, &asked)?,
        None => Vec::new(),
    };
    let World {
        mesh, mut findings, ..
    } = world;
    findings.extend(analyze(&Shared::new(mesh)));
    findings.extend(strained);
    let mut lines = Lines::default();
    findings.iter_mut().for_each(|finding| lines.point(finding));
    let read = |finding: &Diagnostic| Ok(serde_json::from_value(serde_json::to_value(finding)?)?);
    let found = findings.iter().map(read).collect::<anyhow::Result<_>>()?;
    Ok((found, objects))
}

/// What a replica of the control plane says: each sees everything.
async fn live(args: &Analyze) -> anyhow::Result<Vec<Found>> {
    let reach: Reach = args.place.reach().await?;
    // "nothing found" of a namespace that isn't there would be taken for something good.
    if let Some(name) = &args.namespace
        && let Ok(namespaces) = reach.namespaces().await
    {
        let known = namespaces.iter().any(|known| known["metadata"]["name"] == **name);
        anyhow::ensure!(known, "{}: there is no namespace {name}", reach.title());
    }
    let mut last = None;
    for pod in pods(&reach).await? {
        if !pod.serves(&args.system_namespace) {
            continue;
        }
        let door = door(&args.system_namespace, &pod.name);
        match reach.page(door, "/debug/diagnostics", PATIENCE).await {
            Ok(page) => return serde_json::from_value(page).context("the control plane's findings"),
            Err(error) => last = Some(error),
        }
    }
    let why = last.unwrap_or_else(|| {
        anyhow::anyhow!(
            "there is none in namespace {}: is Weft installed? (weft check)",
            args.system_namespace
        )
    });
    Err(why.context(format!(
        "{}: no replica of the control plane can be asked",
        reach.title()
    )))
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// For people; of manifests the number of objects is known, so that nobody takes nothing for something good.
fn text(found: &[Found], objects: Option<usize>, colours: bool) -> String {
    let mut out = String::new();
    let paint = |severity: Severity, text: &str| match (colours, severity) {
        (false, _) => text.to_owned(),
        (true, Severity::Error) => format!("\x1b[31m{text}\x1b[0m"),
        (true, Severity::Warning) => format!("\x1b[33m{text}\x1b[0m"),
        (true, Severity::Info) => format!("\x1b[36m{text}\x1b[0m"),
    };
    for one in found {
        let object = Origin {
            file: None,
            ..one.object.clone()
        };
        let place = match (&one.object.file, one.object.line) {
            (Some(file), 0) => format!("  {file}"),
            (Some(file), line) => format!("  {file}:{line}"),
            (None, _) => String::new(),
        };
        let severity = paint(one.severity, one.severity.name());
        let what = format!("{}{place}", object.to_string().trim());
        let _ = writeln!(out, "{severity} [{}] {}", one.code, what.trim());
        let field = if one.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", one.field)
        };
        let _ = writeln!(out, "    {field}{}", one.reason);
        if !one.action.is_empty() {
            let _ = writeln!(out, "    mend: {}", one.action);
        }
    }
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    if found.is_empty() {
        let objects = objects.map(|count| format!(" in {}", plural(count, "object")));
        let _ = writeln!(out, "nothing found{}", objects.unwrap_or_default());
    } else {
        let _ = writeln!(
            out,
            "\n{}, {}, {}",
            plural(count(Severity::Error), "error"),
            plural(count(Severity::Warning), "warning"),
            plural(count(Severity::Info), "remark")
        );
    }
    out
}

/// Workflow commands: `::error file=…,line=…,title=…::message`.
fn github(found: &[Found]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for one in found {
        let command = match one.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "notice",
        };
        let place = match (&one.object.file, one.object.line) {
            (Some(file), 0) => format!("file={},", property(file)),
            (Some(file), line) => format!("file={},line={line},", property(file)),
            (None, _) => String::new(),
        };
        let object = Origin {
            file: None,
            ..one.object.clone()
        };
        let what = format!("{} {}", object.to_string().trim(), one.field);
        let message = match what.trim() {
            "" => format!("{}; {}", one.reason, one.action),
            what => format!("{what}: {}; {}", one.reason, one.action),
        };
        let _ = writeln!(
            out,
            "::{command} {place}title={}::{}",
            property(&one.code),
            data(message.trim())
        );
    }
    out
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            severity: Severity::Warning,
            code: "rule-shadowed".to_owned(),
            object: Origin {
                file: Some("shop/a,b.yaml".into()),
                line: 7,
                ..Origin::object("HTTPRoute", "shop", "cart")
            },
            field: "spec.rules[1]".to_owned(),
            reason: "never decides".to_owned(),
            action: "remove it".to_owned(),
        }
    }

    #[test]
    fn people_read_where_why_and_what_to_do() {
        assert_eq!(
            text(&[found()], Some(2), false),
            "warning [rule-shadowed] HTTPRoute shop/cart  shop/a,b.yaml:7\n    spec.rules[1]: never decides\n    mend: remove it\n\n\
             0 errors, 1 warning, 0 remarks\n"
        );
        assert_eq!(text(&[], None, false), "nothing found\n");
        assert_eq!(text(&[], Some(1), false), "nothing found in 1 object\n");
        let file = Found {
            object: Origin {
                file: Some("a.yaml".into()),
                ..Origin::default()
            },
            field: String::new(),
            ..found()
        };
        let said = text(std::slice::from_ref(&file), None, false);
        assert!(said.starts_with("warning [rule-shadowed] a.yaml\n"), "{said}");
        assert_eq!(
            github(&[file]),
            "::warning file=a.yaml,title=rule-shadowed::never decides; remove it\n"
        );
    }

    /// A zone's loss, with the load that somebody says: the finding is on the Service's own line.
    #[test]
    fn a_load_tells_what_would_be_overloaded() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            analyze: Analyze,
        }
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulate.md");
        let page = std::fs::read_to_string(page).unwrap();
        let block = page
            .split("```yaml\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(file.path(), block.unwrap()).unwrap();
        let path = file.path().to_str().unwrap();
        let found = |more: &[&str]| {
            let line = [&["analyze", "-f", path][..], more].concat();
            let line = <Line as clap::Parser>::parse_from(line).analyze;
            let (mut found, _) = offline(&line.file, &line.told).unwrap();
            found.retain(|one| one.code == "service-overloaded");
            found
        };
        assert_eq!(found(&[]), []);
        assert_eq!(found(&["--load", "shop/web->shop/cart=120"]), []);
        let [one] = &found(&["--load", "shop/web->shop/cart=240"])[..] else {
            panic!("one Service is overloaded");
        };
        assert!(one.reason.contains("when zone us-east-1b is gone"), "{one:?}");
        assert_eq!((&*one.object.kind, &*one.object.name), ("Service", "cart"));
    }

    #[test]
    fn github_reads_file_and_line() {
        assert_eq!(
            github(&[found()]),
            "::warning file=shop/a%2Cb.yaml,line=7,title=rule-shadowed::HTTPRoute shop/cart spec.rules[1]: never decides; remove it\n"
        );
    }
}
