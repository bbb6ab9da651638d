//! The application's probes and hooks, sent by way of the sidecar.
//!
//! In: a container. Out: the same container, whose HTTP, HTTPS, TCP and gRPC probes and HTTP hooks go to the sidecar's health
//! port, and the originals as [`AppProbe`]s. The kubelet has no certificate of the mesh, so that its own checks would be
//! refused where mutual TLS is strict. Never: an `exec` probe touched, or one that names another host than the pod.

use std::collections::BTreeMap;
use std::fmt;

use weft_proto::model::annotations as names;
use weft_proto::model::probes::{
    AppProbe, DEFAULT_TIMEOUT_SECONDS, GrpcProbe, Header, HttpProbe, MAX_TIMEOUT_SECONDS, ProbeKind, Scheme,
    TcpProbe,
};

use crate::decide::{Refusal, RefusalKind};
use crate::json::Json;
use crate::pod::list;

/// Original probes by their path on the sidecar's health port.
pub type Originals = BTreeMap<String, AppProbe>;

const PROBES: [(&str, &str); 3] = [
    ("startupProbe", "startupz"),
    ("readinessProbe", "readyz"),
    ("livenessProbe", "livez"),
];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststart"), ("preStop", "prestop")];

/// Rewrites the probes and hooks of `container`, which was `original` so far. `path` is where it is in the pod, `before` what an earlier injection of the
/// same pod put aside. Returns the originals.
///
/// # Errors
/// A [`Refusal`] that names the probe whose port can't be resolved or whose values are out of bounds.
pub fn rewrite<'a>(
    container: &mut Json<'a>,
    original: &'a Json<'a>,
    path: &dyn fmt::Display,
    before: &Originals,
) -> Result<Vec<AppProbe>, Refusal> {
    let name = original["name"].as_str().unwrap_or_default();
    let ports = &original["ports"];
    let mut originals = Vec::new();
    for (field, kind) in PROBES {
        if original[field].is_object() {
            let here = Place {
                ports,
                path,
                field: [field, ""],
                before,
            };
            let target = format!("{}{name}/{kind}", names::APP_HEALTH_PREFIX);
            originals.extend(here.handler(&original[field], || container.entry(field), target, true)?);
        }
    }
    for (field, kind) in HOOKS {
        let hook = &original["lifecycle"][field];
        if hook.is_object() {
            let here = Place {
                ports,
                path,
                field: ["lifecycle.", field],
                before,
            };
            let target = format!("{}{name}/{kind}", names::APP_LIFECYCLE_PREFIX);
            originals.extend(here.handler(
                hook,
                || container.entry("lifecycle").entry(field),
                target,
                false,
            )?);
        }
    }
    Ok(originals)
}

struct Place<'a> {
    ports: &'a Json<'a>,
    /// Of the container.
    path: &'a dyn fmt::Display,
    /// Within the container, in two parts.
    field: [&'static str; 2],
    before: &'a Originals,
}

