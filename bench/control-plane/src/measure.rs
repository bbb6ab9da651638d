//! One row: so many sidecars connect, endpoints change, the control plane is killed and starts again.
//!
//! Enters: a town and a number of sidecars. Leaves: figures. Never: a figure of a sidecar that didn't answer in time; that is an error.

use crate::plane::{Place, Plane};
use crate::processors::{Machine, processor};
use crate::sidecar::{Authority, Note};
use crate::town::{self, Town};
use anyhow::Context as _;
use hdrhistogram::Histogram;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing happens when the idle cost is measured.
const IDLE: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// Figures of one number of sidecars.
#[derive(Debug)]
pub struct Row {
    sidecars: usize,
    connect: Duration,
    memory: u64,
    peak: u64,
    idle: f64,
    popular: Spread,
    usual: Spread,
    /// To all, while the answers to the change before are still read.
    in_a_row: Spread,
    busy: f64,
    /// Microseconds of processor time for each push: the control plane's, and that of everything else here: API server and sidecars.
    push: [f64; 2],
    /// Percent of the machine that a hypervisor gave to others during the changes.
    stolen: f64,
    settle: Duration,
    settle_processor: Duration,
    settle_peak: u64,
    errors: usize,
    first_error: Option<String>,
}

/// Milliseconds from the change to a sidecar.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    half: f64,
    most: f64,
    worst: f64,
}

impl Spread {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            half: at(0.5),
            most: at(0.99),
            worst: at(1.0),
        }
    }
}

struct Crowd {
    notes: mpsc::UnboundedReceiver<Note>,
    count: usize,
    /// By Service, how many use it.
    users: Vec<usize>,
    errors: Vec<String>,
}

impl Crowd {
    async fn note(&mut self) -> anyhow::Result<Note> {
        let note = timeout(PATIENCE, self.notes.recv()).await;
        note.context("the sidecars have fallen silent")?
            .context("no sidecar is left")
    }

