//! `weft completion`: words that a shell can offer, and the answers to `kubectl`'s question for them.
//!
//! Enters: a shell's name, or the words on a line. Leaves: a script, or words. Never: a change.

use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

/// Print a script that completes weft's words in a shell
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Name,
}

/// A shell.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(args: &Completion, mut command: Command) {
    let shell = match args.shell {
        Name::Bash => Shell::Bash,
        Name::Zsh => Shell::Zsh,
        Name::Fish => Shell::Fish,
    };
    generate(shell, &mut command, "weft", &mut std::io::stdout());
}

/// Answers `kubectl weft …<TAB>`: the last word is the one that is being written. The last line tells kubectl not to offer files.
pub fn kubectl(command: &Command, words: &[String]) -> String {
    let mut out = String::new();
    for word in offers(command, words) {
        out.push_str(&word);
        out.push('\n');
    }
    out + ":4\n"
}

fn offers(command: &Command, words: &[String]) -> Vec<String> {
    let Some((last, before)) = words.split_last() else {
        return Vec::new();
    };
    let mut here = command;
    for word in before {
        if let Some(next) = here.find_subcommand(word) {
            here = next;
        }
    }
    let offered: Vec<String> = if last.starts_with('-') {
        let options = here.get_arguments().filter(|option| !option.is_hide_set());
        options
            .filter_map(|option| option.get_long())
            .map(|long| format!("--{long}"))
            .collect()
    } else {
        let verbs = here.get_subcommands().filter(|verb| !verb.is_hide_set());
        verbs.map(|verb| verb.get_name().to_owned()).collect()
    };
    offered
        .into_iter()
        .filter(|word| word.starts_with(last.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_is_offered_verbs_and_options() {
        let verb = Command::new("install").arg(clap::Arg::new("dry").long("dry-run"));
        let command = Command::new("weft")
            .subcommand(verb)
            .subcommand(Command::new("__x").hide(true));
        let ask = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            kubectl(&command, &words)
        };
        assert_eq!(ask(&["in"]), "install\n:4\n");
        assert_eq!(ask(&[""]), "install\n:4\n");
        assert_eq!(ask(&["install", "--d"]), "--dry-run\n:4\n");
        assert_eq!(ask(&[]), ":4\n");
    }
}
