//! What the sidecar is told by its environment.
//!
//! Enters: environment variables, by a lookup function so that tests need no process environment. Leaves: [`Settings`],
//! every value checked and bounded. Never: a guess in place of a value that is wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_engine::crowd;
use weft_proto::model::annotations::{self as names, env};
use weft_proto::model::probes::{self, AppPort, AppProbe};
use weft_proto::model::{SpiffeId, TrustDomain};

/// Most worker threads that may be asked for.
pub const MAX_WORKERS: usize = 64;

/// Everything that the sidecar is told before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this process is.
    pub role: Role,
    /// The pod.
    pub pod: Pod,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Where the control plane listens (configuration and certificates).
    pub control_plane: ControlPlane,
    /// Mark of the sidecar's own sockets; `None`: told apart by uid alone.
    pub socket_mark: Option<u32>,
    /// Data-plane threads, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// How many requests may wait for the application; `None`: any number.
    pub inbound_concurrency: Option<crowd::Bound>,
    /// Service-account token with audience `weft`; read anew for every use.
    pub token_file: PathBuf,
    /// PEM roots with which the control plane is verified before there is a trust bundle; read anew for every use.
    pub ca_file: PathBuf,
    /// Where the last good snapshot is kept.
    pub state_dir: PathBuf,
    /// Where the sidecar listens.
    pub ports: Ports,
    /// The log.
    pub log: Log,
    /// From SIGTERM to the end.
    pub drain: DrainTimes,
    /// What wasn't used for so long is given up; [`Duration::MAX`]: nothing is.
    pub forget_after: Duration,
    /// The application's own probes, answered on the health port.
    pub probes: Arc<[AppProbe]>,
    /// Ports that the application declares.
    pub app_ports: Arc<[AppPort]>,
}

/// What a process of the data plane is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Beside an application, whose connections it intercepts.
    #[default]
    Sidecar,
    /// Between clients outside the mesh and its Services.
    Gateway,
}

/// The pod that the sidecar serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Uid; may be empty.
    pub uid: Arc<str>,
    /// Node name; may be empty.
    pub node: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// Owner, as in `source_workload`; the pod's name when it has none.
    pub workload: Arc<str>,
    /// Canonical name; may be empty.
    pub app: Arc<str>,
    /// Canonical version; may be empty.
    pub version: Arc<str>,
}

/// Address of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// DNS name or address.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// Ports of the sidecar inside the pod. The defaults are Istio's; tests may move them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Admin, loopback only.
    pub admin: u16,
    /// Intercepted outbound connections.
    pub outbound: u16,
    /// Intercepted inbound connections.
    pub inbound: u16,
    /// DNS.
    pub dns: u16,
    /// Metrics.
    pub metrics: u16,
    /// Health and rewritten probes.
    pub health: u16,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: Arc<str>,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// A line for every request and connection.
    pub access: bool,
}

/// How long the sidecar lives on after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// At least this long while there are connections.
    pub minimum: Duration,
    /// At most this long.
    pub maximum: Duration,
}

/// Why the sidecar can't start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A variable that must be set is not.
    #[error(
        "environment variable {0} is not set; the injector sets it in injected pods, and the chart in a gateway's: start it that way"
    )]
    Missing(&'static str),
    /// A variable has a value that can't be used.
    #[error("environment variable {name}: {reason}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What is wrong and what is expected.
        reason: String,
    },
}

/// Variables that only this crate reads.
mod own {
    pub const ADDRESS: &str = "INSTANCE_IP";
    pub const TOKEN_FILE: &str = "WEFT_TOKEN_FILE";
    pub const CA_FILE: &str = "WEFT_CA_FILE";
    pub const STATE_DIR: &str = "WEFT_STATE_DIR";
    pub const LOG_FORMAT: &str = "WEFT_LOG_FORMAT";
    pub const ACCESS_LOG: &str = "WEFT_ACCESS_LOG";
    pub const DRAIN_MINIMUM: &str = "WEFT_DRAIN_MINIMUM_SECONDS";
    pub const DRAIN_MAXIMUM: &str = "WEFT_DRAIN_MAXIMUM_SECONDS";
    /// 0: never.
    pub const FORGET_AFTER: &str = "WEFT_FORGET_AFTER_SECONDS";
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            admin: names::PORT_ADMIN,
            outbound: names::PORT_OUTBOUND,
            inbound: names::PORT_INBOUND,
            dns: names::PORT_DNS,
            metrics: names::PORT_METRICS,
            health: names::PORT_HEALTH,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            json: false,
            access: false,
        }
    }
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self {
            minimum: Duration::from_secs(5),
            maximum: Duration::from_secs(25),
        }
    }
}

