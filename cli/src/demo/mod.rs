//! `weft demo`: a mesh on this machine that loses a region, loses no request, and gets the region back.
//!
//! ```text
//! scenario (manifests) ──> sandbox      load in web ──> tally ──> screen, report
//! plan (events)        ──> faults ──^
//! ```

use crate::load::{Protocol, Record};
use crate::target::Which;
use crate::up::Running;
use anyhow::{Context as _, bail};
use clap::Args;
use plan::{Event, STEPS};
use rand::seq::IndexedRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use report::Row;
use scenario::{CUT_NODES, HOME_REGION, HOME_ZONE, NAMESPACE};
use screen::{Frame, Screen};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tally::Tally;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use weft_sandbox::control::{Client, Fault, PodStatus, Request, Status};
use weft_sandbox::pod::WEFT;

mod admin;
mod plan;
mod report;
mod scenario;
mod screen;
mod tally;

/// A mesh on this machine, from ordinary manifests, and what happens when a region is lost
#[derive(Args, Debug)]
pub struct Demo {
    /// How long the load lasts, in seconds
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(30..=3600))]
    duration: u64,
    /// Requests per second to each of the eight targets
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Decides which endpoint is killed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the display and the table
    #[arg(long)]
    json: bool,
    /// Leave the sandbox running afterwards, for `weft status`, `weft exec` and the rest, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write every request to this file, a line of JSON each
    #[arg(long)]
    records: Option<std::path::PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// A request slower than this has waited at a place that didn't answer.
const SLOW: Duration = Duration::from_millis(250);

