//! What an operator may set. Enters: the environment. Leaves: checked settings. Never: a default that depends on the machine.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `WEFT_TRUST_DOMAIN` | `cluster.local` | trust domain of every identity |
//! | `POD_NAMESPACE` | `weft-system` | namespace of the control plane: its Secret, its mesh-wide policies |
//! | `POD_NAME` | a random name | name of this replica in elections; must be its own |
//! | `WEFT_LISTEN` | `[::]:15012` | xDS and CA, TLS |
//! | `WEFT_HTTP_LISTEN` | `[::]:15014` | metrics and health, plain HTTP |
//! | `WEFT_DEBUG_LISTEN` | `127.0.0.1:15010` | debug pages and the root roll; loopback only |
//! | `WEFT_CERTIFICATE_TTL` | `24h` | lifetime of workload certificates, `10s` to `90d` |
//! | `WEFT_DRAIN` | `5s` | how long a stopping control plane takes to part from its sidecars, `0s` to `60s` |
//! | `WEFT_STREAM_AGE` | `30m` | about how old a stream of configuration gets before its sidecar is asked to reconnect, so that replicas even out, `10s` to `7d`; `0s`: for ever |

use std::net::SocketAddr;
use std::time::Duration;
use weft_proto::model::TrustDomain;
use weft_proto::model::annotations::{
    PORT_CONTROL_PLANE, PORT_CONTROL_PLANE_METRICS, SYSTEM_NAMESPACE, TRUST_DOMAIN, env,
};

/// Port of the debug pages, on loopback only.
pub const PORT_DEBUG: u16 = 15010;
/// Shortest lifetime of a workload certificate.
pub const MIN_CERTIFICATE_TTL: Duration = Duration::from_secs(10);
/// Longest lifetime of a workload certificate.
pub const MAX_CERTIFICATE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// Longest time that a stopping control plane takes.
pub const MAX_DRAIN: Duration = Duration::from_secs(60);
/// Shortest age of a stream.
pub const MIN_STREAM_AGE: Duration = Duration::from_secs(10);
/// Longest age of a stream.
pub const MAX_STREAM_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Checked settings of a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The control plane's own namespace.
    pub namespace: String,
    /// Name of this replica in elections; empty: a random one.
    pub replica: String,
    /// xDS and CA.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub http_listen: SocketAddr,
    /// Debug pages; a loopback address.
    pub debug_listen: SocketAddr,
    /// Lifetime of workload certificates, within [`MIN_CERTIFICATE_TTL`] and [`MAX_CERTIFICATE_TTL`].
    pub certificate_ttl: Duration,
    /// How long a stopping control plane takes to part from its sidecars, at most [`MAX_DRAIN`].
    pub drain: Duration,
    /// About how old a stream of configuration gets, within [`MIN_STREAM_AGE`] and [`MAX_STREAM_AGE`]; `None`: it may get as old
    /// as its certificate.
    pub stream_age: Option<Duration>,
}

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {reason}")]
pub struct InvalidSetting {
    /// The environment variable.
    pub variable: &'static str,
    /// What it holds.
    pub value: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Default for Settings {
    fn default() -> Self {
        let any = std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
        Self {
            #[allow(clippy::expect_used)] // a constant that a test reads
            trust_domain: TrustDomain::new(TRUST_DOMAIN).expect("the default trust domain is valid"),
            namespace: SYSTEM_NAMESPACE.to_owned(),
            replica: String::new(),
            listen: SocketAddr::new(any, PORT_CONTROL_PLANE),
            http_listen: SocketAddr::new(any, PORT_CONTROL_PLANE_METRICS),
            debug_listen: SocketAddr::from(([127, 0, 0, 1], PORT_DEBUG)),
            certificate_ttl: Duration::from_secs(24 * 3600),
            drain: Duration::from_secs(5),
            stream_age: Some(Duration::from_secs(30 * 60)),
        }
    }
}

impl Settings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names the first variable whose value can't be used.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads variables from a function; empty ones count as unset.
    ///
    /// # Errors
    /// Names the first variable whose value can't be used.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSetting> {
        let mut settings = Self::default();
        let get = |name: &'static str| get(name).filter(|value| !value.is_empty());
        if let Some(value) = get(env::TRUST_DOMAIN) {
            settings.trust_domain =
                TrustDomain::new(&value).map_err(|error| invalid(env::TRUST_DOMAIN, &value, error))?;
        }
        if let Some(value) = get(env::POD_NAMESPACE) {
            settings.namespace = value;
        }
        if let Some(value) = get(env::POD_NAME) {
            settings.replica = value;
        }
        for (name, target) in [
            ("WEFT_LISTEN", &mut settings.listen),
            ("WEFT_HTTP_LISTEN", &mut settings.http_listen),
            ("WEFT_DEBUG_LISTEN", &mut settings.debug_listen),
        ] {
            if let Some(value) = get(name) {
                *target = value
                    .parse()
                    .map_err(|_| invalid(name, &value, "not an address and a port such as 0.0.0.0:15012"))?;
            }
        }
        if !settings.debug_listen.ip().is_loopback() {
            let value = settings.debug_listen.to_string();
            return Err(invalid(
                "WEFT_DEBUG_LISTEN",
                &value,
                "debug pages are served on loopback only; use 127.0.0.1 or [::1]",
            ));
        }
        if let Some(value) = get("WEFT_CERTIFICATE_TTL") {
            settings.certificate_ttl = duration(
                "WEFT_CERTIFICATE_TTL",
                &value,
                MIN_CERTIFICATE_TTL,
                MAX_CERTIFICATE_TTL,
            )?;
        }
        if let Some(value) = get("WEFT_DRAIN") {
            settings.drain = duration("WEFT_DRAIN", &value, Duration::ZERO, MAX_DRAIN)?;
        }
        if let Some(value) = get("WEFT_STREAM_AGE") {
            settings.stream_age = match value.as_str() {
                "0s" => None,
                _ => Some(duration(
                    "WEFT_STREAM_AGE",
                    &value,
                    MIN_STREAM_AGE,
                    MAX_STREAM_AGE,
                )?),
            };
        }
        Ok(settings)
    }
}