impl Place<'_> {
    /// Rewrites one probe (`is_probe`) or hook at its place.
    fn handler<'p, 'v: 'p>(
        &self,
        handler: &'v Json<'v>,
        place: impl FnOnce() -> &'p mut Json<'v>,
        target: String,
        is_probe: bool,
    ) -> Result<Option<AppProbe>, Refusal> {
        let timeout_seconds = match &handler["timeoutSeconds"] {
            // A hook has no timeout of its own: the pod's grace period ends it.
            Json::Null if !is_probe => MAX_TIMEOUT_SECONDS,
            Json::Null => DEFAULT_TIMEOUT_SECONDS,
            value => value
                .as_u64()
                .and_then(|seconds| u32::try_from(seconds).ok())
                .filter(|seconds| (1..=MAX_TIMEOUT_SECONDS).contains(seconds))
                .ok_or_else(|| self.refuse(".timeoutSeconds", "must be 1 to 3600"))?,
        };
        let (field, kind) = if handler["httpGet"].is_object() {
            let get = &handler["httpGet"];
            if elsewhere(get) {
                return Ok(None);
            }
            let port = self.port(&get["port"], ".httpGet.port")?;
            if port == names::PORT_HEALTH && get["path"] == target.as_str() {
                return match self.before.get(&target) {
                    Some(original) => Ok(Some(original.clone())),
                    None => Err(self.refuse(
                        ".httpGet",
                        "goes to the sidecar, but what it stood for is unknown; apply the original manifest again",
                    )),
                };
            }
            ("httpGet", ProbeKind::Http(self.http(get, port)?))
        } else if is_probe && handler["tcpSocket"].is_object() {
            if elsewhere(&handler["tcpSocket"]) {
                return Ok(None);
            }
            (
                "tcpSocket",
                ProbeKind::Tcp(TcpProbe {
                    port: self.port(&handler["tcpSocket"]["port"], ".tcpSocket.port")?,
                }),
            )
        } else if is_probe && handler["grpc"].is_object() {
            let port = self.port(&handler["grpc"]["port"], ".grpc.port")?;
            let service = handler["grpc"]["service"].as_str().unwrap_or_default().to_owned();
            ("grpc", ProbeKind::Grpc(GrpcProbe { port, service }))
        } else {
            return Ok(None);
        };
        let original = AppProbe {
            path: target.clone(),
            kind,
            timeout_seconds,
        };
        if names::SIDECAR_PORTS.contains(&original.port()) {
            return Err(self.refuse(
                &format!(".{field}.port"),
                "is a port of the sidecar, not of the application",
            ));
        }
        let get = Json::object([
            ("path", target.into()),
            ("port", u64::from(names::PORT_HEALTH).into()),
            ("scheme", "HTTP".into()),
        ]);
        let mut fields = place().fields();
        fields.remove(field);
        fields.set("httpGet", get);
        Ok(Some(original))
    }

    fn http(&self, get: &Json<'_>, port: u16) -> Result<HttpProbe, Refusal> {
        let scheme = match get["scheme"].as_str() {
            None if get["scheme"].is_null() => Scheme::Http,
            Some("" | "HTTP") => Scheme::Http,
            Some("HTTPS") => Scheme::Https,
            _ => return Err(self.refuse(".httpGet.scheme", "must be HTTP or HTTPS")),
        };
        // As the kubelet: no path is /, and one without a leading slash gets it.
        let path = match get["path"].as_str().unwrap_or_default() {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        let headers = list(&get["httpHeaders"]);
        let headers = headers.iter().enumerate().map(|(index, header)| {
            match (header["name"].as_str(), header["value"].as_str()) {
                (Some(name), Some(value)) => Ok(Header {
                    name: name.to_owned(),
                    value: value.to_owned(),
                }),
                _ => Err(self.refuse(
                    &format!(".httpGet.httpHeaders[{index}]"),
                    "needs a name and a value",
                )),
            }
        });
        Ok(HttpProbe {
            port,
            scheme,
            path,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// A port by number, by a name that the container declares, or by a number in a string.
    fn port(&self, value: &Json<'_>, field: &str) -> Result<u16, Refusal> {
        let number = match value {
            Json::String(text) => list(self.ports)
                .iter()
                .find(|port| port["name"].as_str() == Some(&**text))
                .and_then(|port| port["containerPort"].as_u64())
                .or_else(|| text.parse().ok()),
            other => other.as_u64(),
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| {
                let given = value.to_string();
                self.refuse(
                    field,
                    &format!(
                        "{given} is neither a port number nor the name of a port that this container declares"
                    ),
                )
            })
    }

    fn refuse(&self, field: &str, reason: &str) -> Refusal {
        let [first, second] = self.field;
        let path = format!("{}.{first}{second}{field}", self.path);
        Refusal::new(RefusalKind::Probe, path, reason)
    }
}

/// Whether the kubelet is told to ask another host than the pod, which the sidecar is not in the way of.
fn elsewhere(handler: &Json<'_>) -> bool {
    handler["host"].as_str().is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// As `rewrite`, of values.
    fn ask(container: &mut Value, path: &str, before: &Originals) -> Result<Vec<AppProbe>, Refusal> {
        let old = container.clone();
        let original = Json::from(&old);
        let mut new = original.share();
        let result = rewrite(&mut new, &original, &path, before);
        *container = serde_json::to_value(&new).unwrap();
        result
    }

    fn container(extra: Value) -> Value {
        let mut container = json!({"name": "web", "ports": [{"name": "http", "containerPort": 8080}]});
        for (key, value) in extra.as_object().unwrap() {
            container[key] = value.clone();
        }
        container
    }

    #[test]
    fn every_kind_is_rewritten_and_kept() {
        let mut web = container(json!({
            "startupProbe": {"grpc": {"port": 9090, "service": "s"}, "failureThreshold": 30},
            "readinessProbe": {"httpGet": {"path": "ready", "port": "http", "scheme": "HTTPS",
                "httpHeaders": [{"name": "Host", "value": "web"}]}, "timeoutSeconds": 5, "periodSeconds": 2},
            "livenessProbe": {"tcpSocket": {"port": "8080"}},
            "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}, "postStart": {"exec": {"command": ["x"]}}},
        }));
        let originals = ask(&mut web, "spec.containers[0]", &Originals::new()).unwrap();
        let get = |path: &str| json!({"path": path, "port": 15021, "scheme": "HTTP"});
        assert_eq!(
            web["startupProbe"],
            json!({"httpGet": get("/app-health/web/startupz"), "failureThreshold": 30})
        );
        assert_eq!(
            web["readinessProbe"],
            json!({"httpGet": get("/app-health/web/readyz"), "timeoutSeconds": 5, "periodSeconds": 2})
        );
        assert_eq!(
            web["livenessProbe"],
            json!({"httpGet": get("/app-health/web/livez")})
        );
        assert_eq!(
            web["lifecycle"]["preStop"],
            json!({"httpGet": get("/app-lifecycle/web/prestop")})
        );
        assert_eq!(web["lifecycle"]["postStart"], json!({"exec": {"command": ["x"]}}));
        assert_eq!(originals.len(), 4);
        assert_eq!(
            originals[0].kind,
            ProbeKind::Grpc(GrpcProbe {
                port: 9090,
                service: "s".into()
            })
        );
        let ProbeKind::Http(http) = &originals[1].kind else {
            panic!()
        };
        assert_eq!(
            (http.port, http.scheme, http.path.as_str()),
            (8080, Scheme::Https, "/ready")
        );
        assert_eq!(originals[1].timeout_seconds, 5);
        assert_eq!(originals[2].kind, ProbeKind::Tcp(TcpProbe { port: 8080 }));

        // Once more, with what was put aside: nothing changes.
        let before = originals
            .iter()
            .map(|probe| (probe.path.clone(), probe.clone()))
            .collect();
        let mut again = web.clone();
        assert_eq!(ask(&mut again, "spec.containers[0]", &before), Ok(originals));
        assert_eq!(again, web);
    }

    #[test]
    fn some_stay_as_they_are() {
        for probe in [
            json!({"exec": {"command": ["true"]}}),
            json!({"httpGet": {"host": "127.0.0.1", "port": 8080}}),
            json!({"tcpSocket": {"host": "10.0.0.1", "port": 8080}}),
            json!({}),
        ] {
            let mut web = container(json!({"livenessProbe": probe}));
            let same = web.clone();
            assert_eq!(ask(&mut web, "c", &Originals::new()), Ok(vec![]));
            assert_eq!(web, same);
        }
    }

    #[test]
    fn what_cannot_be_rewritten_is_refused() {
        for (probe, field) in [
            (
                json!({"httpGet": {"port": "admin"}}),
                "c.livenessProbe.httpGet.port",
            ),
            (json!({"httpGet": {"port": 0}}), "c.livenessProbe.httpGet.port"),
            (
                json!({"httpGet": {"port": 65536}}),
                "c.livenessProbe.httpGet.port",
            ),
            (json!({"httpGet": {}}), "c.livenessProbe.httpGet.port"),
            (
                json!({"httpGet": {"port": 80, "scheme": "FTP"}}),
                "c.livenessProbe.httpGet.scheme",
            ),
            (
                json!({"httpGet": {"port": 80, "httpHeaders": [{}]}}),
                "c.livenessProbe.httpGet.httpHeaders[0]",
            ),
            (
                json!({"tcpSocket": {"port": 15001}}),
                "c.livenessProbe.tcpSocket.port",
            ),
            (
                json!({"httpGet": {"port": 15021, "path": "/app-health/web/livez"}}),
                "c.livenessProbe.httpGet",
            ),
            (
                json!({"httpGet": {"port": 80}, "timeoutSeconds": 0}),
                "c.livenessProbe.timeoutSeconds",
            ),
            (json!({"grpc": {"port": -1}}), "c.livenessProbe.grpc.port"),
        ] {
            let mut web = container(json!({"livenessProbe": probe}));
            let refusal = ask(&mut web, "c", &Originals::new()).unwrap_err();
            assert_eq!(
                (refusal.kind, refusal.field.as_str()),
                (RefusalKind::Probe, field)
            );
        }
    }
}
