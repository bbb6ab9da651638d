//! The application's own probes and ports, as the injector hands them to the sidecar.
//!
//! In: the JSON of `WEFT_APP_PROBES` and `WEFT_APP_PORTS`. Out: bounded, checked values. Never: a connection, or a
//! target other than a port of the pod itself.

use serde::{Deserialize, Serialize};

/// Longest JSON text that is written or read, in bytes: Linux starts no process with a longer environment variable
/// than 128 KiB.
pub const MAX_TEXT: usize = 120 * 1024;
/// Most probes, and most ports, of one pod.
pub const MAX_ENTRIES: usize = 512;
/// Most headers of one HTTP probe.
pub const MAX_HEADERS: usize = 64;
/// Timeout of a probe that names none, in seconds (Kubernetes' default).
pub const DEFAULT_TIMEOUT_SECONDS: u32 = 1;
/// Longest timeout of a probe, in seconds.
pub const MAX_TIMEOUT_SECONDS: u32 = 3_600;

/// One probe or HTTP hook of the application: asked for at `path` of the sidecar's health port, carried out against
/// the application as `kind` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppProbe {
    /// Path on the sidecar's health port, such as `/app-health/web/readyz`.
    pub path: String,
    /// What to do.
    pub kind: ProbeKind,
    /// How long it may take, in seconds, 1 to [`MAX_TIMEOUT_SECONDS`].
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

/// What a probe does, always against the pod itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    /// A GET; a status of 200 to 399 is success.
    Http(HttpProbe),
    /// A connection that opens is success.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check`; SERVING is success.
    Grpc(GrpcProbe),
}

/// An HTTP or HTTPS GET.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Port, already resolved from a name. Never 0.
    pub port: u16,
    /// HTTP or HTTPS; with HTTPS the certificate is not verified, as the kubelet does not.
    #[serde(default)]
    pub scheme: Scheme,
    /// Path and query, starting with `/`.
    pub path: String,
    /// Headers in order; `Host` may be among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
}

/// Scheme of an HTTP probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS, unverified.
    Https,
}

/// A header of an HTTP probe. Its bytes are checked where it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// Port, already resolved from a name. Never 0.
    pub port: u16,
}

/// A gRPC health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcProbe {
    /// Port. Never 0.
    pub port: u16,
    /// Service name to ask about; empty asks about the server as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// A container port that the pod declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppPort {
    /// Container that declares it.
    pub container: String,
    /// Port name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port number. Never 0.
    pub port: u16,
    /// TCP, UDP or SCTP.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport protocol of a container port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP, which is not intercepted except for DNS.
    Udp,
    /// SCTP, which is not intercepted.
    Sctp,
}

/// Why a list of probes or ports is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The text is longer than [`MAX_TEXT`].
    #[error("{0} bytes, at most {MAX_TEXT} are read")]
    TooLong(usize),
    /// There are more entries than [`MAX_ENTRIES`].
    #[error("{0} entries, at most {MAX_ENTRIES} are read")]
    TooMany(usize),
    /// Not the JSON that is expected.
    #[error("not a list of the expected objects: {0}")]
    Malformed(String),
    /// An entry has a value that is out of bounds.
    #[error("entry {index}, field {field}: {reason}")]
    Field {
        /// Position in the list, from 0.
        index: usize,
        /// Field, as in the JSON.
        field: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl AppProbe {
    /// Reads the JSON of `WEFT_APP_PROBES`.
    ///
    /// # Errors
    /// [`Invalid`] when the text is too long, is not such a list, or names port 0, a relative path or a timeout that
    /// is out of bounds.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Invalid> {
        let probes: Vec<Self> = parse(text)?;
        Self::check_list(&probes, text)?;
        Ok(probes)
    }

    /// Whether [`parse_list`](Self::parse_list) takes these probes, which were written as `text`.
    ///
    /// # Errors
    /// As [`parse_list`](Self::parse_list).
    pub fn check_list(probes: &[Self], text: &str) -> Result<(), Invalid> {
        bounded(probes, text)?;
        for (index, probe) in probes.iter().enumerate() {
            probe
                .check()
                .map_err(|(field, reason)| Invalid::Field { index, field, reason })?;
        }
        Ok(())
    }

    /// Port of the application that the probe goes to.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.kind {
            ProbeKind::Http(http) => http.port,
            ProbeKind::Tcp(tcp) => tcp.port,
            ProbeKind::Grpc(grpc) => grpc.port,
        }
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !self.path.starts_with('/') {
            return Err(("path", "must start with /"));
        }
        if self.port() == 0 {
            return Err(("port", "must be 1 to 65535"));
        }
        if !(1..=MAX_TIMEOUT_SECONDS).contains(&self.timeout_seconds) {
            return Err(("timeoutSeconds", "must be 1 to 3600"));
        }
        if let ProbeKind::Http(http) = &self.kind {
            if !http.path.starts_with('/') {
                return Err(("kind.http.path", "must start with /"));
            }
            if http.headers.len() > MAX_HEADERS {
                return Err(("kind.http.headers", "more than 64 headers"));
            }
        }
        Ok(())
    }
}

