//! What an operator can set.
//!
//! In: environment variables. Out: plain structs with checked values. Never: a file that is read, or a default that
//! is written a second time elsewhere.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use weft_proto::model::annotations as names;

use crate::quantity;

/// Settings of the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where HTTPS is served (`WEFT_INJECTOR_LISTEN`, default `[::]:15017`).
    pub listen: SocketAddr,
    /// Where `/metrics`, `/readyz` and `/livez` are served without TLS (`WEFT_INJECTOR_METRICS_LISTEN`, default `[::]:15014`).
    pub metrics_listen: SocketAddr,
    /// Where the serving certificate comes from.
    pub certificate: Certificate,
    /// Name of the webhook configurations, mutating and validating, whose `caBundle` is kept right
    /// (`WEFT_WEBHOOK_CONFIGURATION`, default `weft-injector`).
    pub webhook_configuration: String,
    /// What is put into pods.
    pub template: Template,
}

/// Where the serving certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// Weft's own authority signs it, and the `caBundle` of the webhook configurations is kept right.
    Authority {
        /// The pod's service-account token of audience `weft` (`WEFT_TOKEN_FILE`, default
        /// `/var/run/secrets/weft/token/token`).
        token: PathBuf,
    },
    /// Somebody else makes it and cares for the `caBundle` (cert-manager, for example). The files are read again when they
    /// change.
    Files {
        /// PEM certificate chain (`WEFT_INJECTOR_CERTIFICATE_FILE`).
        certificate: PathBuf,
        /// PEM private key (`WEFT_INJECTOR_KEY_FILE`).
        key: PathBuf,
    },
}

/// What is put into pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Image of both containers (`WEFT_IMAGE`, default `weft.dev/weft:<version>`).
    pub image: String,
    /// Pull policy of that image (`WEFT_IMAGE_PULL_POLICY`); none leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Where sidecars find the control plane (`WEFT_CONTROL_PLANE`).
    pub control_plane: String,
    /// The mesh's trust domain (`WEFT_TRUST_DOMAIN`).
    pub trust_domain: String,
    /// Namespace of Weft's own pods, which are never injected (`WEFT_SYSTEM_NAMESPACE`).
    pub system_namespace: String,
    /// For places where uid 1337 does not exist (one-uid user namespaces): the sidecar runs as uid 0 of its namespace and its
    /// own traffic is told apart by this socket mark (`WEFT_SOCKET_MARK`, unset by default).
    pub socket_mark: Option<u32>,
    /// CPU request of the sidecar (`WEFT_PROXY_CPU`, default `50m`).
    pub proxy_cpu: String,
    /// Memory request of the sidecar (`WEFT_PROXY_MEMORY`, default `32Mi`).
    pub proxy_memory: String,
    /// Log level of sidecars whose pod does not ask for one (`WEFT_PROXY_LOG`, default `info`).
    pub proxy_log: String,
    /// Seconds that an application container without a preStop hook waits before SIGTERM, since SIGTERM races the
    /// removal of its endpoint (`WEFT_PRE_STOP_SLEEP_SECONDS`, default 2; 0 turns it off; needs Kubernetes 1.30).
    pub pre_stop_sleep_seconds: u32,
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name}={value:?}: {reason}")]
pub struct InvalidSetting {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong and what is expected.
    pub reason: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Self {
            listen: SocketAddr::new(any, names::PORT_INJECTOR),
            metrics_listen: SocketAddr::new(any, names::PORT_CONTROL_PLANE_METRICS),
            certificate: Certificate::Authority {
                token: PathBuf::from(names::TOKEN_FILE),
            },
            webhook_configuration: names::INJECTOR.to_owned(),
            template: Template::default(),
        }
    }
}

