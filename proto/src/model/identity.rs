//! SPIFFE identities: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! Source: the SPIFFE ID standard (section 2) and Istio's path layout.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A trust domain name: lower-case letters, digits, `.`, `-`, `_`; 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// Who a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Root certificates of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose roots these are.
    pub trust_domain: TrustDomain,
    /// DER certificates; at least one.
    pub roots: Vec<bytes::Bytes>,
}

/// Why a text is no SPIFFE id of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Longer than 2048 bytes (SPIFFE ID section 2.3).
    #[error("a SPIFFE id has at most 2048 bytes")]
    TooLong,
    /// Not `spiffe://`.
    #[error("a SPIFFE id starts with spiffe://")]
    Scheme,
    /// The trust domain is empty, too long or has a character that isn't allowed.
    #[error("a trust domain has 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain,
    /// The path isn't `/ns/<namespace>/sa/<service-account>`.
    #[error("a workload's SPIFFE id has the path /ns/<namespace>/sa/<service-account>")]
    Path,
}

impl TrustDomain {
    /// Parses a trust domain name.
    pub fn new(name: &str) -> Result<Self, InvalidIdentity> {
        let fits = (1..=255).contains(&name.len());
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if fits && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidIdentity::TrustDomain)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Makes an identity from its parts, each a DNS-1123 label or subdomain as Kubernetes has them.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        let fits = |s: &str| (1..=253).contains(&s.len()) && s.bytes().all(allowed);
        if !fits(namespace) || !fits(service_account) {
            return Err(InvalidIdentity::Path);
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account's name.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The form that policies use: `cluster.local/ns/shop/sa/web`.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        if text.len() > 2048 {
            return Err(InvalidIdentity::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(InvalidIdentity::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(InvalidIdentity::Path)?;
        let mut parts = path.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(TrustDomain::new(domain)?, namespace, account)
            }
            _ => Err(InvalidIdentity::Path),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = InvalidIdentity;
    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        Self::new(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.as_str().to_owned()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidIdentity;
    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_workload_ids_parse() {
        let good = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        for bad in [
            "",
            "spiffe://",
            "http://cluster.local/ns/shop/sa/web",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe:///ns/shop/sa/web",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x=1",
            "spiffe://cluster.local/ns/shop/sa/web\0",
            "spiffe://cluster.local/ns/sh%6fp/sa/web",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:8080/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/../web",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
    }
}
