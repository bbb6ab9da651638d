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

/// Exit code of a program that SIGPIPE ends, as shells say it.
const NO_READER: i32 = 141;

/// Whoever reads what is printed may have had enough, as in `weft … | head`: that ends the program without a word, not in a panic.
pub fn end_without_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let printing = |text: &str| text.starts_with("failed printing to ") && text.contains("Broken pipe");
        if panic.payload_as_str().is_some_and(printing) {
            std::process::exit(NO_READER);
        }
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::line;
    use anyhow::anyhow;

    #[test]
    fn nothing_is_said_twice() {
        let error = anyhow!("no such file")
            .context("can't read a: no such file")
            .context("no cluster");
        assert_eq!(line(&error), "no cluster: can't read a: no such file");
        assert_eq!(line(&anyhow!("b").context("a")), "a: b");
    }
}
