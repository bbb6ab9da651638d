//! What a gateway serves to clients outside the mesh.

use super::{ConnectionRule, Origin, RouteRule};
use std::fmt;
use std::sync::Arc;

/// What the asking pod serves; a pod that is no gateway has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// At most 1,000. Several may share a port, each with another host name.
    pub listeners: Vec<Listener>,
}

/// One listener of a Gateway, or what Ingresses ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The object; its rule is `listeners[name]`.
    pub origin: Origin,
    /// The listener's name.
    pub name: Arc<str>,
    /// The port that clients know.
    pub port: u16,
    /// The port that the process listens on. Listeners of one `port` have one `bind`.
    pub bind: u16,
    /// What is spoken. Listeners of one `bind` are all HTTP, or all HTTPS and TLS, or one TCP.
    pub protocol: ListenerProtocol,
    /// Which hosts this is for.
    pub host: HostPattern,
    /// What the gateway proves itself with: the first that covers the server name, else the first. HTTPS has at least one; TLS without any is
    /// passed on as it is.
    pub certificates: Vec<ServerCertificate>,
    /// For HTTP and HTTPS, by host; the most exact pattern first, each once.
    pub hosts: Vec<VirtualHost>,
    /// For TLS and TCP, in order of precedence.
    pub connections: Vec<ConnectionRule>,
}

/// What a listener speaks (Gateway API, ProtocolType).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum ListenerProtocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP")]
    Http,
    /// TLS that ends here, HTTP/1.1 or HTTP/2 in it.
    #[serde(rename = "HTTPS")]
    Https,
    /// TLS, with anything in it.
    #[serde(rename = "TLS")]
    Tls,
    /// Bytes.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Rules for requests to hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualHost {
    /// Which hosts.
    pub host: HostPattern,
    /// In order of precedence; if none matches, those of the next pattern that covers the host decide.
    pub rules: Vec<RouteRule>,
}

/// Which hosts something is for, in lower case and without a port (Gateway API, Hostname; Ingress, IngressRule).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(Arc<str>),
    /// Every host that ends with this; it begins with a dot, and at least one label stands before it.
    Suffix(Arc<str>),
    /// Every host of one label and this; it begins with a dot.
    Label(Arc<str>),
    /// Every host, and requests without one.
    #[default]
    Any,
}

/// A certificate for clients outside the mesh, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The Secret.
    pub origin: Origin,
    /// DER, the leaf first; at least one, at most 16.
    pub chain: Vec<Arc<[u8]>>,
    /// DER: PKCS #8, PKCS #1 or SEC 1.
    pub key: Arc<[u8]>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        write!(
            f,
            "ServerCertificate({}, {} in chain)",
            self.origin,
            self.chain.len()
        )
    }
}