impl AppPort {
    /// Reads the JSON of `WEFT_APP_PORTS`.
    ///
    /// # Errors
    /// [`Invalid`] when the text is too long, is not such a list, or names port 0.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Invalid> {
        let ports: Vec<Self> = parse(text)?;
        Self::check_list(&ports, text)?;
        Ok(ports)
    }

    /// Whether [`parse_list`](Self::parse_list) takes these ports, which were written as `text`.
    ///
    /// # Errors
    /// As [`parse_list`](Self::parse_list).
    pub fn check_list(ports: &[Self], text: &str) -> Result<(), Invalid> {
        bounded(ports, text)?;
        match ports.iter().position(|port| port.port == 0) {
            Some(index) => Err(Invalid::Field {
                index,
                field: "port",
                reason: "must be 1 to 65535",
            }),
            None => Ok(()),
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<Vec<T>, Invalid> {
    bounded::<T>(&[], text)?;
    let list: Vec<T> = serde_json::from_str(text).map_err(|error| Invalid::Malformed(error.to_string()))?;
    bounded(&list, text)?;
    Ok(list)
}

fn bounded<T>(list: &[T], text: &str) -> Result<(), Invalid> {
    if text.len() > MAX_TEXT {
        return Err(Invalid::TooLong(text.len()));
    }
    if list.len() > MAX_ENTRIES {
        return Err(Invalid::TooMany(list.len()));
    }
    Ok(())
}

fn default_timeout() -> u32 {
    DEFAULT_TIMEOUT_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let probes = vec![
            AppProbe {
                path: "/app-health/web/readyz".into(),
                kind: ProbeKind::Http(HttpProbe {
                    port: 8080,
                    scheme: Scheme::Https,
                    path: "/ready?full=1".into(),
                    headers: vec![Header {
                        name: "Host".into(),
                        value: "web".into(),
                    }],
                }),
                timeout_seconds: 3,
            },
            AppProbe {
                path: "/app-health/db/livez".into(),
                kind: ProbeKind::Tcp(TcpProbe { port: 5432 }),
                timeout_seconds: 1,
            },
            AppProbe {
                path: "/app-health/api/startupz".into(),
                kind: ProbeKind::Grpc(GrpcProbe {
                    port: 9090,
                    service: "api".into(),
                }),
                timeout_seconds: 1,
            },
        ];
        let text = serde_json::to_string(&probes).unwrap();
        assert!(
            text.contains(r#""kind":{"http":{"port":8080,"scheme":"HTTPS","path":"/ready?full=1""#),
            "{text}"
        );
        assert!(
            text.contains(r#""kind":{"tcp":{"port":5432}},"timeoutSeconds":1"#),
            "{text}"
        );
        assert_eq!(AppProbe::parse_list(&text), Ok(probes));
    }

    #[test]
    fn out_of_bounds_is_refused() {
        for (text, wanted) in [
            (
                r#"[{"path":"x","kind":{"tcp":{"port":1}}}]"#,
                "entry 0, field path: must start with /",
            ),
            (
                r#"[{"path":"/x","kind":{"tcp":{"port":0}}}]"#,
                "entry 0, field port: must be 1 to 65535",
            ),
            (
                r#"[{"path":"/x","kind":{"tcp":{"port":1}},"timeoutSeconds":0}]"#,
                "entry 0, field timeoutSeconds: must be 1 to 3600",
            ),
            (
                r#"[{"path":"/x","kind":{"http":{"port":1,"path":"http://a/"}}}]"#,
                "entry 0, field kind.http.path: must start with /",
            ),
        ] {
            assert_eq!(AppProbe::parse_list(text).unwrap_err().to_string(), wanted);
        }
        for text in [
            "",
            "{}",
            "[1]",
            r#"[{"path":"/x","kind":{"exec":{}}}]"#,
            r#"[{"path":"/x","kind":{"tcp":{"port":70000}}}]"#,
        ] {
            assert!(
                matches!(AppProbe::parse_list(text), Err(Invalid::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(
            AppProbe::parse_list(&" ".repeat(MAX_TEXT + 1)),
            Err(Invalid::TooLong(_))
        ));
        let many = format!(
            "[{}]",
            vec![r#"{"container":"c","port":1}"#; MAX_ENTRIES + 1].join(",")
        );
        assert_eq!(AppPort::parse_list(&many), Err(Invalid::TooMany(MAX_ENTRIES + 1)));
        assert!(AppPort::parse_list(r#"[{"container":"c","port":0}]"#).is_err());
    }
}
