//! An explanation for people.
//!
//! In: an explanation, and whether there may be colours. Out: lines of text, aligned: what was chosen is marked, what was not is
//! indented below with the reason. Never: a control character that came from an object or a request.

use super::{Considered, End, Explanation, Stage, Step};
use std::fmt::Write as _;

/// Most rejected options that are shown of a step; the JSON has them all.
const MOST_SHOWN: usize = 12;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// With or without colours.
    pub fn new(colours: bool) -> Self {
        Self { colours }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// All of it.
pub fn render(explanation: &Explanation, style: Style) -> String {
    let mut out = String::new();
    for step in &explanation.steps {
        self::step(&mut out, step, style);
    }
    let who = if explanation.by_gateway() {
        "the gateway"
    } else {
        "the caller's sidecar"
    };
    end(&mut out, &explanation.end, who, style);
    out
}

/// A step's name.
pub fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Listener => "listener",
        Stage::Name => "name",
        Stage::Route => "route",
        Stage::Backend => "backend",
        Stage::Locality => "locality",
        Stage::Endpoint => "endpoint",
        Stage::Tls => "identity",
        Stage::Admission => "admission",
        Stage::Policy => "policy",
        Stage::Limit => "limits",
        Stage::Application => "application",
    }
}

const INDENT: usize = 13;

fn step(out: &mut String, step: &Step, style: Style) {
    let name = style.bold(&format!("{:<width$}", title(step.stage), width = INDENT));
    let _ = writeln!(out, "{name}{}", clean(&step.chosen));
    if let Some(origin) = &step.because {
        let _ = writeln!(
            out,
            "{:INDENT$}{}",
            "",
            style.dim(&format!("by {}", clean(&origin.to_string())))
        );
    }
    for note in &step.notes {
        let _ = writeln!(out, "{:INDENT$}{}", "", clean(note));
    }
    options(out, step, style);
}

fn options(out: &mut String, step: &Step, style: Style) {
    let mut left_out = 0;
    let mut rejected = 0;
    let mut shown = Vec::new();
    for option in &step.options {
        if !option.chosen {
            rejected += 1;
        }
        if option.chosen || rejected <= MOST_SHOWN {
            shown.push(option);
        } else {
            left_out += 1;
        }
    }
    let rows: Vec<Vec<String>> = shown.iter().map(|option| cells(option)).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for (option, row) in shown.iter().zip(&rows) {
        let mark = if option.chosen {
            style.good("✓")
        } else {
            style.dim("·")
        };
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let line = format!("{}  {}", cells.join("  "), clean(&option.why));
        let line = if option.chosen { line } else { style.dim(&line) };
        let place = match &option.because {
            Some(origin) if step.because.as_ref() != Some(origin) && origin.file.is_some() => {
                style.dim(&format!(
                    "  {}:{}",
                    clean(origin.file.as_deref().unwrap_or_default()),
                    origin.line
                ))
            }
            _ => String::new(),
        };
        let _ = writeln!(out, "{:INDENT$}{mark} {}{place}", "", line.trim_end());
    }
    if left_out > 0 {
        let _ = writeln!(
            out,
            "{:INDENT$}{}",
            "",
            style.dim(&format!("· and {left_out} more; -o json has them all"))
        );
    }
}

fn cells(option: &Considered) -> Vec<String> {
    let facts = option.facts.iter().map(|(name, value)| match name.as_str() {
        "pod" | "place" => clean(value),
        _ => format!("{} {}", clean(name), clean(value)),
    });
    std::iter::once(clean(&option.what)).chain(facts).collect()
}

/// `who`: answers if a rule says so.
fn end(out: &mut String, end: &End, who: &str, style: Style) {
    out.push('\n');
    match end {
        End::Reaches { what } => {
            let _ = writeln!(out, "{} {}", style.good("✓ reaches"), clean(what));
        }
        End::Leaves { what } => {
            let _ = writeln!(out, "{} {}", style.good("✓ leaves the mesh:"), clean(what));
        }
        End::Answered { status, why, because } => {
            let _ = writeln!(
                out,
                "{} {}",
                style.bad(&format!("✗ {status}, answered by {who}:")),
                clean(why)
            );
            origin(out, because.as_ref(), style);
        }
        End::Refused {
            stage,
            status,
            why,
            because,
            remedies,
        } => {
            let status = match status {
                Some(status) => format!("{status}, "),
                None => "the connection fails, ".to_owned(),
            };
            let head = style.bad(&format!("✗ {status}ends at {}:", title(*stage)));
            let _ = writeln!(out, "{head} {}", clean(why));
            if !why.contains(&because.as_ref().map(ToString::to_string).unwrap_or_default()) {
                origin(out, because.as_ref(), style);
            }
            for remedy in remedies {
                let _ = writeln!(out, "  {} {}", style.bold("to change that:"), clean(remedy));
            }
        }
    }
}

fn origin(out: &mut String, because: Option<&weft_proto::model::Origin>, style: Style) {
    if let Some(origin) = because {
        let _ = writeln!(
            out,
            "  {}",
            style.dim(&format!("by {}", clean(&origin.to_string())))
        );
    }
}

/// Without control characters, which could do things to a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
