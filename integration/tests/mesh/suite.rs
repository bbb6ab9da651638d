//! Runs tests and says how they ended, in libtest's words.
//!
//! Enters: the command line. Leaves: a line a test, and an exit code. Never: a test that is skipped in silence.

use crate::mesh::Mesh;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// A test's name and what it does.
pub type Test = (&'static str, fn(&Mesh));
/// A test that starts sandboxes of its own.
pub type Alone = (&'static str, fn());

/// Set in CI: what the kernel refuses to run is a failure.
const REQUIRE: &str = "WEFT_REQUIRE_ALL_TESTS";

/// What was asked for, and what came of it.
pub struct Suite {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    refused: Option<String>,
    begun: Instant,
    passed: usize,
    filtered: usize,
    ignored: usize,
    failed: Vec<&'static str>,
}

impl Suite {
    /// Reads libtest's arguments, and asks the kernel for namespaces.
    pub fn new(arguments: &[String]) -> Self {
        let (mut filters, mut skips, mut exact, mut list) = (Vec::new(), Vec::new(), false, false);
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => list = true,
                "--exact" => exact = true,
                "--skip" => skips.extend(words.next().cloned()),
                "--format" | "--logfile" | "--test-threads" | "--color" | "-Z" => drop(words.next()),
                word if word.starts_with("--skip=") => skips.push(word["--skip=".len()..].to_owned()),
                word if word.starts_with('-') => {}
                word => filters.push(word.to_owned()),
            }
        }
        let refused = if list { None } else { refusal() };
        if !list {
            println!("\nrunning the tests of the whole mesh");
        }
        Self {
            filters,
            skips,
            exact,
            list,
            refused,
            begun: Instant::now(),
            passed: 0,
            filtered: 0,
            ignored: 0,
            failed: Vec::new(),
        }
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

    /// Runs tests that share one sandbox, started when the first of them is wanted.
    pub fn group(&mut self, name: &'static str, start: fn() -> Mesh, tests: &[&[Test]]) {
        let all: Vec<Test> = tests.concat();
        let wanted: Vec<Test> = all
            .iter()
            .filter(|(name, _)| self.wanted(name))
            .copied()
            .collect();
        self.filtered += all.len() - wanted.len();
        if self.list {
            wanted.iter().for_each(|(name, _)| println!("{name}: test"));
            return;
        }
        if let Some(reason) = self.refused.clone() {
            return wanted.iter().for_each(|(name, _)| self.ignore(name, &reason));
        }
        if wanted.is_empty() {
            return;
        }
        let begun = Instant::now();
        let Ok(mesh) = catch_unwind(start) else {
            for (test, _) in wanted {
                println!("test {test} ... FAILED (its sandbox {name:?} did not start)");
                self.failed.push(test);
            }
            return;
        };
        println!(
            "# sandbox {name:?} is up after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        for (test, run) in wanted {
            self.run(test, || run(&mesh), || mesh.tell());
        }
    }

    /// Runs tests that start sandboxes of their own.
    pub fn alone(&mut self, tests: &[Alone]) {
        for &(test, run) in tests {
            match &self.refused {
                _ if !self.wanted(test) => self.filtered += 1,
                _ if self.list => println!("{test}: test"),
                Some(reason) => self.ignore(test, &reason.clone()),
                None => self.run(test, run, || ()),
            }
        }
    }

    fn ignore(&mut self, test: &'static str, reason: &str) {
        if std::env::var_os(REQUIRE).is_some_and(|value| value == "1") {
            println!("test {test} ... FAILED ({REQUIRE} is set, and {reason})");
            self.failed.push(test);
        } else {
            println!("test {test} ... ignored, {reason}");
            self.ignored += 1;
        }
    }

    fn run(&mut self, test: &'static str, run: impl Fn(), tell: impl Fn()) {
        print!("test {test} ... ");
        drop(std::io::stdout().flush());
        let begun = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(&run));
        let took = begun.elapsed().as_secs_f64();
        if ended.is_ok() {
            println!("ok ({took:.1} s)");
            self.passed += 1;
        } else {
            println!("FAILED ({took:.1} s)");
            self.failed.push(test);
            drop(catch_unwind(AssertUnwindSafe(&tell)));
        }
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
            self.begun.elapsed().as_secs_f64()
        );
        code
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
