//! `weft simulate`: a zone dies: who serves, at what load, over which links, what is refused?
//!
//! Enters: manifests or a mesh that runs, a load, failures, bounds. Leaves: tables, JSON or a picture, and an exit code: 0 when every
//! stated bound holds, 1 when one would be broken, 2 when the question can't be answered. Never: a change; a rule of its own, the engine
//! plays the requests.

mod ask;
mod bounds;
mod live;
mod paths;
mod picture;
pub mod strain;
mod table;
mod town;

use crate::complaint;
use crate::reach::{self, Place};
use crate::world::{self, World};
use anyhow::{Context as _, ensure};
use ask::{Asked, Edge, Load, Named};
use bounds::Bounds;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use town::Built;
use weft_engine::simulate::{self, Failure, How, Options, Prediction, What};

/// Exit code when a bound would be broken.
const BROKEN: u8 = 1;
/// Exit code when the question can't be answered.
const USAGE: u8 = 2;

/// Show what a failure would do: who serves, at what load, over which links, and what is refused
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 every stated bound holds; 1 one would be broken; 2 the question can't be answered.

Examples:
  weft simulate -f shop/ --load shop/web=500 --edge 'shop/web->shop/cart=2' --down zone=us-east-1a
  weft simulate -f shop/ --load-file load.yaml --each zone --max-load 80% --no-refused --no-cross-region
  weft simulate --down region=eu-west --svg failure.svg     (the mesh that runs, with the load that it has)

Names without a namespace are in `default`. See docs/simulate.md.")]
pub struct Simulate {
    /// Manifests: files, and folders with everything in them; without it the mesh that runs is asked
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Requests per second: of a Service, from outside ([NAMESPACE/]SERVICE[:PORT][/PATH]=RATE), or of one caller (FROM->SERVICE=RATE)
    #[arg(long, value_name = "[FROM->]SERVICE=RATE", value_parser = ask::load)]
    load: Vec<Load>,
    /// Load, edges and capacities from a file of YAML: `load`, `edges`, `capacity`, each a map as the options are written
    #[arg(long, value_name = "FILE")]
    load_file: Option<PathBuf>,
    /// How many requests to another Service one request causes
    #[arg(long, value_name = "FROM->SERVICE=TIMES", value_parser = ask::edge)]
    edge: Vec<Edge>,
    /// How many requests per second each pod of a Service can serve (else the annotation traffic.weft.dev/capacity, else loads are
    /// relative to the busiest pod's now)
    #[arg(long, value_name = "SERVICE=RATE", value_parser = ask::named)]
    capacity: Vec<Named>,
    /// How long the load of a mesh that runs is measured, such as 10s
    #[arg(long, default_value = "10s", value_parser = ask::duration)]
    measure: Duration,
    /// What dies: node=, zone=, region=, service= or pod=NAME
    #[arg(long, value_name = "KIND=NAME", value_parser = ask::down)]
    down: Vec<Failure>,
    /// What answers later, and by how much: KIND=NAME:200ms
    #[arg(long, value_name = "KIND=NAME:TIME", value_parser = ask::slow)]
    slow: Vec<Failure>,
    /// What answers with errors, and how often: KIND=NAME:50%, or KIND=NAME:50%:500 for another status than 503
    #[arg(long, value_name = "KIND=NAME:SHARE", value_parser = ask::erring)]
    err: Vec<Failure>,
    /// Each of them dies once, alone; with what the other options say
    #[arg(long, value_enum)]
    each: Option<Each>,
    /// Bound: no group of endpoints has more, such as 80%
    #[arg(long, value_name = "SHARE", value_parser = ask::share)]
    max_load: Option<f64>,
    /// Bound: nothing goes from one region to another
    #[arg(long)]
    no_cross_region: bool,
    /// Bound: no request fails
    #[arg(long)]
    no_refused: bool,
    /// Share of requests that must not run twice, such as 20%
    #[arg(long = "unsafe", value_name = "SHARE", default_value = "0%", value_parser = ask::part)]
    unsafe_share: f64,
    /// How many requests of each load are played; more is more exact
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    requests: u32,
    /// Another seed plays other requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Draw what is left after the failure
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What dies once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Each {
    /// Every zone.
    Zone,
    /// Every region.
    Region,
    /// Every node.
    Node,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people.
    #[default]
    Table,
    /// JSON.
    Json,
}

/// One failure and what it does.
struct Case {
    title: String,
    failures: Vec<Failure>,
    prediction: Prediction,
    broken: Vec<String>,
}

/// Prints it.
pub fn run(args: &Simulate) -> ExitCode {
    match answer(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(error) => {
            eprintln!("weft: {}", complaint::line(&error));
            ExitCode::from(USAGE)
        }
    }
}

/// Whether every bound holds.
fn answer(args: &Simulate) -> anyhow::Result<bool> {
    let mut asked = Asked {
        loads: args.load.clone(),
        edges: args.edge.clone(),
        capacities: args.capacity.clone(),
    };
    if let Some(file) = &args.load_file {
        asked.read(file)?;
    }
    let world = match args.file.is_empty() {
        false => world::load(&args.file)?,
        true => {
            let (world, measured) = reach::runtime()?.block_on(async {
                let reach = args.place.reach().await?;
                let world = live::world(&reach).await?;
                let measured = match asked.loads.is_empty() {
                    true => live::measure(&reach, &world, args.measure).await?,
                    false => Vec::new(),
                };
                anyhow::Ok((world, measured))
            })?;
            asked.loads.extend(measured);
            world
        }
    };
    complain(&world);
    let built = town::build(&world, &asked)?;
    let options = Options {
        seed: args.seed,
        requests: args.requests,
        unsafe_share: args.unsafe_share,
        ..Options::default()
    };
    let bounds = Bounds {
        load: args.max_load,
        one_region: args.no_cross_region,
        none_refused: args.no_refused,
    };
    let mut cases = Vec::new();
    for (title, failures) in wanted(args, &built)? {
        let prediction = simulate::run(&built.town, &failures, &options)?;
        let broken = bounds.broken(&prediction);
        cases.push(Case {
            title,
            failures,
            prediction,
            broken,
        });
    }
    match args.output {
        Output::Table => print!("{}", table::text(&cases, &built, args.each.is_some(), bounds)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(&cases))?),
    }
    if let Some(file) = &args.svg {
        let drawn: Vec<String> = cases.iter().map(|case| picture::svg(case, &built)).collect();
        for (number, drawing) in drawn.iter().enumerate() {
            let file = match drawn.len() {
                1 => file.clone(),
                _ => numbered(file, number + 1),
            };
            std::fs::write(&file, drawing).with_context(|| format!("can't write {}", file.display()))?;
        }
    }
    let broken: Vec<&Case> = cases.iter().filter(|case| !case.broken.is_empty()).collect();
    for case in &broken {
        for bound in &case.broken {
            eprintln!("weft: {}: {bound}", case.title);
        }
    }
    Ok(broken.is_empty())
}

