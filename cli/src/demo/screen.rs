//! The live display: where the requests go.
//!
//! Enters: glances of the tally. Leaves: lines on stderr, redrawn in place on a terminal, one line an event elsewhere.
//! Never: colours or cursor movements where there is no terminal, or where `NO_COLOR` is set.

use super::tally::{Glance, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};

/// Widest bar, in cells.
const BAR: u64 = 30;

/// Where the display goes, and what it can do.
pub struct Screen {
    terminal: bool,
    colours: bool,
    quiet: bool,
    /// Lines of the last frame, to be drawn over.
    drawn: usize,
    places: BTreeSet<Place>,
}

/// What one frame shows.
pub struct Frame<'a> {
    /// Seconds since the load began, and until it ends.
    pub seconds: (u64, u64),
    /// What is being done.
    pub doing: &'a str,
    /// The place that counts as local.
    pub home: &'a str,
    /// Where requests went in the last second.
    pub glance: BTreeMap<Place, Glance>,
    /// Failures so far: safe, unsafe, streams.
    pub failures: (u64, u64, u64),
    /// Requests so far.
    pub requests: usize,
}

impl Screen {
    /// A display on stderr; `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self {
            terminal,
            colours,
            quiet,
            drawn: 0,
            places: BTreeSet::new(),
        }
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        self.clear();
        eprintln!("{line}");
    }

    /// Draws a frame over the last one; nothing where there is no terminal.
    pub fn draw(&mut self, frame: &Frame<'_>) {
        if self.quiet || !self.terminal {
            return;
        }
        let lines = self.lines(frame);
        self.clear();
        self.drawn = lines.len();
        let mut out = std::io::stderr().lock();
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
    }

    /// Takes the last frame away.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            eprint!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn lines(&mut self, frame: &Frame<'_>) -> Vec<String> {
        self.places.extend(frame.glance.keys().cloned());
        let most = frame
            .glance
            .values()
            .map(|glance| glance.rate)
            .max()
            .unwrap_or(0)
            .max(1);
        let (now, end) = frame.seconds;
        let mut lines = vec![
            String::new(),
            format!("  {:>3} s of {end} s   {}", now, self.paint("1", frame.doing)),
            self.paint(
                "2",
                &format!(
                    "  {:<10} {:<14} {:>7} {:>10} {:>10}",
                    "region", "zone", "req/s", "p50", "p99"
                ),
            ),
        ];
        for place in &self.places {
            let (region, zone) = place;
            let code = if region == frame.home { "32" } else { "33" };
            let Some(glance) = frame.glance.get(place) else {
                lines.push(self.paint("2", &format!("  {region:<10} {zone:<14} {:>7}", 0)));
                continue;
            };
            let bar = "█".repeat(usize::try_from((glance.rate * BAR).div_ceil(most)).unwrap_or(0));
            lines.push(format!(
                "  {region:<10} {zone:<14} {:>7} {:>7.1} ms {:>7.1} ms  {}",
                glance.rate,
                glance.p50_micros as f64 / 1000.0,
                glance.p99_micros as f64 / 1000.0,
                self.paint(code, &bar)
            ));
        }
        let (safe, not, streams) = frame.failures;
        let counts = format!("failed: {safe} safe, {not} unsafe, {streams} streams");
        let code = if safe > 0 { "31" } else { "32" };
        lines.push(format!(
            "  {} requests, {}",
            frame.requests,
            self.paint(code, &counts)
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_on_the_screen_when_nothing_goes_there() {
        let mut screen = Screen {
            terminal: true,
            colours: false,
            quiet: false,
            drawn: 0,
            places: BTreeSet::new(),
        };
        let place = ("us-east".to_owned(), "us-east-1a".to_owned());
        let glance = Glance {
            rate: 10,
            p50_micros: 900,
            p99_micros: 2_100,
        };
        let mut frame = Frame {
            seconds: (1, 90),
            doing: "steady",
            home: "us-east",
            glance: BTreeMap::from([(place, glance)]),
            failures: (0, 0, 0),
            requests: 10,
        };
        assert!(screen.lines(&frame)[3].contains("0.9 ms"));
        frame.glance.clear();
        assert!(screen.lines(&frame)[3].contains("us-east-1a"));
    }
}
