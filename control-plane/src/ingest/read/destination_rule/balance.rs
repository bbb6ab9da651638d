//! `loadBalancer`: which endpoint.

use super::super::duration::duration;
use super::super::fields::{Fields, Notes};
use super::super::syntax::header_name;
use super::{locality, values};
use crate::mesh::Balancing;
use std::time::Duration;
use weft_proto::model::{Algorithm, Hash, LocalityRules, Warmup};

/// Places on a ring that a sidecar takes.
const LARGEST_RING: i64 = 1_048_576;
/// Largest table of Maglev that a sidecar takes.
const LARGEST_TABLE: i64 = 5_000_011;
/// Places on the ring unless said otherwise, as Istio has it.
const RING: u64 = 1_024;

type Choice = (Algorithm, Option<Hash>, Option<u64>);

pub(super) fn read(mut fields: Fields<'_>, notes: &Notes) -> Balancing {
    let simple = simple(&mut fields, notes);
    let hashed = fields
        .object("consistentHash")
        .map(|fields| consistent(fields, notes));
    if simple.is_some() && hashed.is_some() {
        notes.invalid(
            &fields.at("simple"),
            "can't be combined with consistentHash, which counts",
            "keep one of them",
        );
    }
    let locality = match fields.object("localityLbSetting") {
        Some(fields) => locality::read(fields, notes),
        None => LocalityRules::default(),
    };
    let mut warmup = fields.object("warmup").and_then(|fields| warmup(fields, notes));
    // The older way to say it.
    if let Some(time) = values::time(&mut fields, "warmupDurationSecs", notes) {
        let older = Warmup {
            time,
            percent: 10,
            aggression: 1_000,
        };
        warmup.get_or_insert(older);
    }
    fields.finish();
    let simple = simple.map(|algorithm| (algorithm, None, None));
    Balancing {
        choice: hashed.flatten().or(simple),
        warmup,
        locality,
    }
}

fn simple(fields: &mut Fields<'_>, notes: &Notes) -> Option<Algorithm> {
    let path = fields.at("simple");
    match fields.text("simple")? {
        "UNSPECIFIED" => Some(Algorithm::PeakEwma),
        "LEAST_REQUEST" | "LEAST_CONN" => Some(Algorithm::LeastRequest),
        "ROUND_ROBIN" => Some(Algorithm::RoundRobin),
        "RANDOM" => Some(Algorithm::Random),
        "PASSTHROUGH" => {
            let reason = "sidecars choose among the Service's pods; who calls a pod by its address reaches that pod anyway";
            notes.not_acted_on(&path, reason, "call pods by their own addresses or names");
            None
        }
        other => {
            let reason = format!("{other:?} is no algorithm");
            notes.invalid(&path, reason, "use LEAST_REQUEST, ROUND_ROBIN or RANDOM");
            None
        }
    }
}

fn warmup(mut fields: Fields<'_>, notes: &Notes) -> Option<Warmup> {
    let time = values::time(&mut fields, "duration", notes);
    if time.is_none() && fields.value("duration").is_none() {
        notes.invalid(
            &fields.at("duration"),
            "is missing",
            "say how long a new pod is spared",
        );
    }
    let percent = values::fraction(&mut fields, "minimumPercent", notes, 0.0, 100.0);
    let aggression = values::fraction(&mut fields, "aggression", notes, 1.0, 100.0);
    fields.finish();
    // Both within the bounds above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(Warmup {
        time: time?,
        percent: (percent.unwrap_or(10.0).round() as u8).max(1),
        aggression: (aggression.unwrap_or(1.0) * 1_000.0).round() as u32,
    })
}

