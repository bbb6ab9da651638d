//! Runs tests and says how they ended, in libtest's words.
//!
//! Enters: the command line. Leaves: a line a test, and an exit code. Never: a test that is skipped in silence.

use crate::mesh::Mesh;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// A test's name and what it does.
pub type Test = (&'static str, fn(&Mesh));
/// A test that starts sandboxes of its own.
pub type Alone = (&'static str, fn());

/// Set in CI: what the kernel refuses to run is a failure.
const REQUIRE: &str = "WEFT_REQUIRE_ALL_TESTS";

/// What was asked for, and what is to be run.
///
/// Lanes run beside one another, and within a lane one test after the other. A lane that follows [`Suite::then`] waits for all before it.
pub struct Suite {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    /// One lane at a time.
    single: bool,
    begun: Instant,
    stages: Vec<Vec<Lane>>,
}

type Lane = Vec<Job>;

/// Tests that follow one another.
enum Job {
    /// In one sandbox.
    Group {
        name: &'static str,
        start: fn() -> Mesh,
        tests: Vec<Test>,
    },
    /// Each with sandboxes of its own.
    Alone(Vec<Alone>),
}

/// What came of the tests so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    filtered: usize,
    ignored: usize,
    failed: Vec<&'static str>,
}

impl Suite {
    /// Reads libtest's arguments.
    pub fn new(arguments: &[String]) -> Self {
        let mut suite = Self {
            filters: Vec::new(),
            skips: Vec::new(),
            exact: false,
            list: false,
            single: false,
            begun: Instant::now(),
            stages: vec![vec![Lane::new()]],
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => suite.list = true,
                "--exact" => suite.exact = true,
                "--skip" => suite.skips.extend(words.next().cloned()),
                "--test-threads" => suite.single = words.next().is_some_and(|count| count == "1"),
                "--test-threads=1" => suite.single = true,
                "--format" | "--logfile" | "--color" | "-Z" => drop(words.next()),
                word if word.starts_with("--skip=") => suite.skips.push(word["--skip=".len()..].to_owned()),
                word if word.starts_with('-') => {}
                word => suite.filters.push(word.to_owned()),
            }
        }
        suite
    }

    fn wanted(&self, name: &str) -> bool {
        let fits = |pattern: &String| {
            if self.exact {
                name == pattern
            } else {
                name.contains(pattern.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(fits)) && !self.skips.iter().any(fits)
    }

    /// What follows runs beside what came before.
    pub fn beside(&mut self) {
        self.stages.last_mut().unwrap().push(Lane::new());
    }

    /// What follows runs when all that came before has ended.
    pub fn then(&mut self) {
        self.stages.push(vec![Lane::new()]);
    }

    /// Tests that share one sandbox, started when the first of them is wanted.
    pub fn group(&mut self, name: &'static str, start: fn() -> Mesh, tests: &[&[Test]]) {
        let tests = tests.concat();
        self.lane().push(Job::Group { name, start, tests });
    }

    /// Tests that start sandboxes of their own.
    pub fn alone(&mut self, tests: &[Alone]) {
        self.lane().push(Job::Alone(tests.to_vec()));
    }

    fn lane(&mut self) -> &mut Lane {
        self.stages.last_mut().unwrap().last_mut().unwrap()
    }

    /// Runs everything, and says how it went.
    pub fn finish(mut self) -> ExitCode {
        let stages = std::mem::take(&mut self.stages);
        if self.list {
            let jobs = stages.iter().flatten().flatten();
            jobs.flat_map(Job::names)
                .filter(|name| self.wanted(name))
                .for_each(|name| println!("{name}: test"));
            return ExitCode::SUCCESS;
        }
        let refused = refusal();
        println!("\nrunning the tests of the whole mesh");
        let tally = Mutex::default();
        let run = Run {
            suite: &self,
            refused,
            tally: &tally,
        };
        for lanes in stages {
            if self.single {
                lanes.into_iter().flatten().for_each(|job| run.job(job));
                continue;
            }
            // A sandbox ends with the thread that started it: each lane has its own, from its first test to its last.
            std::thread::scope(|scope| {
                for lane in lanes {
                    scope.spawn(|| lane.into_iter().for_each(|job| run.job(job)));
                }
            });
        }
        drop(run);
        self.closing(tally.into_inner().unwrap())
    }

    fn closing(&self, tally: Tally) -> ExitCode {
        if !tally.failed.is_empty() {
            println!("\nfailures:");
            tally.failed.iter().for_each(|name| println!("    {name}"));
        }
        let (word, code) = match tally.failed.is_empty() {
            true => ("ok", ExitCode::SUCCESS),
            false => ("FAILED", ExitCode::FAILURE),
        };
        println!(
            "\ntest result: {word}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            tally.passed,
            tally.failed.len(),
            tally.ignored,
            tally.filtered,
            self.begun.elapsed().as_secs_f64()
        );
        code
    }
}

impl Job {
    fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Group { tests, .. } => tests.iter().map(|(name, _)| *name).collect(),
            Self::Alone(tests) => tests.iter().map(|(name, _)| *name).collect(),
        }
    }
}

