//! `weft explain`: why a request goes where it goes.
//!
//! Enters: who sends, to which URL, and manifests, or a mesh that runs. Leaves: the way of that one request, step by step, with what was
//! not chosen and why; an exit code. Never: the request itself; a decision of its own.

/// From a mesh that runs.
mod live;
/// From manifests.
mod offline;
/// What manifests leave to others.
mod assumed;
/// Lines of rules.
mod origins;
/// A request that was served.
mod served;

use crate::reach::{self, Place};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use weft_engine::explain::text::{self, Style};
use weft_engine::explain::{Explanation, Request};

/// Exit code when the request would not arrive.
const ENDS: u8 = 1;
/// Exit code when the question can't be answered.
const UNANSWERED: u8 = 2;

/// Explain why a request goes where it goes, or doesn't
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weft explain --from shop/web --to http://cart.shop/items -X POST -H 'user: jane'
  weft explain -f manifests/ --from shop/web --to http://cart/items
  weft explain --from edge/front --to https://shop.example/cart
  weft explain --request-id 01234567-89ab-4def-8123-456789abcdef

Exit code: 0 the request would reach the application; 1 it would not, and where it ends is said; 2 that can't be told.")]
pub struct Explain {
    /// Who sends: NAMESPACE/WORKLOAD, NAMESPACE/POD or NAMESPACE/deployment/NAME; or the gateway that a client outside the mesh asks:
    /// NAMESPACE/GATEWAY
    #[arg(long, value_name = "WHO", required_unless_present = "request_id")]
    from: Option<String>,
    /// Where to: http://HOST[:PORT]/PATH, or tcp://HOST:PORT; https:// is the application's own TLS, or the client's with a gateway
    #[arg(long, value_name = "URL", required_unless_present = "request_id")]
    to: Option<String>,
    /// Method [default: GET]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// Header field, as NAME: VALUE
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Address of the client, where a gateway is asked: policies may go by it
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Manifests: files, and folders with everything in them; without it the mesh that runs is asked
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// A request that the mesh has served lately, by its x-request-id; --from asks that one's sidecar only
    #[arg(long, value_name = "ID", conflicts_with_all = ["to", "method", "headers", "client", "file", "seed"])]
    request_id: Option<String>,
    /// Begins the draws: the same seed gives the same choices
    #[arg(long)]
    seed: Option<u64>,
    /// Namespace of WHO, if it doesn't say
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    place: Place,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// What is known at the end.
struct Answer {
    /// Who sends, in full.
    from: String,
    /// Its identity.
    identity: Option<String>,
    explanation: Explanation,
}

/// An answer, and why it is not the whole one.
struct Asked {
    answer: Answer,
    missing: Option<anyhow::Error>,
}

impl Asked {
    fn whole(answer: Answer) -> Self {
        Self {
            answer,
            missing: None,
        }
    }
}

/// Prints it.
pub fn run(args: &Explain) -> ExitCode {
    let arrives = match &args.request_id {
        Some(id) => served(args, id),
        None => asked(args),
    };
    match arrives {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(ENDS),
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::from(UNANSWERED)
        }
    }
}

/// A request that might be sent: whether it would arrive.
fn asked(args: &Explain) -> anyhow::Result<bool> {
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        anyhow::bail!("--from and --to are needed");
    };
    let mut request = Request::read(to, args.method.as_deref(), &args.headers)?;
    request.seed = args.seed;
    request.client = args.client;
    let (namespace, who) = crate::target::pod(from, &args.namespace);
    let asked = match args.file.is_empty() {
        true => reach::runtime()?.block_on(async {
            let reach = args.place.reach().await?;
            live::answer(&reach, namespace, who, &request).await
        })?,
        false => Asked::whole(offline::answer(&args.file, namespace, who, &request)?),
    };
    print(args, to, &request, &asked.answer);
    match asked.missing {
        Some(missing) => Err(missing),
        None => Ok(asked.answer.explanation.end.arrives()),
    }
}

/// A request that was served: whether it arrived.
fn served(args: &Explain, id: &str) -> anyhow::Result<bool> {
    let found = reach::runtime()?.block_on(async {
        let reach = args.place.reach().await?;
        let pods = match &args.from {
            Some(from) => {
                let (namespace, who) = crate::target::pod(from, &args.namespace);
                let pod = live::pod(&reach.pods().await?, namespace, who)?;
                vec![(namespace.to_owned(), pod)]
            }
            None => served::meshed(&reach).await?,
        };
        served::ask(&reach, &pods, id).await
    })?;
    anyhow::ensure!(
        !found.is_empty(),
        "no sidecar remembers a request {id}: each one keeps its last {}",
        weft_proxy::recent::REQUESTS
    );
    match args.output {
        Output::Json => println!("{:#}", json!({"requestId": id, "served": found})),
        Output::Text => print!("{}", served::text(&found, Style::new(colours()))),
    }
    Ok(served::arrived(&found))
}

fn print(args: &Explain, to: &str, request: &Request, answer: &Answer) {
    let asked = match request.is_http() {
        true => format!("{} {to}", request.method),
        false => to.to_owned(),
    };
    match args.output {
        Output::Json => {
            let value = json!({
                "from": answer.from,
                "identity": answer.identity,
                "request": request,
                "arrives": answer.explanation.end.arrives(),
                "steps": answer.explanation.steps,
                "end": answer.explanation.end,
            });
            println!("{value:#}");
        }
        Output::Text => {
            let identity = answer.identity.as_ref().map(|identity| format!(" ({identity})"));
            let gateway = answer.explanation.by_gateway();
            let way = if gateway { "by way of the gateway" } else { "from" };
            println!("{asked} {way} {}{}\n", answer.from, identity.unwrap_or_default());
            print!("{}", text::render(&answer.explanation, Style::new(colours())));
        }
    }
}

/// Colours are for terminals whose users didn't refuse them (no-color.org).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !refused
}

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;
