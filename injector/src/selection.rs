//! Lists of ports and ranges in annotations.
//!
//! In: an annotation, under Weft's name or Istio's. Out: all, or a sorted set. Never: an entry that was skipped because it
//! could not be read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_proto::model::annotations::Setting;

use crate::decide::{Refusal, RefusalKind};
use crate::pod::Pod;

/// Most entries of a list of ports or ranges.
pub const MAX_LIST: usize = 256;

/// All, or only these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<T> {
    /// `*`.
    All,
    /// A list, perhaps empty.
    Only(BTreeSet<T>),
}

impl<T: std::fmt::Display> std::fmt::Display for Selection<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(items) => {
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// The value under either name, and the name that it came from.
pub(crate) fn lookup<'a>(
    pod: &Pod<'a>,
    setting: Setting,
) -> Result<Option<(&'static str, &'a str)>, Refusal> {
    let weft = pod.annotation(setting.weft);
    let istio = setting.istio.and_then(|name| Some((name, pod.annotation(name)?)));
    match (weft, istio) {
        (Some(weft), Some((name, istio))) if weft.trim() != istio.trim() => Err(refuse(
            setting.weft,
            format!("{name} says something else; keep one of the two"),
        )),
        (Some(value), _) => Ok(Some((setting.weft, value.trim()))),
        (None, Some((name, value))) => Ok(Some((name, value.trim()))),
        (None, None) => Ok(None),
    }
}

/// A list of ports; `*` where `all` says so.
pub(crate) fn ports(pod: &Pod<'_>, setting: Setting, all: bool) -> Result<Option<Selection<u16>>, Refusal> {
    selection(pod, setting, all, "a port number from 1 to 65535", |text| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| *port != 0 && digits)
    })
}

/// A list of ranges; `*` where `all` says so.
pub(crate) fn ranges(
    pod: &Pod<'_>,
    setting: Setting,
    all: bool,
) -> Result<Option<Selection<IpNet>>, Refusal> {
    selection(
        pod,
        setting,
        all,
        "a CIDR such as 10.0.0.0/8 or fd00::/8",
        |text| {
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse::<IpNet>()
                .ok()
                .or_else(address)
                .map(|range| range.trunc())
        },
    )
}

fn selection<T: Ord>(
    pod: &Pod<'_>,
    setting: Setting,
    all: bool,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<Selection<T>>, Refusal> {
    let Some((name, text)) = lookup(pod, setting)? else {
        return Ok(None);
    };
    if text.is_empty() {
        return Ok(Some(Selection::Only(BTreeSet::new())));
    }
    if text == "*" && all {
        return Ok(Some(Selection::All));
    }
    let mut items = BTreeSet::new();
    for (index, item) in text.split(',').enumerate() {
        if index >= MAX_LIST {
            return Err(refuse(name, format!("more than {MAX_LIST} entries")));
        }
        let item = item.trim();
        match parse(item) {
            Some(value) => {
                items.insert(value);
            }
            None => return Err(refuse(name, format!("{item:?} is not {expected}"))),
        }
    }
    Ok(Some(Selection::Only(items)))
}

/// Whether nothing is both included and excluded.
pub(crate) fn disjoint<T: Ord + std::fmt::Display>(
    include: &Option<Selection<T>>,
    exclude: &Option<Selection<T>>,
    setting: Setting,
) -> Result<(), Refusal> {
    if let (Some(Selection::Only(include)), Some(Selection::Only(exclude))) = (include, exclude)
        && let Some(both) = include.intersection(exclude).next()
    {
        return Err(refuse(
            setting.weft,
            format!("{both} is both included and excluded"),
        ));
    }
    Ok(())
}

/// A refusal of an annotation, by its name.
pub(crate) fn refuse(name: &str, reason: impl Into<String>) -> Refusal {
    Refusal::new(
        RefusalKind::Annotation,
        format!("metadata.annotations[{name}]"),
        reason,
    )
}
