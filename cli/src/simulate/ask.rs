//! How loads, calls and failures are written.
//!
//! Enters: words of a command line or a file. Leaves: numbers and names. Never: a name that is taken for another, a number that isn't one.

use anyhow::Context as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use weft_engine::simulate::{Failure, How, What};
use weft_proto::model::ServiceName;

/// Largest file, bytes.
const LARGEST: u64 = 1 << 20;
/// Most requests per second, and most calls for one request.
const MOST: f64 = 1e9;

/// Everything about the load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Where requests begin.
    pub loads: Vec<Load>,
    /// What they cause.
    pub edges: Vec<Edge>,
    /// What a pod can do.
    pub capacities: Vec<Named>,
}

/// A Service, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// Which one.
    pub service: ServiceName,
    /// `None`: its first port for requests.
    pub port: Option<u16>,
    /// The path.
    pub path: String,
}

/// Requests per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// A workload or Service; `None`: from outside.
    pub from: Option<ServiceName>,
    /// To.
    pub to: To,
    /// Per second.
    pub rate: f64,
}

/// Requests for each request.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// A workload or Service.
    pub from: ServiceName,
    /// To.
    pub to: To,
    /// For each.
    pub times: f64,
}

/// A number of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Which one.
    pub service: ServiceName,
    /// The number.
    pub rate: f64,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct File {
    load: BTreeMap<String, f64>,
    edges: BTreeMap<String, f64>,
    capacity: BTreeMap<String, f64>,
}

impl Asked {
    /// Adds what a file says.
    pub fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        use std::io::Read as _;
        let mut text = String::new();
        let open = std::fs::File::open(path).with_context(|| format!("can't read {}", path.display()))?;
        open.take(LARGEST)
            .read_to_string(&mut text)
            .with_context(|| format!("can't read {}", path.display()))?;
        let file: File = serde_saphyr::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.without_snippet()))?;
        let wrong = |error: String| anyhow::anyhow!("{}: {error}", path.display());
        for (name, rate) in file.load {
            self.loads.push(load(&format!("{name}={rate}")).map_err(wrong)?);
        }
        for (name, times) in file.edges {
            self.edges.push(edge(&format!("{name}={times}")).map_err(wrong)?);
        }
        for (name, rate) in file.capacity {
            self.capacities
                .push(named(&format!("{name}={rate}")).map_err(wrong)?);
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=MOST).contains(number))
        .ok_or_else(|| format!("{text:?} is no number from 0 to 1,000,000,000"))
}

/// `namespace/name` or `name`.
fn name(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let good = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        !part.is_empty() && part.len() <= 253 && part.bytes().all(allowed)
    };
    match good(namespace) && good(name) {
        true => Ok(ServiceName::new(namespace, name)),
        false => Err(format!("{text:?} is no NAMESPACE/NAME")),
    }
}

/// `namespace/name:port/path`.
fn to(text: &str) -> Result<To, String> {
    let mut parts = text.trim().splitn(3, '/');
    let (first, second, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (namespace, named) = match second {
        Some(second) => (first, second),
        None => ("default", first),
    };
    let (named, port) = match named.split_once(':') {
        Some((named, port)) => {
            let port: u16 = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            (named, Some(port))
        }
        None => (named, None),
    };
    Ok(To {
        service: name(&format!("{namespace}/{named}"))?,
        port,
        path: format!("/{}", rest.unwrap_or_default()),
    })
}

fn halves(text: &str) -> Result<(&str, &str), String> {
    text.rsplit_once('=')
        .ok_or_else(|| format!("{text:?} has no '=': write NAME=NUMBER"))
}

/// `[FROM->]SERVICE=RATE`.
pub fn load(text: &str) -> Result<Load, String> {
    let (names, rate) = halves(text)?;
    let (from, target) = match names.split_once("->") {
        Some((from, target)) => (Some(name(from.trim())?), target),
        None => (None, names),
    };
    Ok(Load {
        from,
        to: to(target)?,
        rate: number(rate)?,
    })
}

/// `FROM->SERVICE=TIMES`.
pub fn edge(text: &str) -> Result<Edge, String> {
    let (names, times) = halves(text)?;
    let (from, target) = names
        .split_once("->")
        .ok_or_else(|| format!("{text:?} has no '->': write FROM->SERVICE=TIMES"))?;
    Ok(Edge {
        from: name(from.trim())?,
        to: to(target)?,
        times: number(times)?,
    })
}

/// `SERVICE=RATE`.
pub fn named(text: &str) -> Result<Named, String> {
    let (service, rate) = halves(text)?;
    let rate = number(rate)?;
    match rate > 0.0 {
        true => Ok(Named {
            service: name(service.trim())?,
            rate,
        }),
        false => Err("a capacity is more than 0".to_owned()),
    }
}

/// `80%`, `0.8`, `150%`; not `80`, which would be a bound that always holds.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, most) = match text.strip_suffix('%') {
        Some(percent) => (number(percent)? / 100.0, 100.0),
        None => (number(text)?, 1.0),
    };
    match number > 0.0 && number <= most {
        true => Ok(number),
        false => Err(format!("{text:?} is no share such as 80% or 0.8")),
    }
}

/// `0%` to `100%`.
pub fn part(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => number(percent)? / 100.0,
        None => number(text)?,
    };
    match number <= 1.0 {
        true => Ok(number),
        false => Err(format!("{text:?} is no share from 0% to 100%")),
    }
}

/// `200ms`, `1s`, `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 200ms or 2s");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .filter(|millis| *millis <= 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is more than an hour"))
}