/// What the lanes share.
struct Run<'a> {
    suite: &'a Suite,
    /// Why no sandbox can be started.
    refused: Option<String>,
    tally: &'a Mutex<Tally>,
}

impl Run<'_> {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }

    fn job(&self, mut job: Job) {
        let names = job.names();
        let wanted: Vec<_> = names.iter().filter(|name| self.suite.wanted(name)).collect();
        self.tally().filtered += names.len() - wanted.len();
        if let Some(reason) = &self.refused {
            return wanted.into_iter().for_each(|name| self.ignore(name, reason));
        }
        match &mut job {
            Job::Group { tests, .. } => tests.retain(|(name, _)| wanted.contains(&name)),
            Job::Alone(tests) => tests.retain(|(name, _)| wanted.contains(&name)),
        }
        match job {
            _ if wanted.is_empty() => {}
            Job::Group { name, start, tests } => self.group(name, start, &tests),
            Job::Alone(tests) => tests
                .into_iter()
                .for_each(|(test, run)| self.test(test, run, || ())),
        }
    }

    fn group(&self, name: &str, start: fn() -> Mesh, tests: &[Test]) {
        let begun = Instant::now();
        let Ok(mesh) = catch_unwind(start) else {
            for (test, _) in tests {
                println!("test {test} ... FAILED (its sandbox {name:?} did not start)");
                self.tally().failed.push(test);
            }
            return;
        };
        println!(
            "# sandbox {name:?} is up after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        for (test, run) in tests {
            self.test(test, || run(&mesh), || mesh.tell());
        }
    }

    fn ignore(&self, test: &'static str, reason: &str) {
        if std::env::var_os(REQUIRE).is_some_and(|value| value == "1") {
            println!("test {test} ... FAILED ({REQUIRE} is set, and {reason})");
            self.tally().failed.push(test);
        } else {
            println!("test {test} ... ignored, {reason}");
            self.tally().ignored += 1;
        }
    }

    fn test(&self, test: &'static str, run: impl Fn(), tell: impl Fn()) {
        let begun = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(&run));
        let took = begun.elapsed().as_secs_f64();
        if ended.is_ok() {
            println!("test {test} ... ok ({took:.1} s)");
            self.tally().passed += 1;
        } else {
            println!("test {test} ... FAILED ({took:.1} s)");
            self.tally().failed.push(test);
            drop(catch_unwind(AssertUnwindSafe(&tell)));
        }
    }
}

/// Why the kernel does not let anybody start a sandbox here, if so.
fn refusal() -> Option<String> {
    let nothing = [crate::tool::WORD.into(), crate::tool::NOTHING.into()];
    match weft_sandbox::enter::start(nothing).map(weft_sandbox::enter::Started::wait_only) {
        Ok(Ok(0)) => None,
        Ok(Ok(code)) => Some(format!(
            "a process in namespaces of its own ended with code {code}"
        )),
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
