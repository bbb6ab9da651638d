//! Who owns which field: server-side apply.
//!
//! In: an object, and what somebody applies to it. Out: the object with the applied fields, without those that the same owner
//! has given up, and `metadata.managedFields`. An object that nobody has applied to has no owners written down. Never: a field
//! taken from another owner without `force`.

mod fields;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::change::Patching;
use super::kinds::Kind;
use super::object;
use super::patch::Style;
use super::refusal::Refusal;
use super::verbs::{Part, Write};
use fields::{Path, Set};

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Owner {
    manager: String,
    apply: bool,
    version: String,
    status: bool,
    time: String,
    set: Set,
}

/// Most owners of one object; more are refused.
const MAX_OWNERS: usize = 64;

impl Owner {
    fn read(entry: &Value) -> Self {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            apply: entry["operation"] == "Apply",
            version: text("apiVersion"),
            status: entry["subresource"] == "status",
            time: text("time"),
            set: fields::read(&entry["fieldsV1"]),
        }
    }

    fn write(&self) -> Value {
        let mut entry = json!({"manager": self.manager, "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.version, "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": fields::write(&self.set)});
        if self.status {
            entry["subresource"] = "status".into();
        }
        entry
    }

    fn is(&self, manager: &str, apply: bool, part: Part) -> bool {
        self.manager == manager && self.apply == apply && self.status == (part == Part::Status)
    }
}

fn owners(of: &Value) -> Vec<Owner> {
    object::list(of, "/metadata/managedFields")
        .iter()
        .map(Owner::read)
        .collect()
}

fn put(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|o| !o.set.is_empty());
    owners.truncate(MAX_OWNERS);
    let metadata = object::member(object, "metadata");
    metadata.insert("managedFields".into(), owners.iter().map(Owner::write).collect());
}

fn owner(manager: &str, apply: bool, part: Part, version: &str, set: Set) -> Owner {
    Owner {
        manager: manager.to_owned(),
        apply,
        version: version.to_owned(),
        status: part == Part::Status,
        time: object::now(),
        set,
    }
}

/// Writes down who owns a new object's fields.
pub(super) fn own(new: &mut Value, config: &Value, kind: &Kind, how: &Write<'_>, version: &str) {
    let set = fields::of(config, kind, how.part);
    put(new, vec![owner(how.manager, true, how.part, version, set)]);
}

/// Applies a configuration to an object that is there.
///
/// # Errors
/// 409 with every field that another owner has given another value.
pub(super) fn apply(
    current: &mut Value,
    config: &Value,
    kind: &Kind,
    asked: &Patching<'_>,
    version: &str,
) -> Result<(), Refusal> {
    debug_assert_eq!(asked.style, Style::Apply);
    let how = &asked.how;
    let mut all = owners(current);
    if all.is_empty() {
        // What was there before anybody applied belongs to somebody too.
        for part in [Part::Main, Part::Status] {
            let set = fields::of(current, kind, part);
            all.push(owner("before-first-apply", false, part, &kind.api_version(), set));
        }
    }
    let wanted = fields::of(config, kind, how.part);
    let mut conflicts: Vec<(&Owner, Path)> = Vec::new();
    for other in all.iter().filter(|o| !o.is(how.manager, true, how.part)) {
        for path in wanted.intersection(&other.set) {
            if fields::get(current, path) != fields::get(config, path) {
                conflicts.push((other, path.clone()));
            }
        }
    }
    if !conflicts.is_empty() && !asked.force {
        return Err(conflict(&conflicts));
    }
    let lost: BTreeSet<Path> = conflicts.into_iter().map(|(_, path)| path).collect();
    let before = all
        .iter()
        .find(|o| o.is(how.manager, true, how.part))
        .map(|o| o.set.clone());
    for other in all.iter_mut().filter(|o| !o.is(how.manager, true, how.part)) {
        other.set.retain(|path| !lost.contains(path));
    }
    let given_up: Vec<Path> = before
        .iter()
        .flatten()
        .filter(|path| !wanted.contains(*path))
        .filter(|path| {
            !all.iter()
                .any(|o| !o.is(how.manager, true, how.part) && o.set.contains(*path))
        })
        .cloned()
        .collect();
    // Entries of lists first: without their key they could not be found any more.
    let is_field = |path: &&Path| path.last().is_some_and(|step| step.starts_with("f:"));
    let entries = given_up.iter().filter(|path| !is_field(path));
    for path in entries.chain(given_up.iter().filter(is_field)) {
        fields::remove(current, path);
    }
    fields::overlay(current, config, kind, how.part);
    match all.iter_mut().find(|o| o.is(how.manager, true, how.part)) {
        Some(own) if own.set == wanted && own.version == version => {}
        Some(own) => *own = owner(how.manager, true, how.part, version, wanted),
        None => all.push(owner(how.manager, true, how.part, version, wanted)),
    }
    if all.len() > MAX_OWNERS {
        return Err(Refusal::conflict(format!(
            "the object has more than {MAX_OWNERS} owners"
        )));
    }
    put(current, all);
    Ok(())
}

fn conflict(conflicts: &[(&Owner, Path)]) -> Refusal {
    let words: Vec<(String, String)> = conflicts
        .iter()
        .take(50)
        .map(|(other, path)| {
            let with = format!("conflict with {:?} using {}", other.manager, other.version);
            (with, fields::print(path))
        })
        .collect();
    let listed: Vec<String> = words
        .iter()
        .map(|(with, path)| format!("{with}: {path}"))
        .collect();
    let plural = if words.len() == 1 { "conflict" } else { "conflicts" };
    let mut refusal = Refusal::conflict(format!(
        "Apply failed with {} {plural}: {}",
        words.len(),
        listed.join("\n")
    ));
    let causes = words
        .iter()
        .map(|(with, path)| json!({"reason": "FieldManagerConflict", "message": with, "field": path}));
    refusal.details = json!({"causes": causes.collect::<Vec<_>>()});
    refusal
}

/// After a change: the fields that it has changed belong to whoever made it. Nothing where nobody has ever applied, or where
/// the change was an apply that wrote its own owners.
pub(super) fn follow(before: &Value, after: &mut Value, kind: &Kind, how: &Write<'_>) {
    let known = owners(before);
    if known.is_empty()
        || object::list(before, "/metadata/managedFields") != object::list(after, "/metadata/managedFields")
    {
        return;
    }
    let (had, has) = (
        fields::of(before, kind, how.part),
        fields::of(after, kind, how.part),
    );
    let changed: Set = has
        .iter()
        .filter(|path| fields::get(before, path) != fields::get(after, path))
        .cloned()
        .collect();
    let gone: Set = had.difference(&has).cloned().collect();
    // An apply that changed nothing of its own changes no owner.
    let mut all = known;
    let is_own_apply = |o: &Owner| o.is(how.manager, true, how.part) && changed.is_subset(&o.set);
    if (changed.is_empty() && gone.is_empty()) || all.iter().any(is_own_apply) && gone.is_empty() {
        return;
    }
    for other in all.iter_mut().filter(|o| !o.is(how.manager, false, how.part)) {
        other
            .set
            .retain(|path| !changed.contains(path) && !gone.contains(path));
    }
    match all.iter_mut().find(|o| o.is(how.manager, false, how.part)) {
        Some(own) => {
            own.set.retain(|path| !gone.contains(path));
            own.set.extend(changed);
            own.time = object::now();
        }
        None => all.push(owner(how.manager, false, how.part, &kind.api_version(), changed)),
    }
    put(after, all);
}

#[cfg(test)]
#[path = "ownership/tests.rs"]
mod tests;
