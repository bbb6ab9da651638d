//! What the pod's annotations ask for.
//!
//! In: annotations, Weft's and those of Istio's that mean the same. Out: checked values, and warnings for those that nobody
//! acts on. Never: a value that is half understood; a malformed or contradictory one refuses the pod.
//!
//! | annotation of Weft | of Istio, read too | value |
//! |---|---|---|
//! | `traffic.weft.dev/includeInboundPorts` | `traffic.sidecar.istio.io/…` | ports, `*` (default) or nothing |
//! | `traffic.weft.dev/excludeInboundPorts` | `traffic.sidecar.istio.io/…` | ports |
//! | `traffic.weft.dev/includeOutboundIPRanges` | `traffic.sidecar.istio.io/…` | CIDRs, `*` (default) or nothing |
//! | `traffic.weft.dev/excludeOutboundIPRanges` | `traffic.sidecar.istio.io/…` | CIDRs |
//! | `traffic.weft.dev/includeOutboundPorts` | `traffic.sidecar.istio.io/…` | ports intercepted whatever the ranges are |
//! | `traffic.weft.dev/excludeOutboundPorts` | `traffic.sidecar.istio.io/…` | ports |
//! | `sidecar.weft.dev/proxyCPU`, `…proxyMemory` | `sidecar.istio.io/…` | request: a quantity |
//! | `sidecar.weft.dev/proxyCPULimit`, `…proxyMemoryLimit` | `sidecar.istio.io/…` | limit: a quantity, at least the request |
//! | `sidecar.weft.dev/logLevel` | `sidecar.istio.io/logLevel` | off, error, warn(ing), info, debug, trace (critical: error) |
//! | `sidecar.weft.dev/workers` | `concurrency` in `proxy.istio.io/config` (0: default) | 1 to 64 |
//! | `sidecar.weft.dev/inboundConcurrency` | | 1 to 100,000, or `adaptive` |

use ipnet::IpNet;
use weft_proto::model::annotations::{self as names, Setting};

use crate::decide::Refusal;
use crate::pod::Pod;
use crate::quantity;
use crate::selection::{Selection, disjoint, lookup, ports, ranges, refuse};

/// Log levels of the sidecar.
pub const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Most worker threads of one sidecar.
pub const MAX_WORKERS: u64 = 64;
/// Most requests that may be let wait for the application.
pub const MAX_CONCURRENCY: u32 = 100_000;
/// Longest `proxy.istio.io/config` that is read, in bytes.
const MAX_PROXY_CONFIG: usize = 16 * 1024;

/// What the annotations of one pod ask for. None: nothing was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Inbound ports to intercept.
    pub include_inbound_ports: Option<Selection<u16>>,
    /// Inbound ports to leave alone.
    pub exclude_inbound_ports: Option<Selection<u16>>,
    /// Destination ports to intercept whatever the ranges are.
    pub include_outbound_ports: Option<Selection<u16>>,
    /// Destination ports to leave alone.
    pub exclude_outbound_ports: Option<Selection<u16>>,
    /// Destination ranges to intercept.
    pub include_outbound_ranges: Option<Selection<IpNet>>,
    /// Destination ranges to leave alone.
    pub exclude_outbound_ranges: Option<Selection<IpNet>>,
    /// CPU of the sidecar.
    pub cpu: Resource,
    /// Memory of the sidecar.
    pub memory: Resource,
    /// One of [`LOG_LEVELS`].
    pub log_level: Option<&'static str>,
    /// Worker threads, 1 to [`MAX_WORKERS`].
    pub workers: Option<u64>,
    /// How many requests may wait for the application: a number up to [`MAX_CONCURRENCY`], or `adaptive`.
    pub inbound_concurrency: Option<String>,
    /// What was seen and not acted on.
    pub warnings: Vec<String>,
}

/// Request and limit, as quantities that were checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Request.
    pub request: Option<String>,
    /// Limit.
    pub limit: Option<String>,
}

