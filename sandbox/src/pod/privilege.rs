//! Giving up what a container's command should not have.
//!
//! Enters: a user, a group, the capabilities to add and drop. Leaves: a process with no more than that. Never
//! happens: a capability that was neither in the usual set nor asked for; new privileges by a set-user-ID program.

use std::collections::HashSet;
use std::str::FromStr;

use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

/// What container runtimes give a container that asks for nothing.
const USUAL: [Capability; 14] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// Who a command runs as, and with which rights.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) user: u32,
    pub(super) group: u32,
    /// Names as in a securityContext (`NET_ADMIN`); unknown ones are refused.
    pub(super) add: Vec<String>,
    /// The same; `ALL` too.
    pub(super) drop: Vec<String>,
}

/// Becomes that identity for good. Users and groups that the namespace does not have are left as they are: an
/// unprivileged sandbox has one.
///
/// # Errors
/// The step that failed.
pub(super) fn become_identity(identity: &Identity) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: nix::Error| format!("cannot {what}: {e}")
    };
    let added = named(&identity.add)?;
    let wanted = wanted(&added, &identity.drop)?;
    raise_descriptor_limit();

    for capability in caps::all().difference(&wanted) {
        // One that the kernel does not know is not there to drop.
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let changes = mapped("uid", identity.user) && mapped("gid", identity.group);
    if changes {
        let (user, group) = (Uid::from_raw(identity.user), Gid::from_raw(identity.group));
        prctl::set_keepcaps(true).map_err(failed("keep capabilities"))?;
        if std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "allow") {
            setgroups(&[group]).map_err(failed("set the groups"))?;
        }
        setresgid(group, group, group).map_err(failed(&format!("become group {group}")))?;
        setresuid(user, user, user).map_err(failed(&format!("become user {user}")))?;
    }
    let root = nix::unistd::getuid().is_root();
    let kept = if root {
        wanted
    } else {
        added.intersection(&wanted).copied().collect()
    };
    let ambient = if root { HashSet::new() } else { kept.clone() };
    for (set, value) in [
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
        (CapSet::Inheritable, &ambient),
        (CapSet::Ambient, &ambient),
    ] {
        caps::set(None, set, value).map_err(|e| format!("cannot set the {set:?} capabilities: {e}"))?;
    }
    prctl::set_no_new_privs().map_err(failed("forgo new privileges"))
}

fn wanted(added: &HashSet<Capability>, dropped: &[String]) -> Result<HashSet<Capability>, String> {
    let mut wanted = HashSet::from(USUAL);
    if dropped.iter().any(|d| d == "ALL") {
        wanted.clear();
    }
    let names: Vec<String> = dropped.iter().filter(|d| *d != "ALL").cloned().collect();
    for capability in named(&names)? {
        wanted.remove(&capability);
    }
    wanted.extend(added);
    Ok(wanted)
}

fn named(names: &[String]) -> Result<HashSet<Capability>, String> {
    let parse = |name: &String| {
        let full = if name.starts_with("CAP_") {
            name.clone()
        } else {
            format!("CAP_{name}")
        };
        Capability::from_str(&full).map_err(|_| format!("there is no capability {name:?}"))
    };
    names.iter().map(parse).collect()
}

/// Whether the user namespace has this id.
fn mapped(kind: &str, id: u32) -> bool {
    let map = std::fs::read_to_string(format!("/proc/self/{kind}_map")).unwrap_or_default();
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        matches!(numbers.as_slice(), &[first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

/// As many open files as the machine allows.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A lower limit is no reason not to start.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn capabilities_as_a_security_context_says() {
        let set = |add: &[&str], drop: &[&str]| wanted(&named(&names(add)).unwrap(), &names(drop)).unwrap();
        assert_eq!(set(&[], &[]).len(), USUAL.len());
        assert_eq!(set(&[], &["ALL"]).len(), 0);
        assert_eq!(
            set(&["NET_ADMIN"], &["ALL"]),
            HashSet::from([Capability::CAP_NET_ADMIN])
        );
        assert!(!set(&[], &["CAP_NET_RAW"]).contains(&Capability::CAP_NET_RAW));
        assert!(named(&names(&["SYS_MAGIC"])).unwrap_err().contains("SYS_MAGIC"));
    }
}