fn what(text: &str) -> Result<What, String> {
    let (kind, of) = text.split_once('=').ok_or_else(|| {
        format!(
            "{text:?}: write node=NAME, zone=NAME, region=NAME, service=NAMESPACE/NAME or pod=NAMESPACE/NAME"
        )
    })?;
    if of.is_empty() {
        return Err(format!("{text:?} names nothing"));
    }
    match kind {
        "node" => Ok(What::Node(of.into())),
        "zone" => Ok(What::Zone(of.into())),
        "region" => Ok(What::Region(of.into())),
        "service" | "svc" => Ok(What::Service(name(of)?)),
        "pod" => Ok(What::Pod(name(of)?)),
        _ => Err(format!(
            "{kind:?} can't fail: node, zone, region, service or pod can"
        )),
    }
}

/// `KIND=NAME`.
pub fn down(text: &str) -> Result<Failure, String> {
    Ok(Failure {
        what: what(text)?,
        how: How::Down,
    })
}

/// `KIND=NAME:TIME`.
pub fn slow(text: &str) -> Result<Failure, String> {
    let (name, by) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("{text:?} says not by how much: write KIND=NAME:200ms"))?;
    Ok(Failure {
        what: what(name)?,
        how: How::Slow(duration(by)?),
    })
}

/// `KIND=NAME:SHARE[:STATUS]`.
pub fn erring(text: &str) -> Result<Failure, String> {
    let mut parts = text.split(':');
    let (name, often, status) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let often = often.ok_or_else(|| format!("{text:?} says not how often: write KIND=NAME:50%"))?;
    let status = match status {
        None => 503,
        Some(status) => status
            .parse()
            .ok()
            .filter(|status| (500..=599).contains(status))
            .ok_or_else(|| format!("{status:?} is no status from 500 to 599"))?,
    };
    Ok(Failure {
        what: what(name)?,
        how: How::Erring {
            share: part(often)?,
            status,
        },
    })
}

/// `zone us-east-1a`.
pub fn title(what: &What) -> String {
    match what {
        What::Node(name) => format!("node {name}"),
        What::Zone(name) => format!("zone {name}"),
        What::Region(name) => format!("region {name}"),
        What::Service(name) => format!("service {name}"),
        What::Pod(name) => format!("pod {name}"),
    }
}

/// `zone us-east-1a is down`.
pub fn words(failure: &Failure) -> String {
    let what = title(&failure.what);
    match failure.how {
        How::Down => format!("{what} is down"),
        How::Slow(by) => format!("{what} is {} ms slower", by.as_millis()),
        How::Erring { share, status } => format!("{what} answers {:.0}% with {status}", share * 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_edges() {
        let read = load("shop/web->shop/cart:81/items/7=2.5").unwrap();
        assert_eq!(read.from, Some(ServiceName::new("shop", "web")));
        assert_eq!(read.to.service, ServiceName::new("shop", "cart"));
        assert_eq!(
            (read.to.port, read.to.path.as_str(), read.rate),
            (Some(81), "/items/7", 2.5)
        );
        let read = load("cart=500").unwrap();
        assert_eq!(read.to.service, ServiceName::new("default", "cart"));
        assert_eq!(
            (read.from, read.to.port, read.to.path.as_str()),
            (None, None, "/")
        );
        assert_eq!(edge("a/b->c/d=2").unwrap().times, 2.0);
        for bad in [
            "cart", "cart=", "cart=-1", "cart=NaN", "cart=inf", "c/:80=1", "c/d:x=1", "->c=1", "C/d=1",
        ] {
            assert!(load(bad).is_err(), "{bad}");
        }
        assert!(edge("cart=1").is_err());
        assert!(named("cart=0").is_err());
    }

    #[test]
    fn failures() {
        assert_eq!(down("zone=a").unwrap().what, What::Zone("a".into()));
        assert_eq!(
            slow("service=shop/cart:200ms").unwrap().how,
            How::Slow(Duration::from_millis(200))
        );
        assert_eq!(
            erring("pod=shop/a:50%:500").unwrap().how,
            How::Erring {
                share: 0.5,
                status: 500
            }
        );
        for bad in ["zone", "zone=", "rack=a", "pod=A"] {
            assert!(down(bad).is_err(), "{bad}");
        }
        for bad in ["zone=a", "zone=a:x", "zone=a:9h", "zone=a:999999999999999999s"] {
            assert!(slow(bad).is_err(), "{bad}");
        }
        for bad in ["zone=a", "zone=a:200%", "zone=a:5%:404"] {
            assert!(erring(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (share("80%"), share("0.8"), part("0%")),
            (Ok(0.8), Ok(0.8), Ok(0.0))
        );
        for bad in ["0%", "80", "1.5", "-1%", "x"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file() {
        let folder = std::env::temp_dir().join(format!("weft-load-{}", std::process::id()));
        std::fs::write(
            &folder,
            "load: {shop/web: 500}\nedges: {shop/web->shop/cart: 2}\ncapacity: {shop/cart: 100}\n",
        )
        .unwrap();
        let mut asked = Asked::default();
        asked.read(&folder).unwrap();
        assert_eq!(
            (asked.loads.len(), asked.edges.len(), asked.capacities.len()),
            (1, 1, 1)
        );
        std::fs::write(&folder, "lode: {shop/web: 500}\n").unwrap();
        let error = asked.read(&folder).unwrap_err().to_string();
        assert!(error.contains("lode"), "{error}");
        std::fs::remove_file(&folder).unwrap();
    }
}
