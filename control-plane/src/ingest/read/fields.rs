//! Reads a JSON object field by field.
//!
//! Enters: JSON. Leaves: values, and a finding with the field's path for everything that is wrong or that nobody
//! asked for. Never: a field that is silently ignored.

use crate::mesh::{Diagnostic, Severity};
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use weft_proto::model::Origin;

/// Most findings that are kept of one object.
const MAX_FINDINGS: usize = 50;

/// What was found in one object.
#[derive(Debug)]
pub(crate) struct Notes {
    object: Origin,
    /// With the place of each among all that there were.
    findings: RefCell<Vec<(usize, Diagnostic)>>,
    /// How many there were, kept or not.
    seen: Cell<usize>,
    /// The last error and its place, kept or not.
    error: RefCell<Option<(usize, Arc<str>)>>,
}

impl Notes {
    /// Nothing yet.
    pub(crate) fn new(object: &Origin) -> Self {
        Self {
            object: object.clone(),
            findings: RefCell::default(),
            seen: Cell::default(),
            error: RefCell::default(),
        }
    }

    /// The object that is read.
    pub(crate) fn object(&self) -> &Origin {
        &self.object
    }

    /// Keeps a finding; errors in preference when there are too many.
    pub(crate) fn add(&self, finding: Diagnostic) {
        let mut findings = self.findings.borrow_mut();
        let (place, error) = (self.seen.get(), finding.severity == Severity::Error);
        self.seen.set(place + 1);
        if findings.len() < MAX_FINDINGS || error && findings.len() < 2 * MAX_FINDINGS {
            findings.push((place, finding));
        } else if error {
            self.error.replace(Some((place, sentence(&finding))));
        }
    }

    /// A value that its own API doesn't allow.
    pub(crate) fn invalid(&self, field: &str, reason: impl AsRef<str>, action: &str) {
        self.add(
            Diagnostic::error("field-invalid", &self.object)
                .at(field)
                .because(reason)
                .so(action),
        );
    }

    /// Something that the API knows and Weft doesn't act on, where that changes what the object means.
    pub(crate) fn unsupported(&self, field: &str, reason: impl AsRef<str>, action: &str) {
        self.add(
            Diagnostic::error("field-unsupported", &self.object)
                .at(field)
                .because(reason)
                .so(action),
        );
    }

    /// The same, where the rest of the object still means what it says.
    pub(crate) fn not_acted_on(&self, field: &str, reason: impl AsRef<str>, action: &str) {
        self.add(
            Diagnostic::warning("field-unsupported", &self.object)
                .at(field)
                .because(reason)
                .so(action),
        );
    }

    /// A position to look back to.
    pub(crate) fn mark(&self) -> usize {
        self.seen.get()
    }

    /// An error since a mark, as `field: reason`: the first, or of those that are too many to be kept the last.
    pub(crate) fn error_since(&self, mark: usize) -> Option<Arc<str>> {
        let findings = self.findings.borrow();
        let kept = findings
            .iter()
            .find(|(place, finding)| *place >= mark && finding.severity == Severity::Error);
        kept.map(|(_, error)| sentence(error)).or_else(|| {
            let last = self.error.borrow();
            last.as_ref()
                .filter(|(place, _)| *place >= mark)
                .map(|(_, text)| text.clone())
        })
    }

    /// Everything that was found.
    pub(crate) fn into_findings(self) -> Vec<Diagnostic> {
        self.findings
            .into_inner()
            .into_iter()
            .map(|(_, finding)| finding)
            .collect()
    }
}

fn sentence(finding: &Diagnostic) -> Arc<str> {
    format!("{}: {}", finding.field, finding.reason).into()
}