impl Settings {
    /// Reads the process environment.
    ///
    /// # Errors
    /// The first variable that is missing or can't be used, and why.
    pub fn from_env() -> Result<Self, Invalid> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads variables by `lookup`.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        let vars = Vars(&lookup);
        let trust_domain = TrustDomain::new(&vars.or(env::TRUST_DOMAIN, names::TRUST_DOMAIN))
            .map_err(|error| vars.wrong(env::TRUST_DOMAIN, error))?;
        let pod = Pod::read(&vars)?;
        SpiffeId::new(trust_domain.clone(), &pod.namespace, &pod.service_account).map_err(|error| {
            vars.wrong(
                env::POD_NAMESPACE,
                format!("with {}: {error}", env::SERVICE_ACCOUNT),
            )
        })?;
        let control_plane = ControlPlane::parse(&vars.or(env::CONTROL_PLANE, names::CONTROL_PLANE_ADDRESS))
            .map_err(|reason| vars.wrong(env::CONTROL_PLANE, reason))?;
        let socket_mark = match vars.get(env::SOCKET_MARK) {
            Some(text) => Some(vars.number(env::SOCKET_MARK, &text, 1, u32::MAX.into())? as u32),
            None => None,
        };
        let workers = match vars.get(env::WORKERS) {
            Some(text) => vars.number(env::WORKERS, &text, 1, MAX_WORKERS as u64)? as usize,
            None => default_workers(),
        };
        let inbound_concurrency = match vars.get(env::INBOUND_CONCURRENCY) {
            Some(text) => Some(
                text.parse::<crowd::Bound>()
                    .map_err(|reason| vars.wrong(env::INBOUND_CONCURRENCY, reason))?,
            ),
            None => None,
        };
        let minimum = vars.seconds(own::DRAIN_MINIMUM, 5)?;
        let maximum = vars.seconds(own::DRAIN_MAXIMUM, 25)?;
        let forget_after = match vars.seconds(own::FORGET_AFTER, 1_800)? {
            Duration::ZERO => Duration::MAX,
            seconds => seconds,
        };
        let list_error = |name: &'static str| {
            move |error: probes::Invalid| Invalid::Value {
                name,
                reason: error.to_string(),
            }
        };
        Ok(Self {
            role: Role::Sidecar,
            pod,
            trust_domain,
            control_plane,
            socket_mark,
            workers,
            inbound_concurrency,
            token_file: vars.or(own::TOKEN_FILE, names::TOKEN_FILE).into(),
            ca_file: vars.or(own::CA_FILE, names::CA_FILE).into(),
            state_dir: vars.or(own::STATE_DIR, names::STATE_DIR).into(),
            ports: Ports::default(),
            log: Log::read(&vars)?,
            drain: DrainTimes {
                minimum: minimum.min(maximum),
                maximum,
            },
            forget_after,
            probes: match vars.get(env::APP_PROBES) {
                Some(text) => AppProbe::parse_list(&text)
                    .map_err(list_error(env::APP_PROBES))?
                    .into(),
                None => Arc::new([]),
            },
            app_ports: match vars.get(env::APP_PORTS) {
                Some(text) => AppPort::parse_list(&text)
                    .map_err(list_error(env::APP_PORTS))?
                    .into(),
                None => Arc::new([]),
            },
        })
    }

    /// The identity that the certificate should carry.
    pub fn identity(&self) -> Option<SpiffeId> {
        SpiffeId::new(
            self.trust_domain.clone(),
            &self.pod.namespace,
            &self.pod.service_account,
        )
        .ok()
    }

    /// The identity that the control plane must prove.
    pub fn control_plane_identity(&self) -> Option<SpiffeId> {
        SpiffeId::new(
            self.trust_domain.clone(),
            names::SYSTEM_NAMESPACE,
            names::CONTROL_PLANE,
        )
        .ok()
    }
}