/// Reads the annotations of a pod.
///
/// # Errors
/// A [`Refusal`] that names the annotation and what is wrong with it.
pub fn read(pod: &Pod<'_>) -> Result<Overrides, Refusal> {
    let mut asked = Overrides {
        include_inbound_ports: ports(pod, names::INCLUDE_INBOUND_PORTS, true)?,
        exclude_inbound_ports: ports(pod, names::EXCLUDE_INBOUND_PORTS, false)?,
        include_outbound_ports: ports(pod, names::INCLUDE_OUTBOUND_PORTS, true)?,
        exclude_outbound_ports: ports(pod, names::EXCLUDE_OUTBOUND_PORTS, false)?,
        include_outbound_ranges: ranges(pod, names::INCLUDE_OUTBOUND_RANGES, true)?,
        exclude_outbound_ranges: ranges(pod, names::EXCLUDE_OUTBOUND_RANGES, false)?,
        cpu: resource(pod, names::PROXY_CPU, names::PROXY_CPU_LIMIT)?,
        memory: resource(pod, names::PROXY_MEMORY, names::PROXY_MEMORY_LIMIT)?,
        log_level: log_level(pod)?,
        workers: None,
        inbound_concurrency: inbound_concurrency(pod)?,
        warnings: unknown(pod),
    };
    asked.workers = workers(pod, &mut asked.warnings)?;
    disjoint(
        &asked.include_inbound_ports,
        &asked.exclude_inbound_ports,
        names::EXCLUDE_INBOUND_PORTS,
    )?;
    disjoint(
        &asked.include_outbound_ports,
        &asked.exclude_outbound_ports,
        names::EXCLUDE_OUTBOUND_PORTS,
    )?;
    disjoint(
        &asked.include_outbound_ranges,
        &asked.exclude_outbound_ranges,
        names::EXCLUDE_OUTBOUND_RANGES,
    )?;
    Ok(asked)
}

fn resource(pod: &Pod<'_>, request: Setting, limit: Setting) -> Result<Resource, Refusal> {
    let read = |setting| -> Result<Option<(f64, &str)>, Refusal> {
        let Some((name, text)) = lookup(pod, setting)? else {
            return Ok(None);
        };
        match quantity::parse(text) {
            Some(value) if value > 0.0 => Ok(Some((value, text))),
            _ => Err(refuse(
                name,
                format!("{text:?} is not a quantity above zero, such as 100m, 0.5, 64Mi or 1Gi"),
            )),
        }
    };
    let (asked, most) = (read(request)?, read(limit)?);
    if let (Some((value, _)), Some((most, text))) = (asked, most)
        && value > most
    {
        return Err(refuse(
            request.weft,
            format!("the request is above the limit of {text}"),
        ));
    }
    let text = |read: Option<(f64, &str)>| read.map(|(_, text)| text.to_owned());
    Ok(Resource {
        request: text(asked),
        limit: text(most),
    })
}

