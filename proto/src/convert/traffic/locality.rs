//! Which locality gets what.

use super::{Invalid, bounded, label_value, most, text, unknown};
use crate::model::{Distribute, LocalityRules, Preference};
use crate::wire::v1;
use std::sync::Arc;

impl TryFrom<v1::LocalityRules> for LocalityRules {
    type Error = Invalid;
    fn try_from(wire: v1::LocalityRules) -> Result<Self, Invalid> {
        let preference = match v1::Preference::try_from(wire.preference) {
            Ok(v1::Preference::Unspecified) => Preference::Zone,
            Ok(v1::Preference::Node) => Preference::Node,
            Ok(v1::Preference::NodeOnly) => Preference::NodeOnly,
            Ok(v1::Preference::None) => Preference::None,
            Err(_) => return Err(unknown("preference", wire.preference)),
        };
        Ok(Self {
            preference,
            distribute: bounded("distribute", wire.distribute, Distribute::try_from)?,
            failover: bounded("failover", wire.failover, |pair| {
                Ok((text("from", &pair.from)?, text("to", &pair.to)?))
            })?,
            failover_priority: bounded("failover_priority", wire.failover_priority, |label| {
                let (key, value) = match label.split_once('=') {
                    Some((key, value)) => (key, Some(label_value(value)?)),
                    None => (&*label, None),
                };
                Ok((text("", key)?, value))
            })?,
            panic_percent: match wire.panic_percent {
                0 => None,
                percent => Some(most("panic_percent", percent, 100)? as u8),
            },
        })
    }
}

impl From<&LocalityRules> for v1::LocalityRules {
    fn from(rules: &LocalityRules) -> Self {
        let preference = match rules.preference {
            Preference::Zone => v1::Preference::Unspecified,
            Preference::Node => v1::Preference::Node,
            Preference::NodeOnly => v1::Preference::NodeOnly,
            Preference::None => v1::Preference::None,
        };
        let pair = |(from, to): &(Arc<str>, Arc<str>)| v1::RegionFailover {
            from: from.to_string(),
            to: to.to_string(),
        };
        let label = |(key, value): &(Arc<str>, Option<Arc<str>>)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_string(),
        };
        Self {
            preference: preference.into(),
            distribute: rules.distribute.iter().map(Into::into).collect(),
            failover: rules.failover.iter().map(pair).collect(),
            failover_priority: rules.failover_priority.iter().map(label).collect(),
            panic_percent: rules.panic_percent.unwrap_or_default().into(),
        }
    }
}

impl TryFrom<v1::Distribute> for Distribute {
    type Error = Invalid;
    fn try_from(wire: v1::Distribute) -> Result<Self, Invalid> {
        let to = bounded("to", wire.to, |to| {
            Ok((text("locality", &to.locality)?, most("percent", to.percent, 100)?))
        })?;
        let sum: u32 = to.iter().map(|(_, percent)| percent).sum();
        if sum != 100 {
            return Err(Invalid::new(
                "to",
                format!("the shares add up to {sum} percent, not 100"),
            ));
        }
        Ok(Self {
            from: text("from", &wire.from)?,
            to,
        })
    }
}

impl From<&Distribute> for v1::Distribute {
    fn from(distribute: &Distribute) -> Self {
        let to = |(locality, percent): &(Arc<str>, u32)| v1::DistributeTo {
            locality: locality.to_string(),
            percent: *percent,
        };
        Self {
            from: distribute.from.to_string(),
            to: distribute.to.iter().map(to).collect(),
        }
    }
}