/// `failure.svg`, the second: `failure-2.svg`.
fn numbered(file: &std::path::Path, number: usize) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file
        .extension()
        .map_or_else(|| "svg".into(), |e| e.to_string_lossy());
    file.with_file_name(format!("{stem}-{number}.{extension}"))
}

/// What is wrong with the manifests goes to standard error: the answer is about those that can be used.
fn complain(world: &World) {
    for finding in &world.findings {
        eprintln!("weft: {finding}");
    }
}

/// The failures that are asked about, each with a title.
fn wanted(args: &Simulate, built: &Built) -> anyhow::Result<Vec<(String, Vec<Failure>)>> {
    let always: Vec<Failure> = [&args.down, &args.slow, &args.err]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    for failure in &always {
        ensure!(
            failure.what.exists(&built.town),
            "there is no {}: nothing would fail{}",
            ask::title(&failure.what),
            town::hint(&built.town, &failure.what)
        );
    }
    let titled = |failures: Vec<Failure>| {
        let words: Vec<String> = failures.iter().map(ask::words).collect();
        let title = if words.is_empty() {
            "as it is".to_owned()
        } else {
            words.join(", ")
        };
        (title, failures)
    };
    let Some(each) = args.each else {
        return Ok(vec![titled(always)]);
    };
    let places = town::places(&built.town, each);
    ensure!(
        !places.is_empty(),
        "no node says which {} it is in: nothing to take away one by one",
        match each {
            Each::Zone => "zone",
            Each::Region => "region",
            Each::Node => "node",
        }
    );
    let case = |place: std::sync::Arc<str>| {
        let what = match each {
            Each::Zone => What::Zone(place),
            Each::Region => What::Region(place),
            Each::Node => What::Node(place),
        };
        let mut failures = always.clone();
        failures.push(Failure { what, how: How::Down });
        titled(failures)
    };
    Ok(places.into_iter().map(case).collect())
}

fn as_json(cases: &[Case]) -> serde_json::Value {
    let cases: Vec<serde_json::Value> = cases
        .iter()
        .map(|case| {
            json!({
                "failure": case.title,
                "brokenBounds": case.broken,
                "before": case.prediction.before,
                "atOnce": case.prediction.at_once,
                "settled": case.prediction.settled,
            })
        })
        .collect();
    json!({"cases": cases})
}