fn log_level(pod: &Pod<'_>) -> Result<Option<&'static str>, Refusal> {
    let Some((name, text)) = lookup(pod, names::LOG_LEVEL)? else {
        return Ok(None);
    };
    let text = text.to_ascii_lowercase();
    let level = match text.as_str() {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    };
    match LOG_LEVELS.iter().find(|known| **known == level) {
        Some(known) => Ok(Some(known)),
        None => Err(refuse(
            name,
            format!("{text:?} is none of off, error, warn, info, debug, trace"),
        )),
    }
}

fn workers(pod: &Pod<'_>, warnings: &mut Vec<String>) -> Result<Option<u64>, Refusal> {
    let own = match lookup(pod, names::WORKERS)? {
        None => None,
        Some((name, text)) => match text.parse::<u64>() {
            Ok(count) if (1..=MAX_WORKERS).contains(&count) => Some(count),
            _ => {
                return Err(refuse(
                    name,
                    format!("{text:?} is not a number from 1 to {MAX_WORKERS}"),
                ));
            }
        },
    };
    let istio = concurrency(pod, warnings)?;
    match (own, istio) {
        (Some(own), Some(istio)) if own != istio => Err(refuse(
            names::WORKERS.weft,
            "concurrency in proxy.istio.io/config says something else; keep one of the two",
        )),
        (own, istio) => Ok(own.or(istio)),
    }
}

fn inbound_concurrency(pod: &Pod<'_>) -> Result<Option<String>, Refusal> {
    let Some((name, text)) = lookup(pod, names::INBOUND_CONCURRENCY)? else {
        return Ok(None);
    };
    let text = text.trim();
    let number = || {
        text.parse()
            .is_ok_and(|count| (1..=MAX_CONCURRENCY).contains(&count))
    };
    if text == "adaptive" || number() {
        return Ok(Some(text.to_owned()));
    }
    Err(refuse(
        name,
        format!("{text:?} is neither adaptive nor a number from 1 to {MAX_CONCURRENCY}"),
    ))
}

fn concurrency(pod: &Pod<'_>, warnings: &mut Vec<String>) -> Result<Option<u64>, Refusal> {
    let name = names::ISTIO_PROXY_CONFIG;
    let Some(text) = pod.annotation(name) else {
        return Ok(None);
    };
    if text.len() > MAX_PROXY_CONFIG {
        return Err(refuse(name, format!("longer than {MAX_PROXY_CONFIG} bytes")));
    }
    let config: serde_json::Map<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|_| refuse(name, "not a YAML mapping"))?;
    for field in config.keys().filter(|field| *field != "concurrency").take(4) {
        warnings.push(format!("annotation {name}: Weft does not act on {field:.64}"));
    }
    match config.get("concurrency") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(0) => Ok(None),
            Some(count) if count <= MAX_WORKERS => Ok(Some(count)),
            _ => Err(refuse(
                name,
                format!("concurrency is not a number from 0 to {MAX_WORKERS}"),
            )),
        },
    }
}