/// `None`: it can't be carried out.
fn consistent(mut fields: Fields<'_>, notes: &Notes) -> Option<Choice> {
    let mark = notes.mark();
    let mut keys: Vec<Hash> = Vec::new();
    if let Some(name) = fields.text("httpHeaderName") {
        match header_name(name) {
            Some(name) => keys.push(Hash::Header(name)),
            None => notes.invalid(
                &fields.at("httpHeaderName"),
                "is no header name (RFC 9110, section 5.1)",
                "correct it",
            ),
        }
    }
    keys.extend(
        fields
            .object("httpCookie")
            .and_then(|fields| cookie(fields, notes)),
    );
    if values::flag(&mut fields, "useSourceIp", notes) == Some(true) {
        keys.push(Hash::Source);
    }
    if let Some(name) = fields.text("httpQueryParameterName") {
        if (1..=256).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
            keys.push(Hash::Query(name.into()));
        } else {
            notes.invalid(
                &fields.at("httpQueryParameterName"),
                "is no name of a parameter",
                "correct it",
            );
        }
    }
    let older = size(&mut fields, "minimumRingSize", LARGEST_RING, notes);
    let ring = fields.object("ringHash").map(|mut ring| {
        let size = size(&mut ring, "minimumRingSize", LARGEST_RING, notes);
        ring.finish();
        size
    });
    let table = fields.object("maglev").map(|mut maglev| {
        let size = size(&mut maglev, "tableSize", LARGEST_TABLE, notes);
        if let Some(size) = size.filter(|size| !prime(*size)) {
            let reason = format!("{size} is no prime, which the table needs to be");
            notes.invalid(
                &maglev.at("tableSize"),
                reason,
                "use 65537, the default, or another prime",
            );
        }
        maglev.finish();
        size
    });
    if ring.is_some() && table.is_some() {
        notes.invalid(
            &fields.at("maglev"),
            "can't be combined with ringHash",
            "keep one of them",
        );
    }
    match keys.len() {
        1 => {}
        0 if notes.error_since(mark).is_some() => {}
        0 => notes.invalid(
            fields.path(),
            "says nothing to hash",
            "name a header, cookie, parameter or useSourceIp",
        ),
        _ => notes.invalid(
            fields.path(),
            "says more than one thing to hash",
            "keep one of them",
        ),
    }
    fields.finish();
    if notes.error_since(mark).is_some() {
        return None;
    }
    let key = keys.pop()?;
    Some(match table {
        Some(size) => (Algorithm::Maglev, Some(key), size),
        None => (
            Algorithm::RingHash,
            Some(key),
            Some(ring.flatten().or(older).unwrap_or(RING)),
        ),
    })
}

/// A cookie is set for so long if there is a `ttl`, else only read.
fn cookie(mut fields: Fields<'_>, notes: &Notes) -> Option<Hash> {
    let mark = notes.mark();
    let stands = |text: &str| {
        text.len() <= 256
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b";,\"".contains(&b))
    };
    let name = fields.text("name").unwrap_or_default();
    if name.is_empty() || !stands(name) || name.contains('=') {
        notes.invalid(
            &fields.at("name"),
            "is no name of a cookie (RFC 6265, section 4.1.1)",
            "correct it",
        );
    }
    let path = fields.text("path").unwrap_or("/");
    if !stands(path) {
        notes.invalid(
            &fields.at("path"),
            "is no path of a cookie (RFC 6265, section 4.1.1)",
            "correct it",
        );
    }
    // Zero has a meaning here: for the browser's session.
    let ttl = match fields.text("ttl") {
        Some(text) if duration(text) == Some(Duration::ZERO) => Some(Duration::ZERO),
        Some(_) => values::time(&mut fields, "ttl", notes),
        None => None,
    };
    if !fields.list("attributes").is_empty() {
        notes.not_acted_on(
            &fields.at("attributes"),
            "Weft sets the cookie without them",
            "don't rely on them",
        );
    }
    fields.finish();
    notes.error_since(mark).is_none().then(|| Hash::Cookie {
        name: name.into(),
        path: path.into(),
        ttl,
    })
}

fn size(fields: &mut Fields<'_>, name: &'static str, largest: i64, notes: &Notes) -> Option<u64> {
    let number = fields.number(name)?;
    let fits = (1..=largest).contains(&number);
    if !fits {
        notes.invalid(
            &fields.at(name),
            format!("{number} is out of bounds"),
            "leave it out, for the default",
        );
    }
    u64::try_from(number).ok().filter(|_| fits)
}

fn prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number >= 2 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}