impl Default for Template {
    fn default() -> Self {
        Self {
            image: format!("weft.dev/weft:{}", env!("CARGO_PKG_VERSION")),
            image_pull_policy: None,
            control_plane: names::CONTROL_PLANE_ADDRESS.to_owned(),
            trust_domain: names::TRUST_DOMAIN.to_owned(),
            system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
            socket_mark: None,
            proxy_cpu: "50m".to_owned(),
            proxy_memory: "32Mi".to_owned(),
            proxy_log: "info".to_owned(),
            pre_stop_sleep_seconds: 2,
        }
    }
}

impl Settings {
    /// The defaults, with what the environment overrides.
    ///
    /// # Errors
    /// [`InvalidSetting`] names the variable, its value and what is expected.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// The defaults, with what `lookup` overrides. An empty value counts as unset.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSetting> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let mut settings = Self::default();
        let template = &mut settings.template;
        if let Some(value) = get("WEFT_INJECTOR_LISTEN") {
            settings.listen = parse(
                "WEFT_INJECTOR_LISTEN",
                value,
                "expected address:port, such as [::]:15017",
            )?;
        }
        if let Some(value) = get("WEFT_INJECTOR_METRICS_LISTEN") {
            settings.metrics_listen = parse(
                "WEFT_INJECTOR_METRICS_LISTEN",
                value,
                "expected address:port, such as [::]:15014",
            )?;
        }
        const FILES: [&str; 2] = ["WEFT_INJECTOR_CERTIFICATE_FILE", "WEFT_INJECTOR_KEY_FILE"];
        match FILES.map(get) {
            [None, None] => {
                if let Some(value) = get("WEFT_TOKEN_FILE") {
                    settings.certificate = Certificate::Authority { token: value.into() };
                }
            }
            [Some(certificate), Some(key)] => {
                settings.certificate = Certificate::Files {
                    certificate: certificate.into(),
                    key: key.into(),
                };
            }
            [certificate, _] => {
                let missing = FILES[usize::from(certificate.is_some())];
                return Err(invalid(
                    missing,
                    String::new(),
                    "certificate and key go together: set both, or neither to have Weft's authority sign one",
                ));
            }
        }
        if let Some(value) = get("WEFT_WEBHOOK_CONFIGURATION") {
            settings.webhook_configuration = value;
        }
        if let Some(namespace) = get("WEFT_SYSTEM_NAMESPACE").or_else(|| get(names::env::POD_NAMESPACE)) {
            template.control_plane = format!(
                "{}.{namespace}.svc:{}",
                names::CONTROL_PLANE,
                names::PORT_CONTROL_PLANE
            );
            template.system_namespace = namespace;
        }
        for (name, place) in [
            ("WEFT_IMAGE", &mut template.image),
            ("WEFT_CONTROL_PLANE", &mut template.control_plane),
            ("WEFT_TRUST_DOMAIN", &mut template.trust_domain),
        ] {
            if let Some(value) = get(name) {
                *place = value;
            }
        }
        if let Some(value) = get("WEFT_IMAGE_PULL_POLICY") {
            if !matches!(value.as_str(), "Always" | "IfNotPresent" | "Never") {
                return Err(invalid(
                    "WEFT_IMAGE_PULL_POLICY",
                    value,
                    "expected Always, IfNotPresent or Never",
                ));
            }
            template.image_pull_policy = Some(value);
        }
        if let Some(value) = get("WEFT_SOCKET_MARK") {
            let mark: u32 = parse(
                "WEFT_SOCKET_MARK",
                value,
                "expected a number from 1 to 4294967295",
            )?;
            if mark == 0 {
                return Err(invalid(
                    "WEFT_SOCKET_MARK",
                    "0".into(),
                    "0 is the mark of all traffic; leave it unset",
                ));
            }
            template.socket_mark = Some(mark);
        }
        for (name, place) in [
            ("WEFT_PROXY_CPU", &mut template.proxy_cpu),
            ("WEFT_PROXY_MEMORY", &mut template.proxy_memory),
        ] {
            if let Some(value) = get(name) {
                if quantity::parse(&value).is_none() {
                    return Err(invalid(
                        name,
                        value,
                        "expected a Kubernetes quantity, such as 50m or 32Mi",
                    ));
                }
                *place = value;
            }
        }
        if let Some(value) = get("WEFT_PROXY_LOG") {
            if !crate::overrides::LOG_LEVELS.contains(&value.as_str()) {
                return Err(invalid(
                    "WEFT_PROXY_LOG",
                    value,
                    "expected off, error, warn, info, debug or trace",
                ));
            }
            template.proxy_log = value;
        }
        if let Some(value) = get("WEFT_PRE_STOP_SLEEP_SECONDS") {
            template.pre_stop_sleep_seconds = parse(
                "WEFT_PRE_STOP_SLEEP_SECONDS",
                value,
                "expected a whole number of seconds",
            )?;
        }
        Ok(settings)
    }
}

