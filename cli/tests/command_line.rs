//! The command line of the real binary: what people read when they ask, and when they err.

#![allow(clippy::unwrap_used)] // a test: what is not there fails it

use std::process::{Command, Output};

fn weft(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_verb() {
    let output = weft(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for verb in [
        "demo",
        "install",
        "upgrade",
        "uninstall",
        "check",
        "completion",
        "up",
        "down",
        "status",
        "apply",
        "delete",
        "exec",
        "logs",
        "port-forward",
        "load",
        "echo",
    ] {
        assert!(
            help.contains(&format!("\n  {verb} ")),
            "{verb} is missing:\n{help}"
        );
    }
    assert!(!help.contains("__"), "hidden verbs are shown:\n{help}");
}

#[test]
fn every_verb_has_help() {
    for verb in [
        "demo",
        "install",
        "upgrade",
        "uninstall",
        "check",
        "completion",
        "up",
        "down",
        "status",
        "apply",
        "delete",
        "exec",
        "logs",
        "port-forward",
        "load",
        "echo",
        "proxy",
        "init",
    ] {
        let output = weft(&[verb, "--help"]);
        assert!(
            output.status.success() && text(&output.stdout).contains("Usage: weft "),
            "{verb}"
        );
    }
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(
        text(&weft(&["--version"]).stdout),
        format!("weft {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn mistakes_are_explained() {
    for (arguments, reason) in [
        (&["dance"][..], "unrecognized subcommand 'dance'"),
        (&["up", "--nam", "x"], "--name"),
        (&["exec", "pod"], "COMMAND"),
        (&["apply"], "PATHS"),
        (&["load"], "nothing to call"),
        (&["load", "--http1", "http://x/"], "METHOD=URL"),
        (&["status", "--name", "Not_A_Name"], "no name of a sandbox"),
    ] {
        let output = weft(arguments);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(reason),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_sandbox_that_does_not_run_is_named() {
    for verb in [
        &["status"][..],
        &["down"],
        &["logs", "pod"],
        &["exec", "pod", "--", "true"],
        &["port-forward", "pod", "0:80"],
    ] {
        let arguments = [verb[0], "--name", "nobody-started-this"]
            .into_iter()
            .chain(verb[1..].iter().copied());
        let output = weft(&arguments.collect::<Vec<_>>());
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains("no sandbox \"nobody-started-this\" is running"),
            "{verb:?}: {said}"
        );
        assert!(
            said.contains("weft up --name nobody-started-this"),
            "{verb:?}: {said}"
        );
    }
}

#[test]
fn parts_that_miss_their_settings_say_which() {
    // The injector has defaults for everything: it runs, and waits for its certificate.
    for verb in ["proxy", "control-plane"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        let output = command.arg(verb).env_clear().output().unwrap();
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(
            !output.status.success() && !said.is_empty() && !said.contains("panicked"),
            "{verb}: {said}"
        );
    }
}

#[test]
fn kubectl_takes_it_as_a_plugin() {
    let folder = std::env::temp_dir().join(format!("weft-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["kubectl-weft", "kubectl_complete-weft"] {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weft"), folder.join(name)).unwrap();
    }
    let named = |name: &str, arguments: &[&str]| {
        let link = folder.join(name);
        let output = Command::new(&link).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(named("kubectl-weft", &["--version"]).starts_with("weft "));
    assert!(named("kubectl-weft", &["check", "--help"]).contains("Usage: kubectl weft check "));
    assert_eq!(named("kubectl_complete-weft", &["uninst"]), "uninstall\n:4\n");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_shell_gets_its_script() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weft(&["completion", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("uninstall"), "{shell}");
    }
}

/// Files that aren't there, or aren't manifests: what is wrong, and where.
#[test]
fn manifests_that_cannot_be_used_are_named() {
    let folder = std::env::temp_dir().join(format!("weft-manifests-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    std::fs::write(file("broken.yaml"), "a: b: c\n").unwrap();
    std::fs::write(file("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
    std::fs::write(file("nothing.yaml"), "").unwrap();
    let (missing, empty) = (file("missing.yaml"), file("empty"));
    let (broken, binary, nothing) = (file("broken.yaml"), file("binary.yaml"), file("nothing.yaml"));
    for (path, code, reason) in [
        (&missing, 2, "No such file"),
        (&empty, 2, "no file in it ends in .yaml"),
        (&broken, 2, "broken.yaml:1\n    is no YAML"),
        (&binary, 2, "is not UTF-8"),
        (&nothing, 0, "nothing found in 0 objects"),
    ] {
        let output = weft(&["analyze", "-f", path]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{path}: {said}");
        assert!(said.contains(reason) && !said.contains(":0"), "{path}: {said}");
    }
    let explain = [
        "explain",
        "-f",
        &nothing,
        "--from",
        "shop/web",
        "--to",
        "http://cart/",
    ];
    let simulate = [
        "simulate",
        "-f",
        &nothing,
        "--load",
        "shop/cart=1",
        "--down",
        "zone=a",
    ];
    for (arguments, code, reason) in [
        (
            &explain[..],
            2,
            "no pod, workload or gateway shop/web, nor any other",
        ),
        (&simulate[..], 2, "there is no service shop/cart"),
        (&["inject", "-f", &missing][..], 1, "No such file"),
        (&["inject", "-f", &broken][..], 1, "not YAML"),
        // Nothing of it could run: no sandbox is started.
        (&["up", &missing][..], 1, "nothing was started"),
        (&["up", &broken][..], 1, "nothing was started"),
    ] {
        let output = weft(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// `weft … | head`: the reader had enough.
#[test]
fn a_reader_that_goes_ends_it_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["analyze", "-f", "../demo"]).stdout(writer);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The command holds the writing end.
    drop(command);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(141), String::new())
    );
}
