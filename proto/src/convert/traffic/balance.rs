//! How an endpoint is chosen.

use super::{Invalid, duration, millis, most, optional, required, text, unknown};
use crate::model::{Algorithm, Balance, Hash, Warmup};
use crate::wire::v1;
use std::sync::Arc;
use std::time::Duration;

/// Most places on a ring.
const LARGEST_RING: u64 = 1_048_576;
/// Largest table of Maglev.
const LARGEST_TABLE: u64 = 5_000_011;

impl TryFrom<v1::Balance> for Balance {
    type Error = Invalid;
    fn try_from(wire: v1::Balance) -> Result<Self, Invalid> {
        let algorithm = match v1::Algorithm::try_from(wire.algorithm) {
            Ok(v1::Algorithm::Unspecified | v1::Algorithm::PeakEwma) => Algorithm::PeakEwma,
            Ok(v1::Algorithm::LeastRequest) => Algorithm::LeastRequest,
            Ok(v1::Algorithm::RoundRobin) => Algorithm::RoundRobin,
            Ok(v1::Algorithm::Random) => Algorithm::Random,
            Ok(v1::Algorithm::RingHash) => Algorithm::RingHash,
            Ok(v1::Algorithm::Maglev) => Algorithm::Maglev,
            Err(_) => return Err(unknown("algorithm", wire.algorithm)),
        };
        let time = duration("warmup_ms", wire.warmup_ms)?;
        let percent = match wire.warmup_percent {
            0 => 10,
            percent => most("warmup_percent", percent, 100)?,
        };
        let aggression = match wire.warmup_aggression {
            0 => 1_000,
            aggression => most("warmup_aggression", aggression, 100_000)?,
        };
        Ok(Self {
            algorithm,
            hash: optional("hash", wire.hash)?,
            size: size(algorithm, wire.size)?,
            warmup: time.map(|time| Warmup {
                time,
                percent: percent as u8,
                aggression,
            }),
        })
    }
}

impl From<&Balance> for v1::Balance {
    fn from(balance: &Balance) -> Self {
        let algorithm = match balance.algorithm {
            Algorithm::PeakEwma => v1::Algorithm::PeakEwma,
            Algorithm::LeastRequest => v1::Algorithm::LeastRequest,
            Algorithm::RoundRobin => v1::Algorithm::RoundRobin,
            Algorithm::Random => v1::Algorithm::Random,
            Algorithm::RingHash => v1::Algorithm::RingHash,
            Algorithm::Maglev => v1::Algorithm::Maglev,
        };
        let warmup = balance.warmup;
        Self {
            algorithm: algorithm.into(),
            hash: balance.hash.as_ref().map(Into::into),
            size: balance.size.unwrap_or_default(),
            warmup_ms: millis(warmup.map(|warmup| warmup.time)),
            warmup_percent: warmup.map_or(0, |warmup| warmup.percent.into()),
            warmup_aggression: warmup.map_or(0, |warmup| warmup.aggression),
        }
    }
}

impl TryFrom<v1::Hash> for Hash {
    type Error = Invalid;
    fn try_from(wire: v1::Hash) -> Result<Self, Invalid> {
        use v1::hash::Of;
        Ok(match required("of", wire.of)? {
            Of::Header(name) => Self::Header(text("header", &name.to_ascii_lowercase())?),
            Of::Query(name) => Self::Query(text("query", &name)?),
            Of::Source(true) => Self::Source,
            Of::Source(false) => return Err(Invalid::new("source", "only true has a meaning")),
            Of::Cookie(cookie) => {
                let within = |e: Invalid| e.within("cookie");
                Self::Cookie {
                    name: cookie_text("name", &cookie.name, true).map_err(within)?,
                    path: cookie_text("path", &cookie.path, false).map_err(within)?,
                    ttl: match (cookie.read_only, cookie.ttl_ms) {
                        (true, _) => None,
                        (false, 0) => Some(Duration::ZERO),
                        (false, ttl) => duration("ttl_ms", ttl).map_err(within)?,
                    },
                }
            }
        })
    }
}

impl From<&Hash> for v1::Hash {
    fn from(hash: &Hash) -> Self {
        use v1::hash::Of;
        let of = match hash {
            Hash::Header(name) => Of::Header(name.to_string()),
            Hash::Query(name) => Of::Query(name.to_string()),
            Hash::Source => Of::Source(true),
            Hash::Cookie { name, path, ttl } => Of::Cookie(v1::HashCookie {
                name: name.to_string(),
                path: path.to_string(),
                ttl_ms: millis(*ttl),
                read_only: ttl.is_none(),
            }),
        };
        Self { of: Some(of) }
    }
}

/// What can stand in a cookie (RFC 6265, section 4.1.1), 1 to 256 bytes.
fn cookie_text(field: &str, text: &str, needed: bool) -> Result<Arc<str>, Invalid> {
    if needed && text.is_empty() {
        return Err(Invalid::new(field, "is empty"));
    }
    if text.len() > 256 {
        return Err(Invalid::new(field, "is longer than 256 bytes"));
    }
    if text
        .bytes()
        .any(|b| !b.is_ascii_graphic() || matches!(b, b';' | b',' | b'"') || needed && b == b'=')
    {
        return Err(Invalid::new(
            field,
            "has a character that can't stand in a cookie (RFC 6265, section 4.1.1)",
        ));
    }
    Ok(text.into())
}

fn size(algorithm: Algorithm, size: u64) -> Result<Option<u64>, Invalid> {
    let refuse = |reason: String| Err(Invalid::new("size", reason));
    match (algorithm, size) {
        (_, 0) => Ok(None),
        (Algorithm::Maglev, size) if size > LARGEST_TABLE => {
            refuse(format!("{size} is more than {LARGEST_TABLE}"))
        }
        (Algorithm::Maglev, size) if !prime(size) => refuse(format!(
            "{size} is no prime; the table of Maglev needs one, for example 65537"
        )),
        (Algorithm::Maglev, size) => Ok(Some(size)),
        (_, size) if size > LARGEST_RING => refuse(format!("{size} is more than {LARGEST_RING}")),
        (_, size) => Ok(Some(size)),
    }
}

fn prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
