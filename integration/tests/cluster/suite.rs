//! Runs checks on worlds and says how they ended, in libtest's words.
//!
//! Enters: the command line. Leaves: a line a check, and an exit code. Never: a check that is skipped in silence.

use crate::world::World;
use futures_util::FutureExt as _;
use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::SystemTime;

/// What a check says where it can't run: why.
pub type Skipped = Option<&'static str>;
/// A check's name and what it does.
pub type Check = (&'static str, for<'a> fn(&'a World) -> Running<'a>);
/// A check under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Skipped> + 'a>>;

/// What was asked for, and what came of it.
pub struct Suite {
    checks: Vec<Check>,
    filters: Vec<String>,
    list: bool,
    begun: SystemTime,
    passed: usize,
    ignored: usize,
    filtered: usize,
    failed: Vec<String>,
}

impl Suite {
    /// Reads libtest's arguments.
    pub fn new(arguments: &[String], checks: Vec<Check>) -> Self {
        let words = arguments.iter().filter(|word| !word.starts_with('-'));
        let list = arguments.iter().any(|word| word == "--list");
        if !list {
            println!("\nrunning the checks on a Kubernetes API");
        }
        Self {
            checks,
            filters: words.cloned().collect(),
            list,
            begun: SystemTime::now(),
            passed: 0,
            ignored: 0,
            filtered: 0,
            failed: Vec::new(),
        }
    }

    /// Says why something is not run.
    pub fn note(&self, text: &str) {
        if !self.list {
            println!("# {text}");
        }
    }

    /// Runs every wanted check, one after the other, on a world that is started for them.
    pub async fn run<F: Future<Output = World>>(&mut self, world: &'static str, start: impl FnOnce() -> F) {
        let names = |&(check, run): &Check| (format!("{world}::{check}"), run);
        let (wanted, other): (Vec<_>, Vec<_>) = self.checks.iter().map(names).partition(|(name, _)| {
            self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
        });
        self.filtered += other.len();
        if self.list {
            wanted.iter().for_each(|(name, _)| println!("{name}: test"));
            return;
        }
        if wanted.is_empty() {
            return;
        }
        let began = SystemTime::now();
        let Ok(up) = AssertUnwindSafe(start()).catch_unwind().await else {
            for (name, _) in wanted {
                println!("test {name} ... FAILED (its API server did not start)");
                self.failed.push(name);
            }
            return;
        };
        println!(
            "# {world}: {} is up after {:.1} s",
            up.title().await,
            seconds(began)
        );
        for (name, run) in wanted {
            print!("test {name} ... ");
            drop(std::io::stdout().flush());
            let began = SystemTime::now();
            match AssertUnwindSafe(run(&up)).catch_unwind().await {
                Ok(None) => {
                    println!("ok ({:.1} s)", seconds(began));
                    self.passed += 1;
                }
                Ok(Some(reason)) => {
                    println!("ignored, {reason}");
                    self.ignored += 1;
                }
                Err(_) => {
                    println!("FAILED ({:.1} s)", seconds(began));
                    up.tell();
                    self.failed.push(name);
                }
            }
        }
        up.end().await;
    }

    /// The closing line.
    pub fn finish(self) -> ExitCode {
        if self.list {
            return ExitCode::SUCCESS;
        }
        if !self.failed.is_empty() {
            println!("\nfailures:");
            self.failed.iter().for_each(|name| println!("    {name}"));
        }
        let (word, code) = match self.failed.is_empty() {
            true => ("ok", ExitCode::SUCCESS),
            false => ("FAILED", ExitCode::FAILURE),
        };
        println!(
            "\ntest result: {word}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            self.passed,
            self.failed.len(),
            self.ignored,
            self.filtered,
            seconds(self.begun)
        );
        code
    }
}

fn seconds(since: SystemTime) -> f64 {
    since.elapsed().unwrap_or_default().as_secs_f64()
}
