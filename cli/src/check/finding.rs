//! What a check found.
//!
//! Enters: findings. Leaves: lines for people, JSON for programs, success or failure. Never: advice without a reason.

use serde::Serialize;
use std::fmt::Write as _;

/// The check that looks at namespaces of applications.
pub const POD_SECURITY: &str = "pod-security";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// It works, and may not for long or not as safely as it could.
    Warning,
    /// It does not work.
    Error,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The check.
    pub check: &'static str,
    /// What is so.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// All findings.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// A finding without advice.
    pub fn new(level: Level, check: &'static str, message: impl Into<String>) -> Self {
        Self {
            level,
            check,
            message: message.into(),
            advice: None,
        }
    }

    /// As it should be.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, message)
    }

    /// With what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl Report {
    /// Whether something does not work.
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }

    /// Whether Weft's own parts can't be installed: what is wrong with an application's namespace doesn't keep them from it.
    pub fn stands_in_the_way(&self) -> bool {
        let mut errors = self
            .findings
            .iter()
            .filter(|finding| finding.level == Level::Error);
        errors.any(|finding| finding.check != POD_SECURITY)
    }

    /// All findings, a line each, with what to do below.
    pub fn text(&self) -> String {
        let mut out = lines(self.findings.iter());
        let count = |level| {
            self.findings
                .iter()
                .filter(|finding| finding.level == level)
                .count()
        };
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let _ = match (errors, warnings) {
            (0, 0) => writeln!(out, "\neverything is as it should be"),
            _ => writeln!(
                out,
                "\n{errors} error{}, {warnings} warning{}",
                plural(errors),
                plural(warnings)
            ),
        };
        out
    }

    /// Only what is not as it should be.
    pub fn problems(&self) -> String {
        lines(
            self.findings
                .iter()
                .filter(|finding| finding.level >= Level::Warning),
        )
    }
}

fn lines<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let mut out = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let _ = writeln!(out, "{level:<8} {:<16} {}", finding.check, finding.message);
        if let Some(advice) = &finding.advice {
            let _ = writeln!(out, "{:<25} -> {advice}", "");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_lines_and_what_to_do() {
        let report = Report {
            findings: vec![
                Finding::ok("version", "1.36"),
                Finding::new(Level::Error, "clock", "off").advise("set it"),
            ],
        };
        assert!(report.failed() && report.stands_in_the_way());
        let namespace = Report {
            findings: vec![Finding::new(Level::Error, POD_SECURITY, "shop")],
        };
        assert!(namespace.failed() && !namespace.stands_in_the_way());
        assert_eq!(
            report.text(),
            "ok       version          1.36\nerror    clock            off\n                          -> set it\n\n1 error, 0 warnings\n"
        );
        assert_eq!(
            report.problems(),
            "error    clock            off\n                          -> set it\n"
        );
    }
}
