//! `security.istio.io` PeerAuthentication.
//!
//! What can't be read never lets more in: an unknown mode counts as STRICT, and an object with anything else that is
//! wrong keeps its STRICT modes and loses the others.

use super::Metadata;
use super::fields::{Fields, Notes};
use crate::mesh::{Item, Labels, PeerAuth};
use serde_json::Value;
use weft_proto::model::MtlsMode;

pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let (mut selector, mut mode, mut ports) = (None, None, Vec::new());
    if let Some(mut spec) = root.object("spec") {
        selector = self::selector(&mut spec);
        mode = spec.object("mtls").and_then(|mtls| self::mode(mtls, notes));
        let levels = spec
            .object("portLevelMtls")
            .map(|levels| port_levels(&levels, notes));
        spec.finish();
        match levels {
            Some(levels) if selector.is_none() && !levels.is_empty() => {
                let reason = "has an effect only together with a selector";
                notes.invalid(
                    "spec.portLevelMtls",
                    reason,
                    "select the workload whose ports these are",
                );
            }
            Some(levels) => ports = levels,
            None => {}
        }
    }
    root.finish();
    if notes.error_since(0).is_some() {
        mode = mode.filter(|mode| *mode == MtlsMode::Strict);
        ports.retain(|(_, mode)| matches!(mode, None | Some(MtlsMode::Strict)));
    }
    Item::PeerAuth(PeerAuth {
        created: metadata.created,
        selector,
        mode,
        ports,
        origin: notes.object().clone(),
    })
}

/// `selector.matchLabels`; `None` when absent or empty.
pub(super) fn selector(spec: &mut Fields<'_>) -> Option<Labels> {
    let mut selector = spec.object("selector")?;
    let labels = selector.labels("matchLabels");
    selector.finish();
    labels.filter(|labels| !labels.is_empty())
}

fn mode(mut mtls: Fields<'_>, notes: &Notes) -> Option<MtlsMode> {
    let mode = match mtls.text("mode") {
        None | Some("UNSET") => None,
        Some("DISABLE") => Some(MtlsMode::Disable),
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("STRICT") => Some(MtlsMode::Strict),
        Some(other) => {
            let reason = format!("{other:?} is no mode; STRICT is taken");
            notes.invalid(
                &mtls.at("mode"),
                reason,
                "use STRICT, PERMISSIVE, DISABLE or UNSET",
            );
            Some(MtlsMode::Strict)
        }
    };
    mtls.finish();
    mode
}

fn port_levels(levels: &Fields<'_>, notes: &Notes) -> Vec<(u16, Option<MtlsMode>)> {
    let mut ports = Vec::new();
    for (key, value) in levels.entries() {
        let path = levels.at(key);
        match key.parse::<u16>() {
            Ok(port) if port > 0 => ports.push((port, mode(Fields::new(value, path, notes), notes))),
            _ => notes.invalid(
                &path,
                format!("{key:?} is no port"),
                "name the pod's port by its number",
            ),
        }
    }
    ports.sort_by_key(|(port, _)| *port);
    ports
}