impl HostPattern {
    /// From text: `*.suffix`, an exact host, or nothing (or `*`) for any. `None`: it is no such pattern.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "*" => Some(Self::Any),
            text => {
                let name = crate::syntax::server_name(text)?;
                Some(match name.strip_prefix('*') {
                    Some(suffix) => Self::Suffix(suffix.into()),
                    None => Self::Exact(name),
                })
            }
        }
    }

    /// The same as an Ingress means it: `*` stands for one label.
    #[must_use]
    pub fn of_one_label(self) -> Self {
        match self {
            Self::Suffix(suffix) => Self::Label(suffix),
            other => other,
        }
    }

    /// Whether a host, in lower case and without a port, is covered.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Label(suffix) => {
                let label = host.strip_suffix(&**suffix);
                label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
            Self::Any => true,
        }
    }

    /// How exact it is; of two that cover the same host, the greater one goes first.
    pub fn rank(&self) -> (u8, usize, bool) {
        match self {
            Self::Exact(exact) => (2, exact.len(), true),
            Self::Label(suffix) => (1, suffix.len(), true),
            Self::Suffix(suffix) => (1, suffix.len(), false),
            Self::Any => (0, 0, false),
        }
    }

    /// The hosts that both cover; `None`: there are none.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, same) | (same, Self::Any) => Some(same.clone()),
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => {
                pattern.covers(host).then(|| Self::Exact(host.clone()))
            }
            (Self::Suffix(a), Self::Suffix(b)) => {
                let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
                long.ends_with(&**short).then(|| Self::Suffix(long.clone()))
            }
            (Self::Label(label), Self::Suffix(suffix)) | (Self::Suffix(suffix), Self::Label(label)) => {
                label.ends_with(&**suffix).then(|| Self::Label(label.clone()))
            }
            (Self::Label(a), Self::Label(b)) => (a == b).then(|| self.clone()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) | Self::Label(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HostPattern;

    #[test]
    fn patterns_cover_and_meet_as_the_gateway_api_says() {
        let parse = |text: &str| HostPattern::parse(text).unwrap();
        // (a pattern, hosts it covers, hosts it doesn't)
        for (pattern, yes, no) in [
            (
                "shop.test",
                &["shop.test"][..],
                &["www.shop.test", "test", ""][..],
            ),
            (
                "*.shop.test",
                &["www.shop.test", "a.b.shop.test"],
                &["shop.test", "xshop.test", ".shop.test"],
            ),
            ("*", &["shop.test", ""], &[]),
        ] {
            for host in yes {
                assert!(parse(pattern).covers(host), "{pattern} covers {host}");
            }
            for host in no {
                assert!(!parse(pattern).covers(host), "{pattern} doesn't cover {host}");
            }
        }
        // (a pattern, another one, what both cover)
        for (one, other, both) in [
            ("*", "*", Some("*")),
            ("*", "shop.test", Some("shop.test")),
            ("*.test", "shop.test", Some("shop.test")),
            ("*.test", "test", None),
            ("*.test", "*.shop.test", Some("*.shop.test")),
            ("*.shop.test", "*.cart.test", None),
            ("shop.test", "cart.test", None),
        ] {
            let both = both.map(parse);
            assert_eq!(parse(one).meet(&parse(other)), both, "{one} and {other}");
            assert_eq!(parse(other).meet(&parse(one)), both, "{other} and {one}");
        }
        assert_eq!(parse("*.Shop.test").to_string(), "*.shop.test");
        for bad in ["*shop", "a..b", "*.", "http://x", "a b"] {
            assert_eq!(HostPattern::parse(bad), None, "{bad}");
        }
        assert!(parse("a.test").rank() > parse("*.long.suffix.test").rank());
        assert!(parse("*.shop.test").rank() > parse("*.test").rank());
    }

    #[test]
    fn an_ingress_means_one_label() {
        let parse = |text: &str| HostPattern::parse(text).unwrap();
        let label = |text: &str| parse(text).of_one_label();
        for (host, covered) in [
            ("www.shop.test", true),
            ("a.b.shop.test", false),
            ("shop.test", false),
            (".shop.test", false),
            ("xshop.test", false),
            ("", false),
        ] {
            assert_eq!(label("*.shop.test").covers(host), covered, "{host}");
        }
        // (another pattern, what both it and `*.shop.test` of one label cover)
        for (other, both) in [
            (parse("*"), Some(label("*.shop.test"))),
            (parse("*.shop.test"), Some(label("*.shop.test"))),
            (parse("*.test"), Some(label("*.shop.test"))),
            (parse("*.a.shop.test"), None),
            (parse("a.shop.test"), Some(parse("a.shop.test"))),
            (parse("a.b.shop.test"), None),
            (label("*.shop.test"), Some(label("*.shop.test"))),
            (label("*.test"), None),
        ] {
            assert_eq!(label("*.shop.test").meet(&other), both, "{other:?}");
            assert_eq!(other.meet(&label("*.shop.test")), both, "{other:?}");
        }
        assert!(label("*.shop.test").rank() > parse("*.shop.test").rank());
        assert!(label("*.shop.test").rank() < parse("*.a.shop.test").rank());
        for same in ["", "shop.test"] {
            assert_eq!(label(same), parse(same));
        }
    }
}
