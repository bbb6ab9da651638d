//! What people read when a verb fails.
//!
//! Enters: an error with its causes. Leaves: one line, outermost first. Never: the same words twice: some errors name their cause themselves.

/// The line.
pub fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::line;
    use anyhow::anyhow;

    #[test]
    fn nothing_is_said_twice() {
        let error = anyhow!("no such file").context("can't read a: no such file").context("no cluster");
        assert_eq!(line(&error), "no cluster: can't read a: no such file");
        assert_eq!(line(&anyhow!("b").context("a")), "a: b");
    }
}