/// A JSON object and which of its fields have been asked for. Reports the others when it is dropped by
/// [`Fields::finish`].
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
    notes: &'a Notes,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`; none, and a finding, when it is no object.
    pub(crate) fn new(value: &'a Value, path: impl Into<String>, notes: &'a Notes) -> Self {
        let path = path.into();
        let map = value.as_object();
        if map.is_none() {
            notes.invalid(
                &path,
                format!("is {}, not an object", type_name(value)),
                "correct the manifest",
            );
        }
        Self {
            map,
            path,
            notes,
            asked: Vec::new(),
        }
    }

    /// Path of the object.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Path of a field.
    pub(crate) fn at(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// A field as it is; `null` counts as absent.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.note(name, "any");
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// Every field, for an object whose names are data.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.map
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Fields that may be there and don't matter.
    pub(crate) fn ignore(&mut self, names: &[&'static str]) {
        self.asked.extend(names);
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.note(name, "text");
        let value = self.value(name)?;
        value.as_str().or_else(|| self.wrong(name, value, "a text"))
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: &'static str) -> Option<i64> {
        self.note(name, "number");
        let value = self.value(name)?;
        value
            .as_i64()
            .or_else(|| self.wrong(name, value, "a whole number"))
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.note(name, "true or false");
        let value = self.value(name)?;
        value
            .as_bool()
            .or_else(|| self.wrong(name, value, "true or false"))
    }

    /// A number with or without a fraction.
    pub(crate) fn decimal(&mut self, name: &'static str) -> Option<f64> {
        self.note(name, "number");
        let value = self.value(name)?;
        value.as_f64().or_else(|| self.wrong(name, value, "a number"))
    }

    /// A port number, 1 to 65535.
    pub(crate) fn port(&mut self, name: &'static str) -> Option<u16> {
        let number = self.number(name)?;
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.notes
                .invalid(&self.at(name), format!("{number} is no port"), "use 1 to 65535");
        }
        port
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &'static str) -> Option<Fields<'a>> {
        self.note(name, "object");
        let value = self.value(name);
        #[cfg(test)]
        if value.is_none() && super::recorder::on() {
            return Some(self.nothing(self.at(name)));
        }
        let value = value?;
        Some(Fields::new(value, self.at(name), self.notes))
    }

    /// A list, with the path of each entry; empty when absent.
    pub(crate) fn list(&mut self, name: &'static str) -> Vec<(String, &'a Value)> {
        self.note(name, "list");
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let Some(list) = value.as_array() else {
            return self.wrong(name, value, "a list").unwrap_or_default();
        };
        let path = self.at(name);
        list.iter()
            .enumerate()
            .map(|(i, value)| (format!("{path}[{i}]"), value))
            .collect()
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, name: &'static str) -> Vec<Fields<'a>> {
        let notes = self.notes;
        self.note(name, "list of objects");
        #[cfg(test)]
        if super::recorder::on() && self.map.is_none_or(|map| !map.contains_key(name)) {
            return vec![self.nothing(format!("{}[0]", self.at(name)))];
        }
        self.list(name)
            .into_iter()
            .map(|(path, value)| Fields::new(value, path, notes))
            .collect()
    }

    /// A list of texts, with the path of each; entries of another type are left out with a finding.
    pub(crate) fn texts(&mut self, name: &'static str) -> Vec<(String, &'a str)> {
        self.note(name, "list of texts");
        let mut texts = Vec::new();
        for (path, value) in self.list(name) {
            match value.as_str() {
                Some(text) => texts.push((path, text)),
                None => {
                    let reason = format!("is {}, not a text", type_name(value));
                    self.notes.invalid(&path, reason, "write it in quotes");
                }
            }
        }
        texts
    }

    /// A map of texts.
    pub(crate) fn labels(&mut self, name: &'static str) -> Option<crate::mesh::Labels> {
        self.note(name, "map of texts");
        let value = self.value(name)?;
        let Some(map) = value.as_object() else {
            return self.wrong(name, value, "an object");
        };
        let mut labels = crate::mesh::Labels::new();
        for (key, value) in map {
            match value.as_str() {
                Some(text) => {
                    labels.insert(key.as_str().into(), text.into());
                }
                None => {
                    let path = format!("{}.{key}", self.at(name));
                    let reason = format!("is {}, not a text", type_name(value));
                    self.notes.invalid(&path, reason, "write it in quotes");
                }
            }
        }
        Some(labels)
    }

    /// Reports every field that nobody asked for, as an error.
    pub(crate) fn finish(self) {
        for name in self.map.into_iter().flat_map(Map::keys) {
            if !self.asked.contains(&name.as_str()) {
                let finding = Diagnostic::error("field-unknown", self.notes.object())
                    .at(self.at(name))
                    .because("Weft doesn't know this field")
                    .so("check its spelling and place, or remove it");
                self.notes.add(finding);
            }
        }
    }

    /// For `docs/fields.md`, which a test makes of what is asked for.
    #[cfg(test)]
    fn note(&self, name: &str, what: &'static str) {
        super::recorder::asked(&self.at(name), what);
    }

    #[cfg(not(test))]
    fn note(&self, _: &str, _: &'static str) {}

    /// An object without fields, so that what is below one that isn't there is asked for too.
    #[cfg(test)]
    fn nothing(&self, path: String) -> Self {
        Self {
            map: None,
            path,
            notes: self.notes,
            asked: Vec::new(),
        }
    }

    fn wrong<T>(&self, name: &str, value: &Value, wanted: &str) -> Option<T> {
        let reason = format!("is {}, not {wanted}", type_name(value));
        self.notes.invalid(&self.at(name), reason, "correct the manifest");
        None
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_seen_however_many_there_were_before() {
        let notes = Notes::new(&Origin::object("AuthorizationPolicy", "shop", "x"));
        for i in 0..1_000 {
            let mark = notes.mark();
            assert_eq!(notes.error_since(mark), None);
            notes.not_acted_on("spec.a", "isn't acted on", "remove it");
            assert_eq!(notes.error_since(mark), None);
            notes.invalid("spec.b", format!("is wrong {i}"), "correct it");
            assert_eq!(
                notes.error_since(mark).unwrap(),
                format!("spec.b: is wrong {i}").into()
            );
            assert_eq!(notes.error_since(0).unwrap(), "spec.b: is wrong 0".into());
        }
        assert_eq!(notes.into_findings().len(), 2 * MAX_FINDINGS);
    }
}