impl Pod {
    fn read(vars: &Vars<'_>) -> Result<Self, Invalid> {
        let name = vars.must(env::POD_NAME)?;
        let mut addresses = Vec::new();
        let (variable, text) = match vars.get(env::INSTANCE_IPS) {
            Some(text) => (env::INSTANCE_IPS, text),
            None => (own::ADDRESS, vars.get(own::ADDRESS).unwrap_or_default()),
        };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let address = part
                .parse()
                .map_err(|_| vars.wrong(variable, format!("{part:?} is no IP address")))?;
            addresses.push(address);
            if addresses.len() > 16 {
                return Err(vars.wrong(variable, "more than 16 addresses"));
            }
        }
        if addresses.is_empty() {
            return Err(Invalid::Missing(env::INSTANCE_IPS));
        }
        Ok(Self {
            workload: vars.or(env::WORKLOAD, &name).into(),
            name: name.into(),
            namespace: vars.must(env::POD_NAMESPACE)?.into(),
            uid: vars.or(env::POD_UID, "").into(),
            node: vars.or(env::NODE_NAME, "").into(),
            service_account: vars.or(env::SERVICE_ACCOUNT, "default").into(),
            addresses,
            app: vars.or(env::APP, "").into(),
            version: vars.or(env::VERSION, "").into(),
        })
    }

    /// Whether `address` is one of the pod's, or loopback.
    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Loopback of the family of the pod's first address.
    pub fn loopback(&self) -> IpAddr {
        match self.addresses.first() {
            Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl ControlPlane {
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is not host:port, for example {}",
                names::CONTROL_PLANE_ADDRESS
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let named = host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if host.is_empty() || host.len() > 253 || !(named || host.parse::<IpAddr>().is_ok()) {
            return Err(refuse());
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self {
                host: host.into(),
                port,
            }),
            _ => Err(refuse()),
        }
    }
}

impl Log {
    fn read(vars: &Vars<'_>) -> Result<Self, Invalid> {
        let level = vars.or(env::LOG, "info").to_ascii_lowercase();
        if !["off", "error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
            return Err(vars.wrong(
                env::LOG,
                format!("{level:?} is none of off, error, warn, info, debug, trace"),
            ));
        }
        let json = match vars.or(own::LOG_FORMAT, "text").as_str() {
            "json" => true,
            "text" => false,
            other => return Err(vars.wrong(own::LOG_FORMAT, format!("{other:?} is neither text nor json"))),
        };
        let access = match vars.or(own::ACCESS_LOG, "false").as_str() {
            "true" => true,
            "false" => false,
            other => return Err(vars.wrong(own::ACCESS_LOG, format!("{other:?} is neither true nor false"))),
        };
        Ok(Self {
            level: level.into(),
            json,
            access,
        })
    }
}

/// One thread for each core, at most two: a sidecar shares its node with the application.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.trim().is_empty())
    }

    fn or(&self, name: &str, otherwise: &str) -> String {
        self.get(name).unwrap_or_else(|| otherwise.to_owned())
    }

    fn must(&self, name: &'static str) -> Result<String, Invalid> {
        self.get(name).ok_or(Invalid::Missing(name))
    }

    fn wrong(&self, name: &'static str, reason: impl ToString) -> Invalid {
        Invalid::Value {
            name,
            reason: reason.to_string(),
        }
    }

    fn number(&self, name: &'static str, text: &str, least: u64, most: u64) -> Result<u64, Invalid> {
        match text.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.wrong(name, format!("{text:?} is not a number from {least} to {most}"))),
        }
    }

    fn seconds(&self, name: &'static str, otherwise: u64) -> Result<Duration, Invalid> {
        match self.get(name) {
            Some(text) => self.number(name, &text, 0, 3_600).map(Duration::from_secs),
            None => Ok(Duration::from_secs(otherwise)),
        }
    }
}

#[cfg(test)]
mod tests;
