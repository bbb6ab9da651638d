//! Settings of a network namespace under `/proc/sys/net`.
//!
//! Enters: nothing but the calling thread's namespace. Leaves: its settings, changed. Never happens: a change to
//! another namespace (the kernel shows each thread its own).

use std::io;

use crate::Error;

/// Writes one setting, named by its path below `/proc/sys` (`net/ipv4/ip_forward`).
///
/// # Errors
/// When the setting does not exist, or `/proc/sys` is read-only (as in most containers).
pub fn write(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).map_err(|source| Error::Sysctl {
        path,
        value: value.into(),
        source,
    })
}

/// The same, but a kernel that was built without the setting is no error.
fn write_if_there(name: &str, value: &str) -> Result<(), Error> {
    match write(name, value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Packets for others are passed on, IPv4 and IPv6, and IPv4 sources are not checked against the way back.
///
/// # Errors
/// As for [`write`].
pub fn forward() -> Result<(), Error> {
    write("net/ipv4/ip_forward", "1")?;
    write_if_there("net/ipv6/conf/all/forwarding", "1")?;
    write("net/ipv4/conf/all/rp_filter", "0")?;
    write("net/ipv4/conf/default/rp_filter", "0")
}

/// IPv6 addresses can be used at once: no duplicate address detection, no router discovery, on links made later.
///
/// # Errors
/// As for [`write`].
pub fn quick_ipv6() -> Result<(), Error> {
    for (name, value) in [
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
    ] {
        write_if_there(&format!("net/ipv6/conf/all/{name}"), value)?;
        write_if_there(&format!("net/ipv6/conf/default/{name}"), value)?;
    }
    Ok(())
}

/// Any user may listen on ports below 1024.
///
/// # Errors
/// As for [`write`].
pub fn low_ports_for_all() -> Result<(), Error> {
    write("net/ipv4/ip_unprivileged_port_start", "0")
}
