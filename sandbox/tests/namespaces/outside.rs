//! What is seen from outside: `exec` into a pod, and nothing left after SIGKILL.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weft_sandbox::enter;

use crate::lab::Lab;

/// A process outside that holds a sandbox with one pod, and what it says of itself.
struct Sandbox {
    outer: Child,
    stream: UnixStream,
    user_namespace: String,
    container: u32,
    _directory: tempfile::TempDir,
}

impl Sandbox {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let outer = Command::new("/proc/self/exe")
            .arg("outer")
            .arg(&socket)
            .spawn()
            .unwrap();
        until("the sandbox listens", || UnixStream::connect(&socket).is_ok());
        let stream = UnixStream::connect(&socket).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let (user_namespace, container) = line.trim().split_once(' ').unwrap();
        let (user_namespace, container) = (user_namespace.to_owned(), container.parse().unwrap());
        Self {
            outer,
            stream,
            user_namespace,
            container,
            _directory: directory,
        }
    }

    /// Processes that live in the sandbox's user namespace.
    fn processes(&self) -> usize {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let link = |e: std::fs::DirEntry| std::fs::read_link(e.path().join("ns/user")).ok();
        entries
            .filter_map(link)
            .filter(|l| l.to_str() == Some(&self.user_namespace))
            .count()
    }
}

/// Role: starts a sandbox and waits, as `weft up` does.
pub fn outer(socket: &str) {
    let started = enter::start(["linger".into(), socket.into()]).unwrap();
    std::process::exit(started.wait().unwrap());
}

/// Role, inside: a pod that runs, and a socket that says where.
pub async fn linger(socket: &str) {
    // Below the directory that the process outside removes, because this one is killed.
    let directory = std::path::Path::new(socket).parent().unwrap();
    let lab = Lab::new(tempfile::tempdir_in(directory).unwrap());
    let (pod, serving) = lab.server("target", 0).await;
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let namespace = std::fs::read_link("/proc/self/ns/user").unwrap();
    let line = format!("{} {}\n", namespace.display(), serving.pid());
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(line.as_bytes()).await;
            std::mem::forget(stream.into_std().unwrap());
        }
    };
    tokio::select! {
        () = serve => {}
        _ = term.recv() => {
            pod.destroy(&lab.fabric).await.unwrap();
            std::process::exit(7);
        }
    }
}

pub fn tests(filter: &[&str]) {
    let tests: [(&str, fn()); 4] = [
        ("exec_from_outside", exec_from_outside),
        ("sigkill_leaves_nothing", sigkill_leaves_nothing),
        ("sigterm_is_passed_on", sigterm_is_passed_on),
        ("two_at_once", two_at_once),
    ];
    for (name, test) in tests {
        let wanted: Vec<_> = filter.iter().filter(|f| !f.starts_with('-')).collect();
        if wanted.is_empty() || wanted.iter().any(|f| name.contains(**f)) {
            test();
            println!("test {name} ... ok");
        }
    }
}

fn exec_from_outside() {
    let mut sandbox = Sandbox::start();
    let main = enter::peer_pid(&sandbox.stream).unwrap();
    // A process of its own, because entering a user namespace is for good.
    let script =
        "read line; echo \"$line $EXTRA $(cat /etc/hostname) $HOSTNAME\"; cat /proc/1/comm >&2; exit 3";
    let argv: Vec<String> = ["sh", "-c", script].map(String::from).into();
    let mut joined = Command::new("/proc/self/exe")
        .args(["join", &main.to_string(), &sandbox.container.to_string()])
        .args(&argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    joined.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = joined.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "typed given target target\n"
    );
    assert_eq!(output.status.code(), Some(3));
    sandbox.outer.kill().unwrap();
    sandbox.outer.wait().unwrap();
}

fn sigkill_leaves_nothing() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut sandbox = Sandbox::start();
    assert!(sandbox.processes() >= 4, "{}", sandbox.processes());
    sandbox.outer.kill().unwrap();
    sandbox.outer.wait().unwrap();
    until("every process inside is gone", || sandbox.processes() == 0);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}

fn sigterm_is_passed_on() {
    let mut sandbox = Sandbox::start();
    let outer = nix::unistd::Pid::from_raw(sandbox.outer.id() as i32);
    nix::sys::signal::kill(outer, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(sandbox.outer.wait().unwrap().code(), Some(7));
    until("every process inside is gone", || sandbox.processes() == 0);
}

fn two_at_once() {
    let mut both = [Sandbox::start(), Sandbox::start()];
    assert_ne!(both[0].user_namespace, both[1].user_namespace);
    both[0].outer.kill().unwrap();
    both[0].outer.wait().unwrap();
    until("every process of the first is gone", || both[0].processes() == 0);
    assert!(both[1].processes() >= 4);
    both[1].outer.kill().unwrap();
    both[1].outer.wait().unwrap();
    until("every process of the second is gone", || both[1].processes() == 0);
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("in vain: {what}");
}
