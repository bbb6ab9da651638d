//! Wire to model and back, a file per model file.
//!
//! Enters: generated messages. Leaves: valid model values, or [`Invalid`] with field and reason. Never: a default in place of a bad value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

mod endpoints;
mod gateway;
mod identity;
mod inbound;
mod matcher;
mod names;
mod origin;
mod pod;
mod policy;
mod route;
mod service;
mod traffic;

/// A refused message: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Path of the field, for example `endpoints[3].addresses[0]`; empty for the whole message.
    pub field: String,
    /// What is wrong with it, for a person.
    pub reason: String,
}

impl Invalid {
    /// A refusal.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same refusal, seen from the message that holds `field`.
    #[must_use]
    pub fn within(mut self, field: impl fmt::Display) -> Self {
        self.field = match self.field.is_empty() {
            true => field.to_string(),
            false => format!("{field}.{}", self.field),
        };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// Converts every element; a refusal names `field[index]`.
fn each<A, B>(
    field: &str,
    items: Vec<A>,
    convert: impl Fn(A) -> Result<B, Invalid>,
) -> Result<Vec<B>, Invalid> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            convert(item).map_err(|invalid| invalid.within(format_args!("{field}[{index}]")))
        })
        .collect()
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

fn address(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).map_err(|_| {
        Invalid::new(
            "",
            format!("an address has 4 or 16 bytes, this one has {}", bytes.len()),
        )
    })?;
    Ok(Ipv6Addr::from(sixteen).into())
}

fn address_bytes(address: &IpAddr) -> bytes::Bytes {
    match address {
        IpAddr::V4(four) => four.octets().to_vec().into(),
        IpAddr::V6(six) => six.octets().to_vec().into(),
    }
}

/// A port; 0 is refused.
fn port(field: &str, port: u32) -> Result<u16, Invalid> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Invalid::new(field, format!("{port} is no port; ports are 1 to 65535")))
}

fn name(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(Invalid::new(
        field,
        format!(
            "{:?} is no name of a Kubernetes object",
            text.chars().take(64).collect::<String>()
        ),
    ))
}