/// Runs the scenario; fails when a promise was broken.
pub fn run(args: &Demo) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new(args.json);
    let name = if args.which.name == "default" {
        "demo"
    } else {
        &args.which.name
    };
    screen.say("weft demo: two regions, two zones each, on this machine.");
    let mut running = Running::start(name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let client = running.client().clone();
        let work = play(args, &mut screen, &client);
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            reason = running.ended() => bail!("the sandbox ended on its own: {reason}"),
        }
    });
    screen.clear();
    if args.keep && result.is_ok() {
        eprintln!("The sandbox {name:?} is left running; Ctrl-C ends it. Try: weft status --name {name}");
        let _ = runtime.block_on(tokio::signal::ctrl_c());
    }
    running.end();
    let rows = result?;
    let kept = rows.iter().all(|row| row.broken.is_empty());
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "kept": kept, "seconds": args.duration, "events": rows })
        );
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("\n{}\n", report::table(&rows, colours));
        println!(
            "{}",
            if kept {
                "Every promise was kept."
            } else {
                "A promise was broken."
            }
        );
    }
    Ok(if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(args: &Demo, screen: &mut Screen, client: &Client) -> anyhow::Result<Vec<Row>> {
    let started = Instant::now();
    crate::up::listening(client).await?;
    let loaded = scenario::load();
    crate::apply::send_quietly(client, &loaded)?;
    screen.say("Applied demo/multi-region: Namespaces, Deployments, Services, an HTTPRoute and policies.");
    let status = crate::up::ready(client, Duration::from_secs(120)).await?;
    let meshed = status.pods.iter().filter(|pod| pod.meshed).count();
    screen.say(&format!(
        "{} pods on {} nodes are ready, {meshed} with a sidecar, after {:.1} s.",
        status.pods.len(),
        status.nodes.len(),
        started.elapsed().as_secs_f64()
    ));
    let mut load = Load::start(args, client)?;
    let mut stage = Stage {
        args,
        client,
        screen,
        tally: Tally::default(),
        began: Instant::now(),
    };
    stage.settle(&mut load).await?;
    let mut rows = Vec::new();
    for step in STEPS {
        stage.screen.say(&format!(
            "{:>5.1} s  {}",
            stage.began.elapsed().as_secs_f64(),
            step.event.title()
        ));
        let from_ms = unix_millis();
        let done = stage.act(step.event)?;
        stage
            .watch(
                &mut load,
                step.event,
                step.lasts(Duration::from_secs(args.duration)),
            )
            .await?;
        let until_ms = unix_millis();
        rows.push(stage.judge(step.event, &done, from_ms, until_ms));
    }
    load.child.start_kill()?;
    if let Some(path) = &args.records {
        stage
            .tally
            .write(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(rows)
}

/// What an event did, as far as the judgement needs it.
#[derive(Default)]
struct Done {
    /// Pods that can't answer any more.
    dead_pods: Vec<String>,
    /// Promises that were broken at once.
    broken: Vec<String>,
    /// Namespace, pod and serial number of each certificate that is to be replaced.
    certificates: Vec<(String, String, String)>,
}

struct Stage<'a> {
    args: &'a Demo,
    client: &'a Client,
    screen: &'a mut Screen,
    tally: Tally,
    began: Instant,
}

impl Stage<'_> {
    /// Waits until the load's requests are answered, so that the first figures are not those of its start.
    async fn settle(&mut self, load: &mut Load) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut good = 0;
        while good < 40 {
            let record = tokio::time::timeout_at(deadline, load.next())
                .await
                .context("the load in web got no answers in 15 s; try: weft demo --keep, then weft logs -n shop WEB_POD -c weft-proxy")??;
            good = if record.error.is_none() { good + 1 } else { 0 };
        }
        self.began = Instant::now();
        Ok(())
    }

    /// Reads records and draws until the step is over.
    async fn watch(&mut self, load: &mut Load, event: Event, lasts: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + lasts;
        let mut frames = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                record = load.next() => self.tally.add(record?),
                _ = frames.tick() => self.draw(event),
                () = tokio::time::sleep_until(end) => return Ok(()),
            }
        }
    }

    fn draw(&mut self, event: Event) {
        let frame = Frame {
            seconds: (self.began.elapsed().as_secs(), self.args.duration),
            doing: event.title(),
            home: HOME_REGION,
            glance: self.tally.glance(unix_millis()),
            failures: self.tally.failures(),
            requests: self.tally.len(),
        };
        self.screen.draw(&frame);
    }

    fn act(&self, event: Event) -> anyhow::Result<Done> {
        let nothing = |request: &Request| self.client.ask::<serde_json::Value>(request).map(drop);
        let mut done = Done::default();
        match event {
            Event::Steady => {}
            Event::KillEndpoint => {
                let status = self.client.status()?;
                let mut rng = StdRng::seed_from_u64(self.args.seed);
                let local: Vec<&PodStatus> = endpoints(&status)
                    .filter(|pod| pod.ready && pod.zone == HOME_ZONE)
                    .collect();
                let pod = local
                    .choose(&mut rng)
                    .context("no endpoint of cart or catalog is ready in us-east-1a")?;
                nothing(&Request::Fault(Fault::Kill {
                    namespace: NAMESPACE.to_owned(),
                    pod: pod.name.clone(),
                }))?;
                done.dead_pods.push(pod.name.clone());
            }
            Event::CutRegion => {
                let status = self.client.status()?;
                let cut = endpoints(&status).filter(|pod| CUT_NODES.contains(&pod.node.as_str()));
                done.dead_pods = cut.map(|pod| pod.name.clone()).collect();
                let nodes = CUT_NODES.iter().map(ToString::to_string).collect();
                nothing(&Request::Fault(Fault::Partition { nodes }))?;
            }
            Event::Heal => nothing(&Request::Fault(Fault::Partition { nodes: Vec::new() }))?,
            Event::Roll => nothing(&Request::Restart {
                namespace: NAMESPACE.to_owned(),
                deployment: "cart".to_owned(),
            })?,
            Event::RestartControlPlane => {
                let status = self.client.status()?;
                let pods = status
                    .pods
                    .iter()
                    .filter(|pod| pod.name.starts_with("weft-control-plane-"));
                for pod in pods {
                    nothing(&Request::Fault(Fault::Kill {
                        namespace: pod.namespace.clone(),
                        pod: pod.name.clone(),
                    }))?;
                }
            }
            Event::RotateCertificates => {
                let status = self.client.status()?;
                for pod in status.pods.iter().filter(|pod| pod.meshed && pod.ready) {
                    match admin::renew(self.client, &pod.namespace, &pod.name) {
                        Ok(serial) => {
                            done.certificates
                                .push((pod.namespace.clone(), pod.name.clone(), serial))
                        }
                        Err(error) => done.broken.push(format!("{}: {error:#}", pod.name)),
                    }
                }
            }
        }
        Ok(done)
    }

    fn judge(&self, event: Event, done: &Done, from_ms: u64, until_ms: u64) -> Row {
        let mut effect = self.tally.effect(from_ms, until_ms);
        let slow = u64::try_from(SLOW.as_micros()).unwrap_or(u64::MAX);
        if !done.dead_pods.is_empty() {
            // A killed pod comes back under its name: whoever it answers then was not lost.
            let killed = event == Event::KillEndpoint;
            let dead = |record: &Record| {
                record.micros > slow || !killed && done.dead_pods.contains(&record.answerer.pod)
            };
            effect.last_to_dead_ms = Some(self.tally.last_to_dead(from_ms, until_ms, dead));
        }
        if event == Event::Heal {
            // A connection that stays open stays where it is.
            let local =
                |record: &Record| record.answerer.zone == HOME_ZONE || record.protocol == Protocol::Stream;
            effect.local_again_ms = self.tally.local_again(from_ms, until_ms, local);
        }
        let mut row = Row::judge(event, effect);
        row.broken.extend(done.broken.iter().cloned());
        for (namespace, pod, before) in &done.certificates {
            match admin::serial(self.client, namespace, pod) {
                Ok(now) if now != *before => {}
                Ok(now) => row.broken.push(format!("{pod} still has the certificate {now}")),
                Err(error) => row.broken.push(format!("{pod}: {error:#}")),
            }
        }
        if event == Event::Roll
            && let Err(error) = self.rolled()
        {
            row.broken.push(format!("{error:#}"));
        }
        row
    }

    /// Is every cart pod a new one, and ready?
    fn rolled(&self) -> anyhow::Result<()> {
        let status = self.client.status()?;
        let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
        let carts = status
            .pods
            .iter()
            .filter(|pod| pod.name.starts_with("cart-") && pod.phase != "Terminating");
        for pod in carts {
            *owners.entry(pod.owner.as_str()).or_default() += 1;
        }
        anyhow::ensure!(
            owners.len() == 1,
            "the rolling update of cart had not ended: {owners:?}"
        );
        Ok(())
    }
}

fn endpoints(status: &Status) -> impl Iterator<Item = &PodStatus> {
    let called = |pod: &&PodStatus| pod.name.starts_with("cart-") || pod.name.starts_with("catalog-");
    status
        .pods
        .iter()
        .filter(|pod| pod.namespace == NAMESPACE)
        .filter(called)
}

/// The load that runs in the pod `web`.
struct Load {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Load {
    fn start(args: &Demo, client: &Client) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new(&exe)
            .args([
                "exec",
                "--name",
                client.name(),
                "-n",
                NAMESPACE,
                "deployment/web",
                "--",
            ])
            .args([WEFT, "load", "--rate", &args.rate.to_string()])
            .args(scenario::load_arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the load")?;
        let stdout = child.stdout.take().context("the load has no output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    async fn next(&mut self) -> anyhow::Result<Record> {
        let line = self.lines.next_line().await?.context("the load in web ended")?;
        serde_json::from_str(&line).with_context(|| format!("the load printed {line:?}"))
    }
}

fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
