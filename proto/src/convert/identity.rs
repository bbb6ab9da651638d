//! Trust bundles.

use super::Invalid;
use crate::model::{TrustBundle, TrustDomain};
use crate::wire::v1;

impl TryFrom<v1::TrustBundle> for TrustBundle {
    type Error = Invalid;
    fn try_from(wire: v1::TrustBundle) -> Result<Self, Invalid> {
        if !(1..=16).contains(&wire.roots.len()) {
            return Err(Invalid::new(
                "roots",
                format!("has {}; 1 to 16 are allowed", wire.roots.len()),
            ));
        }
        if let Some(index) = wire.roots.iter().position(|root| root.len() > 16 * 1024) {
            return Err(Invalid::new(format!("roots[{index}]"), "is larger than 16 KiB"));
        }
        let trust_domain = TrustDomain::new(&wire.trust_domain)
            .map_err(|error| Invalid::new("trust_domain", error.to_string()))?;
        Ok(Self {
            trust_domain,
            roots: wire.roots,
        })
    }
}

impl From<&TrustBundle> for v1::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            roots: bundle.roots.clone(),
        }
    }
}
