//! Why the kernel refuses namespaces, and what to do about it.
//!
//! Enters: the step that failed and its error number. Leaves: an error that names the setting and the command that
//! changes it. Never happens: a bare "operation not permitted".

use std::io;

use nix::errno::Errno;

/// Why the sandbox's namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A setting of this machine stands in the way.
    #[error("the kernel refuses {what}: {errno}.\n  {advice}")]
    Refused {
        /// The namespace, or what is done in it.
        what: String,
        /// The kernel's answer.
        errno: String,
        /// Which setting refuses, and the command that changes it.
        advice: String,
    },
    /// The process inside could not be started or watched.
    #[error("cannot start a process of the sandbox: {0}")]
    Process(#[source] io::Error),
    /// It ended before it was ready.
    #[error(
        "the sandbox's first process died before it was ready; its own message is above, if it could write one"
    )]
    Died,
}

/// Reads a report of the process inside: `refused STEP ERRNO`.
pub(super) fn explain(report: &str) -> EnterError {
    let mut words = report.split_whitespace().skip(1);
    let step = words.next().unwrap_or("?");
    let errno = Errno::from_raw(words.next().and_then(|n| n.parse().ok()).unwrap_or_default());
    refused(step, errno, &Machine::look())
}

/// The id maps are written from outside.
pub(super) fn explain_io(file: &str, error: &io::Error) -> EnterError {
    refused(
        file,
        Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        &Machine::look(),
    )
}

/// The settings that may refuse.
#[derive(Debug, Default)]
struct Machine {
    unprivileged_userns_clone: Option<String>,
    apparmor_restrict: Option<String>,
    max_namespaces: Option<String>,
    seccomp: bool,
}

impl Machine {
    fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
        let status = read("/proc/self/status").unwrap_or_default();
        Self {
            unprivileged_userns_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            max_namespaces: read("/proc/sys/user/max_user_namespaces"),
            seccomp: status.lines().any(|l| l.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }
}

fn refused(step: &str, errno: Errno, machine: &Machine) -> EnterError {
    let what = match step {
        "user" => "a user namespace".to_owned(),
        "uid_map" | "gid_map" | "setgroups" => format!("to write {step} of a user namespace"),
        "mnt" | "net" | "uts" | "ipc" | "pid" => format!("a {step} namespace"),
        "private" => "to make the mounts of a namespace its own".to_owned(),
        "proc" => "to mount /proc in a PID namespace".to_owned(),
        other => format!("the step {other:?}"),
    };
    EnterError::Refused {
        what,
        errno: errno.desc().to_owned(),
        advice: advice(step, errno, machine),
    }
}

fn advice(step: &str, errno: Errno, machine: &Machine) -> String {
    if machine.unprivileged_userns_clone.as_deref() == Some("0") {
        return "kernel.unprivileged_userns_clone is 0: as root, `sysctl -w kernel.unprivileged_userns_clone=1`, \
                or run this as root"
            .into();
    }
    if errno == Errno::ENOSPC || machine.max_namespaces.as_deref() == Some("0") {
        let limit = machine.max_namespaces.as_deref().unwrap_or("unknown");
        let kind = if ["mnt", "net", "uts", "ipc", "pid"].contains(&step) {
            step
        } else {
            "user"
        };
        return format!(
            "user.max_{kind}_namespaces allows no more (user: {limit}): as root, \
             `sysctl -w user.max_{kind}_namespaces=10000`"
        );
    }
    if step == "proc" {
        return "parts of /proc are masked here, as in most containers, and then no fresh one may be mounted: run \
                this outside of the container, or start that with `--security-opt systempaths=unconfined \
                --security-opt seccomp=unconfined` (Docker, Podman) or `procMount: Unmasked` (Kubernetes)"
            .into();
    }
    if machine.apparmor_restrict.as_deref().is_some_and(|v| v != "0") {
        return "kernel.apparmor_restrict_unprivileged_userns is on: as root, \
                `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run this as root"
            .into();
    }
    if machine.seccomp {
        return "a seccomp filter is in force, as in most containers: run this outside of the container, or start \
                that with `--security-opt seccomp=unconfined` (Docker, Podman) or a seccompProfile of type \
                Unconfined (Kubernetes)"
            .into();
    }
    match errno {
        Errno::EINVAL => {
            "this kernel is built without that namespace (CONFIG_NAMESPACES and its like)".into()
        }
        _ => "none of the settings known to refuse does: see `dmesg` for a security module's message".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_named_with_its_remedy() {
        let debian = Machine {
            unprivileged_userns_clone: Some("0".into()),
            ..Machine::default()
        };
        let ubuntu = Machine {
            apparmor_restrict: Some("1".into()),
            ..Machine::default()
        };
        let full = Machine {
            max_namespaces: Some("0".into()),
            ..Machine::default()
        };
        let docker = Machine {
            seccomp: true,
            ..Machine::default()
        };
        for (step, errno, machine, words) in [
            (
                "user",
                Errno::EPERM,
                &debian,
                "sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (
                "mnt",
                Errno::EPERM,
                &ubuntu,
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (
                "user",
                Errno::ENOSPC,
                &full,
                "sysctl -w user.max_user_namespaces=10000",
            ),
            (
                "net",
                Errno::ENOSPC,
                &Machine::default(),
                "sysctl -w user.max_net_namespaces=10000",
            ),
            ("user", Errno::EPERM, &docker, "seccomp=unconfined"),
            ("proc", Errno::EPERM, &docker, "systempaths=unconfined"),
            ("user", Errno::EINVAL, &Machine::default(), "CONFIG_NAMESPACES"),
        ] {
            let text = refused(step, errno, machine).to_string();
            assert!(text.contains(words), "{step} {errno}: {text}");
        }
    }

    #[test]
    fn a_report_reads_back() {
        let text = explain(&format!("refused net {}", Errno::EPERM as i32)).to_string();
        assert!(
            text.starts_with("the kernel refuses a net namespace: Operation not permitted"),
            "{text}"
        );
    }
}
