//! `localityLbSetting`: which locality gets what.

use super::super::fields::{Fields, Notes};
use super::values;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{Distribute, LocalityRules, Preference, annotations};

/// Most entries of each list.
const MOST: usize = 100;

pub(super) fn read(mut fields: Fields<'_>, notes: &Notes) -> LocalityRules {
    let mut rules = LocalityRules::default();
    if values::flag(&mut fields, "enabled", notes) == Some(false) {
        rules.preference = Preference::None;
    }
    let mut froms: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for entry in bounded(fields.objects("distribute"), &fields.at("distribute"), notes) {
        let path = entry.path().to_owned();
        if let Some(distribute) = distribute(entry, notes) {
            match froms.insert(distribute.from.clone(), path.clone()) {
                Some(first) => notes.invalid(
                    &path,
                    format!("is about the same localities as {first}, which counts"),
                    "remove one",
                ),
                None => rules.distribute.push(distribute),
            }
        }
    }
    for entry in bounded(fields.objects("failover"), &fields.at("failover"), notes) {
        rules.failover.extend(failover(entry, notes));
    }
    let priority = fields.texts("failoverPriority");
    let most = priority.len() > 32;
    if most {
        notes.invalid(
            &fields.at("failoverPriority"),
            "has more than 32 entries",
            "use fewer",
        );
    }
    for (path, text) in priority.into_iter().take(32) {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text, None),
        };
        if values::is_label_key(key)
            && value.is_none_or(|value| value.len() <= 63 && value.bytes().all(|b| b.is_ascii_graphic()))
        {
            rules.failover_priority.push((key.into(), value.map(Into::into)));
        } else {
            notes.invalid(
                &path,
                format!("{text:?} is no label"),
                "write the key, or key=value",
            );
        }
    }
    let topology = |(key, _): &(Arc<str>, _)| {
        [annotations::TOPOLOGY_REGION, annotations::TOPOLOGY_ZONE].contains(&&**key)
    };
    let fails_over = !rules.failover.is_empty() || !rules.failover_priority.is_empty();
    if !rules.distribute.is_empty() && fails_over {
        let reason = "can't be combined with failover or failoverPriority, which are left out";
        notes.invalid(&fields.at("distribute"), reason, "keep one of them");
        rules.failover.clear();
        rules.failover_priority.clear();
    }
    if !rules.failover.is_empty() && rules.failover_priority.iter().any(topology) {
        let reason = "can't be combined with a failoverPriority about regions or zones, which counts";
        notes.invalid(&fields.at("failover"), reason, "keep one of them");
        rules.failover.clear();
    }
    fields.finish();
    rules
}

fn bounded<'a>(
    entries: Vec<Fields<'a>>,
    path: &str,
    notes: &Notes,
) -> impl Iterator<Item = Fields<'a>> + use<'a> {
    if entries.len() > MOST {
        let reason = format!("has {} entries; the first {MOST} are read", entries.len());
        notes.invalid(path, reason, "use fewer");
    }
    entries.into_iter().take(MOST)
}

/// `None`: it isn't what its API allows.
fn distribute(mut fields: Fields<'_>, notes: &Notes) -> Option<Distribute> {
    let mark = notes.mark();
    let from = locality(fields.text("from"), &fields.at("from"), notes);
    let path = fields.at("to");
    let mut to: Vec<(Arc<str>, u32)> = Vec::new();
    if let Some(shares) = fields.object("to") {
        for (name, share) in shares.entries().take(MOST + 1) {
            let at = shares.at(name);
            let place = locality(Some(name), &at, notes);
            match share
                .as_i64()
                .and_then(|share| u32::try_from(share).ok())
                .filter(|share| *share <= 100)
            {
                Some(share) => to.extend(place.map(|place| (place, share))),
                None => notes.invalid(&at, "is no share", "use 0 to 100 percent"),
            }
        }
    }
    fields.finish();
    let sum: u32 = to.iter().map(|(_, share)| share).sum();
    if notes.error_since(mark).is_none() && (sum != 100 || to.len() > MOST) {
        let reason = format!("the shares add up to {sum} percent, not 100; nothing is distributed by them");
        notes.invalid(&path, reason, "make it 100 altogether");
    }
    let from = from?;
    notes
        .error_since(mark)
        .is_none()
        .then_some(Distribute { from, to })
}

fn failover(mut fields: Fields<'_>, notes: &Notes) -> Option<(Arc<str>, Arc<str>)> {
    let mark = notes.mark();
    let mut region = |name: &'static str| {
        let text = fields.text(name).unwrap_or_default();
        if !values::is_name(text) {
            notes.invalid(
                &fields.at(name),
                format!("{text:?} is no region"),
                "name a region, without a zone",
            );
        }
        text
    };
    let (from, to) = (region("from"), region("to"));
    let path = fields.path().to_owned();
    fields.finish();
    if from == to && notes.error_since(mark).is_none() {
        notes.invalid(
            &path,
            format!("leads from {from} to itself"),
            "name another region",
        );
    }
    notes
        .error_since(mark)
        .is_none()
        .then(|| (from.into(), to.into()))
}

/// `region`, `region/zone`, `region/zone/subzone`; `*` for any. Weft knows no subzones.
fn locality(text: Option<&str>, path: &str, notes: &Notes) -> Option<Arc<str>> {
    let text = text.unwrap_or_default();
    let parts: Vec<&str> = text.split('/').collect();
    let part = |part: &&str| *part == "*" || values::is_name(part);
    let star = parts.iter().position(|part| *part == "*");
    if parts.len() > 3 || !parts.iter().all(part) || star.is_some_and(|star| star + 1 < parts.len()) {
        let reason = format!("{:?} is no locality", text.chars().take(64).collect::<String>());
        notes.invalid(path, reason, "write it like region/zone, region/* or *");
        return None;
    }
    if parts.len() == 3 && parts[2] != "*" {
        let reason = "Weft knows no subzones; the entry is left out";
        notes.unsupported(path, reason, "name the zone");
        return None;
    }
    Some(text.into())
}