    /// Waits until every sidecar has had everything on its stream of at least this number.
    async fn settled(&mut self, stream: usize) -> anyhow::Result<()> {
        let mut settled = 0;
        while settled < self.count {
            match self.note().await? {
                Note::Settled(number) if number >= stream => settled += 1,
                Note::Refused(why) => self.errors.push(why),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until every user of a Service has its new endpoints; how long each took.
    async fn told(
        &mut self,
        service: usize,
        begun: Instant,
        times: &mut Histogram<u64>,
    ) -> anyhow::Result<()> {
        let resource = town::resource(service);
        let mut missing = self.users[service];
        while missing > 0 {
            match self.note().await? {
                Note::Endpoints(name, at) if *name == *resource => {
                    let micros = at.saturating_duration_since(begun).as_micros();
                    times.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX).max(1));
                    missing -= 1;
                }
                Note::Refused(why) => self.errors.push(why),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Measures one number of sidecars, with a control plane of its own.
pub async fn row(options: &crate::Options, town: &Town, count: usize) -> anyhow::Result<Row> {
    let place = Place::new(
        &options.weft,
        &town.kubeconfig(),
        options.log.as_deref(),
        options.pin,
    )?;
    let plane = place.start()?;
    place.ready().await?;
    let roots = loop {
        match town.roots() {
            Some(roots) => break roots,
            None => sleep(Duration::from_millis(50)).await,
        }
    };
    let mut authority = Authority::connect(place.address, &roots).await?;
    let (sender, notes) = mpsc::unbounded_channel();
    let mut sidecars = Vec::new();
    for number in 0..count {
        let (service, index) = (number % town.services(), number / town.services());
        anyhow::ensure!(index < town.endpoints(), "there are fewer pods than sidecars");
        let sidecar = authority
            .sidecar(town, service, index, options.uses, sender.clone())
            .await?;
        sidecars.push(sidecar);
    }
    let used = |service: usize| {
        let resource = town::resource(service);
        sidecars.iter().filter(|sidecar| sidecar.uses(&resource)).count()
    };
    let mut crowd = Crowd {
        notes,
        count,
        users: (0..town.services()).map(used).collect(),
        errors: Vec::new(),
    };

    let begun = Instant::now();
    let mut tasks: JoinSet<()> = JoinSet::new();
    for sidecar in sidecars {
        tasks.spawn(sidecar.run());
    }
    crowd.settled(0).await?;
    let connect = begun.elapsed();
    sleep(Duration::from_secs(2)).await;
    let idle = share(&plane, sleep(IDLE)).await?;
    let memory = plane.used()?.memory;

    let machine = Machine::now()?;
    let [popular, usual] = changes(options, town, &mut crowd, options.pause).await?;
    let before = (Instant::now(), plane.used()?.processor, processor("self")?);
    let [all, users] = changes(options, town, &mut crowd, 0).await?;
    let busy = (plane.used()?.processor - before.1).as_secs_f64() / before.0.elapsed().as_secs_f64();
    let stolen = machine.stolen_percent()?;
    let pushes = (all.len() + users.len()) as f64;
    let push = [plane.used()?.processor - before.1, processor("self")? - before.2]
        .map(|spent| spent.as_secs_f64() * 1e6 / pushes);
    let peak = plane.used()?.peak;

    // A crash, and all reconnect at once.
    plane.kill().await?;
    let begun = Instant::now();
    let plane = place.start()?;
    crowd.settled(1).await?;
    let settle = begun.elapsed();
    let after = plane.used()?;
    tasks.shutdown().await;
    plane.kill().await?;
    Ok(Row {
        sidecars: count,
        connect,
        memory,
        peak,
        idle,
        popular: Spread::of(&popular),
        usual: Spread::of(&usual),
        in_a_row: Spread::of(&all),
        busy,
        push,
        stolen,
        settle,
        settle_processor: after.processor,
        settle_peak: after.peak,
        first_error: crowd.errors.first().cloned(),
        errors: crowd.errors.len(),
    })
}

/// Changes an endpoint of the Service that all use, and of others, again and again, each so many milliseconds after everybody had the one before.
/// How long they took to all, and to the users of the others.
async fn changes(
    options: &crate::Options,
    town: &Town,
    crowd: &mut Crowd,
    pause: u64,
) -> anyhow::Result<[Histogram<u64>; 2]> {
    let pause = Duration::from_millis(pause);
    let mut popular = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    let mut usual = popular.clone();
    for change in 0..options.changes {
        sleep(pause).await;
        changed(town, crowd, 0, change, &mut popular).await?;
        let service = 1 + change * 37 % (town.services() - 1);
        if crowd.users[service] > 0 {
            for turn in 0..2 {
                sleep(pause).await;
                changed(town, crowd, service, turn, &mut usual).await?;
            }
        }
    }
    Ok([popular, usual])
}

/// One endpoint goes (even) or comes back (odd).
async fn changed(
    town: &Town,
    crowd: &mut Crowd,
    service: usize,
    turn: usize,
    times: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let count = town.endpoints() - usize::from(turn.is_multiple_of(2));
    let begun = Instant::now();
    town.slice(service, count).await?;
    crowd.told(service, begun, times).await
}

/// Processors that the control plane used while something went on.
async fn share(plane: &Plane, meanwhile: impl Future<Output = ()>) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), plane.used()?.processor);
    meanwhile.await;
    Ok((plane.used()?.processor - before).as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// Prints the head of the table.
pub fn head() {
    println!();
    println!(
        "| sidecars | connect s | RSS MiB | peak MiB | idle CPU | change to all: p50 / p99 / max ms | to its users: p50 / p99 / max ms | in a row, to all | CPU | us a push / the rest's | stolen % | restart: settled s | its CPU s | its peak MiB | errors |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
}

/// Prints what is asked for.
pub fn bars() {
    println!();
    println!("bars for 2,000: 512 MiB, one processor, p99 below 100 ms, settled below 10 s without an error");
}

impl Row {
    /// Prints it.
    pub fn print(&self) {
        let mib = |bytes: u64| bytes as f64 / MIB;
        let spread =
            |spread: Spread| format!("{:.1} / {:.1} / {:.1}", spread.half, spread.most, spread.worst);
        println!(
            "| {} | {:.1} | {:.0} | {:.0} | {:.3} | {} | {} | {} | {:.2} | {:.0} / {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {} |",
            self.sidecars,
            self.connect.as_secs_f64(),
            mib(self.memory),
            mib(self.peak),
            self.idle,
            spread(self.popular),
            spread(self.usual),
            spread(self.in_a_row),
            self.busy,
            self.push[0],
            self.push[1],
            self.stolen,
            self.settle.as_secs_f64(),
            self.settle_processor.as_secs_f64(),
            mib(self.settle_peak),
            self.errors
        );
        if let Some(error) = &self.first_error {
            println!("  first error: {error}");
        }
    }
}