fn invalid(variable: &'static str, value: &str, reason: impl ToString) -> InvalidSetting {
    InvalidSetting {
        variable,
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}

/// A whole number with `s`, `m`, `h` or `d`, within bounds.
fn duration(
    variable: &'static str,
    value: &str,
    min: Duration,
    max: Duration,
) -> Result<Duration, InvalidSetting> {
    let unit = match value.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 24 * 3600,
        _ => {
            return Err(invalid(
                variable,
                value,
                "a number with s, m, h or d is needed, such as 24h",
            ));
        }
    };
    let number: u64 = value[..value.len() - 1].parse().map_err(|_| {
        invalid(
            variable,
            value,
            "a number with s, m, h or d is needed, such as 24h",
        )
    })?;
    let duration = Duration::from_secs(number.saturating_mul(unit));
    if duration < min || duration > max {
        let reason = format!("must be between {}s and {}s", min.as_secs(), max.as_secs());
        return Err(invalid(variable, value, reason));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Settings, InvalidSetting> {
        Settings::read(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(Settings::read(|_| None).unwrap(), Settings::default());
        assert_eq!(with("WEFT_DRAIN", "").unwrap(), Settings::default());
    }

    #[test]
    fn values_are_read() {
        assert_eq!(
            with("WEFT_TRUST_DOMAIN", "example.org")
                .unwrap()
                .trust_domain
                .as_str(),
            "example.org"
        );
        assert_eq!(
            with("WEFT_LISTEN", "127.0.0.1:1").unwrap().listen,
            "127.0.0.1:1".parse().unwrap()
        );
        assert_eq!(with("WEFT_STREAM_AGE", "0s").unwrap().stream_age, None);
        for (text, seconds) in [("10s", 10), ("2m", 120), ("24h", 86_400), ("90d", 7_776_000)] {
            assert_eq!(
                with("WEFT_CERTIFICATE_TTL", text)
                    .unwrap()
                    .certificate_ttl
                    .as_secs(),
                seconds
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("WEFT_TRUST_DOMAIN", "Upper"),
            ("WEFT_LISTEN", "15012"),
            ("WEFT_DEBUG_LISTEN", "0.0.0.0:15010"),
            ("WEFT_CERTIFICATE_TTL", "9s"),
            ("WEFT_CERTIFICATE_TTL", "91d"),
            ("WEFT_CERTIFICATE_TTL", "24"),
            ("WEFT_CERTIFICATE_TTL", "h"),
            ("WEFT_CERTIFICATE_TTL", "-1h"),
            ("WEFT_CERTIFICATE_TTL", "1é"),
            ("WEFT_DRAIN", "61s"),
            ("WEFT_STREAM_AGE", "9s"),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!((error.variable, error.value.as_str()), (name, value));
        }
    }
}