fn unknown(pod: &Pod<'_>) -> Vec<String> {
    let known = |name: &str| {
        name == names::ISTIO_PROXY_CONFIG
            || names::SETTINGS
                .iter()
                .any(|setting| setting.weft == name || setting.istio == Some(name))
    };
    let mut warnings: Vec<String> = pod
        .annotations()
        .map(|(name, _)| name)
        .filter(|name| {
            names::SETTING_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .filter(|name| !known(name))
        .take(8)
        .map(|name| format!("annotation {name:.120}: Weft does not act on it"))
        .collect();
    if pod.annotation(names::POD_INJECT).is_some() {
        warnings.push(format!(
            "annotation {}: must be a label to have an effect",
            names::POD_INJECT
        ));
    }
    if pod.label(names::ISTIO_INJECT).is_some() {
        warnings.push(format!(
            "label {}: speaks of Istio's sidecar; Weft's is {}",
            names::ISTIO_INJECT,
            names::POD_INJECT
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::selection::MAX_LIST;
    use serde_json::{Value, json};

    fn ask(annotations: Value) -> Result<Overrides, Refusal> {
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}]}});
        let pod = Json::from(&pod);
        read(&Pod::read(&pod).unwrap())
    }

    #[test]
    fn weft_and_istio_names_mean_the_same() {
        for (area, sidecar) in [
            ("traffic.weft.dev", "sidecar.weft.dev"),
            ("traffic.sidecar.istio.io", "sidecar.istio.io"),
        ] {
            let asked = ask(json!({
                format!("{area}/includeInboundPorts"): "*",
                format!("{area}/excludeInboundPorts"): "9090, 22",
                format!("{area}/includeOutboundPorts"): "",
                format!("{area}/excludeOutboundPorts"): "3306",
                format!("{area}/includeOutboundIPRanges"): "10.1.2.3/8,fd00::/8",
                format!("{area}/excludeOutboundIPRanges"): "169.254.169.254",
                format!("{sidecar}/proxyCPU"): "100m",
                format!("{sidecar}/proxyCPULimit"): "2",
                format!("{sidecar}/proxyMemory"): "64Mi",
                format!("{sidecar}/proxyMemoryLimit"): "1Gi",
                format!("{sidecar}/logLevel"): "warning",
            }))
            .unwrap();
            assert_eq!(asked.include_inbound_ports, Some(Selection::All));
            assert_eq!(asked.exclude_inbound_ports.unwrap().to_string(), "22,9090");
            assert_eq!(asked.include_outbound_ports.unwrap().to_string(), "");
            assert_eq!(
                asked.include_outbound_ranges.unwrap().to_string(),
                "10.0.0.0/8,fd00::/8"
            );
            assert_eq!(
                asked.exclude_outbound_ranges.unwrap().to_string(),
                "169.254.169.254/32"
            );
            assert_eq!(
                asked.cpu,
                Resource {
                    request: Some("100m".into()),
                    limit: Some("2".into())
                }
            );
            assert_eq!(asked.log_level, Some("warn"));
            assert_eq!(asked.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn malformed_or_contradictory_is_refused_by_name() {
        for (annotations, field, reason) in [
            (
                json!({"sidecar.weft.dev/inboundConcurrency": "0"}),
                "sidecar.weft.dev/inboundConcurrency",
                "\"0\" is neither adaptive nor",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "80,,81"}),
                "traffic.weft.dev/excludeInboundPorts",
                "\"\" is not",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "*"}),
                "traffic.weft.dev/excludeInboundPorts",
                "\"*\" is not",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "0"}),
                "traffic.weft.dev/excludeInboundPorts",
                "is not a port",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "+80"}),
                "traffic.weft.dev/excludeInboundPorts",
                "is not a port",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "80-90"}),
                "traffic.weft.dev/excludeInboundPorts",
                "is not a port",
            ),
            (
                json!({"traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/33"}),
                "traffic.sidecar.istio.io/includeOutboundIPRanges",
                "is not a CIDR",
            ),
            (
                json!({"traffic.weft.dev/excludeInboundPorts": "80", "traffic.sidecar.istio.io/excludeInboundPorts": "81"}),
                "traffic.weft.dev/excludeInboundPorts",
                "keep one of the two",
            ),
            (
                json!({"traffic.weft.dev/includeInboundPorts": "80,81", "traffic.sidecar.istio.io/excludeInboundPorts": "81"}),
                "traffic.weft.dev/excludeInboundPorts",
                "81 is both included and excluded",
            ),
            (
                json!({"sidecar.weft.dev/proxyCPU": "2", "sidecar.weft.dev/proxyCPULimit": "100m"}),
                "sidecar.weft.dev/proxyCPU",
                "above the limit of 100m",
            ),
            (
                json!({"sidecar.weft.dev/proxyMemory": "0"}),
                "sidecar.weft.dev/proxyMemory",
                "above zero",
            ),
            (
                json!({"sidecar.istio.io/logLevel": "loud"}),
                "sidecar.istio.io/logLevel",
                "is none of",
            ),
            (
                json!({"sidecar.weft.dev/workers": "65"}),
                "sidecar.weft.dev/workers",
                "from 1 to 64",
            ),
            (
                json!({"sidecar.weft.dev/workers": "1", "proxy.istio.io/config": "concurrency: 2"}),
                "sidecar.weft.dev/workers",
                "keep one",
            ),
            (
                json!({"proxy.istio.io/config": "- 1"}),
                "proxy.istio.io/config",
                "not a YAML mapping",
            ),
            (
                json!({"proxy.istio.io/config": "concurrency: many"}),
                "proxy.istio.io/config",
                "concurrency",
            ),
        ] {
            let refusal = ask(annotations.clone()).unwrap_err();
            assert_eq!(
                refusal.field,
                format!("metadata.annotations[{field}]"),
                "{annotations}"
            );
            assert!(refusal.reason.contains(reason), "{refusal}");
        }
        let long = vec!["80"; MAX_LIST + 1].join(",");
        assert!(ask(json!({"traffic.weft.dev/excludeInboundPorts": long})).is_err());
    }

    #[test]
    fn what_nobody_acts_on_is_said() {
        let asked = ask(json!({
            "sidecar.istio.io/interceptionMode": "TPROXY",
            "traffic.weft.dev/excludeInboundPort": "80",
            "weft.dev/inject": "false",
            "proxy.istio.io/config": "concurrency: 4\ndrainDuration: 5s",
            "example.com/other": "x",
        }))
        .unwrap();
        assert_eq!(asked.workers, Some(4));
        assert_eq!(asked.warnings.len(), 4, "{:?}", asked.warnings);
    }
}