fn parse<T: std::str::FromStr>(
    name: &'static str,
    value: String,
    reason: &'static str,
) -> Result<T, InvalidSetting> {
    value.parse().map_err(|_| InvalidSetting { name, value, reason })
}

fn invalid(name: &'static str, value: String, reason: &'static str) -> InvalidSetting {
    InvalidSetting { name, value, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_gives_the_defaults() {
        assert_eq!(Settings::from_lookup(|_| None), Ok(Settings::default()));
        assert_eq!(
            Settings::from_lookup(|_| Some(String::new())),
            Ok(Settings::default())
        );
    }

    #[test]
    fn each_variable_is_read_or_refused() {
        let only = |name: &'static str, value: &'static str| {
            Settings::from_lookup(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(
            only("WEFT_INJECTOR_LISTEN", "127.0.0.1:1").unwrap().listen.port(),
            1
        );
        assert_eq!(
            only("WEFT_SOCKET_MARK", "1337").unwrap().template.socket_mark,
            Some(1337)
        );
        assert_eq!(
            only("WEFT_PRE_STOP_SLEEP_SECONDS", "0")
                .unwrap()
                .template
                .pre_stop_sleep_seconds,
            0
        );
        let elsewhere = only("POD_NAMESPACE", "mesh").unwrap().template;
        assert_eq!(elsewhere.system_namespace, "mesh");
        assert_eq!(elsewhere.control_plane, "weft-control-plane.mesh.svc:15012");
        let both = Settings::from_lookup(|asked| match asked {
            "WEFT_INJECTOR_CERTIFICATE_FILE" => Some("/c".into()),
            "WEFT_INJECTOR_KEY_FILE" => Some("/k".into()),
            _ => None,
        });
        let files = Certificate::Files {
            certificate: "/c".into(),
            key: "/k".into(),
        };
        assert_eq!(both.unwrap().certificate, files);
        for (one, missing) in [
            ("WEFT_INJECTOR_CERTIFICATE_FILE", "WEFT_INJECTOR_KEY_FILE"),
            ("WEFT_INJECTOR_KEY_FILE", "WEFT_INJECTOR_CERTIFICATE_FILE"),
        ] {
            assert_eq!(only(one, "/x").unwrap_err().name, missing);
        }
        for (name, value) in [
            ("WEFT_INJECTOR_LISTEN", "15017"),
            ("WEFT_INJECTOR_METRICS_LISTEN", "x"),
            ("WEFT_SOCKET_MARK", "0"),
            ("WEFT_SOCKET_MARK", "-1"),
            ("WEFT_PROXY_CPU", "much"),
            ("WEFT_PROXY_LOG", "loud"),
            ("WEFT_IMAGE_PULL_POLICY", "Sometimes"),
            ("WEFT_PRE_STOP_SLEEP_SECONDS", "soon"),
        ] {
            let error = only(name, value).unwrap_err();
            assert_eq!((error.name, error.value.as_str()), (name, value));
        }
    }
}
