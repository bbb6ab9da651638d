//! `weft status`: what runs, which sidecars are connected, what each has acknowledged and refused.
//!
//! Enters: a sandbox or a cluster. Leaves: tables or JSON, and an exit code: 0 when every sidecar is connected and refuses nothing, 2 when
//! one isn't or does, 1 when that can't be told. Never: a change.

mod collect;
mod tables;
mod wait;

pub use collect::{door, pods};
pub use tables::{columns, sandbox};

use crate::reach::{self, Place, Reach};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;
use weft_sandbox::control::list;

/// Exit code when something is wrong with a sidecar, or the time is over.
const AMISS: u8 = 2;

/// Show what runs, which sidecars are connected, and what they have acknowledged
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 every sidecar is connected and refuses nothing; 2 one isn't or does, or --wait ran out of time; 1 that can't be told.

--wait returns when every sidecar has acknowledged what the API server holds when the command starts; the next request obeys it. \
It doesn't wait for what controllers haven't written by then, such as the endpoints of a Deployment applied a moment ago.")]
pub struct Status {
    #[command(flatten)]
    place: Place,
    /// Only sidecars of this namespace (all are waited for)
    #[arg(short, long)]
    namespace: Option<String>,
    /// Wait until every sidecar has acknowledged what is applied now
    #[arg(long)]
    wait: bool,
    /// Longest that --wait waits, such as 30s or 2m
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The same as -o json
    #[arg(long)]
    json: bool,
    /// Namespace of the control plane
    #[arg(long, default_value = SYSTEM_NAMESPACE)]
    system_namespace: String,
    /// Only the names of the sandboxes that run
    #[arg(long)]
    list: bool,
}

/// How a verb prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people.
    #[default]
    Table,
    /// JSON.
    Json,
}

/// A number with `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 30s or 2m");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Prints it.
pub fn run(args: &Status) -> anyhow::Result<ExitCode> {
    if args.list {
        for sandbox in list() {
            println!("{}", sandbox.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    reach::runtime()?.block_on(show(args))
}

async fn show(args: &Status) -> anyhow::Result<ExitCode> {
    let reach = args.place.reach().await?;
    let json = args.json || args.output == Output::Json;
    let mut amiss = false;
    if args.wait {
        let waited = wait::run(&reach, &args.system_namespace, args.timeout).await?;
        if let Err(late) = &waited {
            eprintln!("weft: {late}");
            amiss = true;
        }
    }
    let mut report = collect::report(&reach, &args.system_namespace).await?;
    if args.wait && !amiss {
        match report.refused.len() {
            0 if json => {}
            0 => println!("every sidecar has acknowledged what was applied\n"),
            _ => eprintln!("weft: every sidecar has answered; what is refused is listed"),
        }
    }
    amiss |= report.amiss();
    report.only(args.namespace.as_deref());
    let state = match &reach {
        Reach::Sandbox(client) => Some(client.status()?),
        Reach::Cluster(_) => None,
    };
    if json {
        let mut out = match &state {
            Some(state) => serde_json::to_value(state)?,
            None => json!({"name": reach.title()}),
        };
        out["mesh"] = serde_json::to_value(&report)?;
        println!("{}", serde_json::to_string_pretty(&out)?);
    } else {
        if let Some(state) = &state {
            print!("{}", sandbox(state));
            println!();
        }
        print!("{}", tables::mesh(&report));
    }
    Ok(ExitCode::from(if amiss { AMISS } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("2m", Some(120)),
            ("1h", Some(3600)),
            ("0s", Some(0)),
        ] {
            assert_eq!(duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["", "s", "30", "1d", "-1s", "1ü", "99999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
