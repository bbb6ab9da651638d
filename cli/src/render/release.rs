//! What is rendered: which charts, under which names, in which namespace.
//!
//! Enters: a name that somebody typed. Leaves: charts and names. Never: a name that no Service could have.

use super::Chart;
use super::charts::{GATEWAY, MESH};
use std::fmt;
use std::str::FromStr;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

/// Longest name of a gateway, as Helm has it for a release.
const MAX_NAME: usize = 53;
/// Longest name of a namespace.
const MAX_NAMESPACE: usize = 63;

/// What an installation installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The control plane, the injector, and all that they need.
    Mesh,
    /// A gateway.
    Gateway(GatewayName),
}

/// Where a gateway runs, and its name: that of its Deployment, its Service and its service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Release {
    /// Its charts, in the order in which they are installed.
    pub fn charts(&self) -> &'static [Chart] {
        match self {
            Self::Mesh => &MESH,
            Self::Gateway(_) => &GATEWAY,
        }
    }

    /// Where its objects are.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Mesh => SYSTEM_NAMESPACE,
            Self::Gateway(gateway) => &gateway.namespace,
        }
    }

    /// The name of a chart's release.
    pub fn name<'a>(&'a self, chart: &Chart) -> &'a str {
        match self {
            Self::Mesh => chart.name,
            Self::Gateway(gateway) => &gateway.name,
        }
    }
}

impl FromStr for GatewayName {
    type Err = String;

    /// `NAMESPACE/NAME`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME, such as edge/public"))?;
        let label = |text: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let outer = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
            text.bytes().all(inner) && outer(text.as_bytes().first()) && outer(text.as_bytes().last())
        };
        if !label(namespace) || namespace.len() > MAX_NAMESPACE {
            return Err(format!("{namespace:?} can't be the name of a namespace"));
        }
        let letter = name.starts_with(|first: char| first.is_ascii_lowercase());
        if !label(name) || !letter || name.len() > MAX_NAME {
            return Err(format!(
                "{name:?} can't be the name of a Service: small letters, digits and dashes, a letter first, at most {MAX_NAME} of them"
            ));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_gateway_has_a_namespace_and_the_name_of_a_service() {
        assert_eq!(
            "edge/public".parse::<GatewayName>().unwrap().to_string(),
            "edge/public"
        );
        for (text, reason) in [
            ("public", "NAMESPACE/NAME"),
            ("/public", "namespace"),
            ("Edge/public", "namespace"),
            ("edge/", "a Service"),
            ("edge/1public", "a Service"),
            ("edge/a.b", "a Service"),
            ("edge/a-", "a Service"),
            ("edge/a/b", "a Service"),
        ] {
            let error = text.parse::<GatewayName>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("edge/{}", "a".repeat(54));
        assert!(long.parse::<GatewayName>().is_err());
    }
}
