//! What an installation applies: Weft's Helm charts, rendered without Helm.
//!
//! Enters: values. Leaves: objects, in the order in which they can be created. Never: a cluster; a template construct that is
//! passed over (a test compares with what Helm renders).

mod charts;
mod evaluate;
mod expression;
mod functions;
mod release;
mod schema;
mod syntax;
mod values;

pub use release::{GatewayName, Release};
pub use values::{InvalidValue, merge, read_file, set};

use serde_json::{Map, Value, json};

/// What `app.kubernetes.io/managed-by` says of objects that Weft's own command applied.
pub const MANAGED_BY: &str = "weft";

/// Kinds in the order in which their objects are created; those that aren't here come after them, webhooks last.
const ORDER: [&str; 15] = [
    "Namespace",
    "PriorityClass",
    "IngressClass",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodMonitor",
];

/// A chart that is built in.
#[derive(Debug)]
pub struct Chart {
    /// Its name.
    pub name: &'static str,
    /// Path in the chart and content.
    pub files: &'static [(&'static str, &'static str)],
}

/// A template that can't be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", if *line > 0 { format!(":{line}") } else { String::new() })]
pub struct TemplateError {
    file: String,
    /// From 1; 0 where none is known.
    line: usize,
    message: String,
}

/// Manifests that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A value that the charts don't have or don't take.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// A template that can't be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// What was rendered is no object.
    #[error("{file}: what was rendered is no YAML: {reason}")]
    Yaml {
        /// Chart and template.
        file: String,
        /// What the reader says.
        reason: String,
    },
}

impl TemplateError {
    fn new(file: &str, line: usize, message: impl ToString) -> Self {
        Self {
            file: file.to_owned(),
            line,
            message: message.to_string(),
        }
    }
}

/// The objects of all charts for a user's values, in the order of their creation.
///
/// # Errors
/// Names the value that can't be used, and why.
pub fn manifests(release: &Release, user: &Value) -> Result<Vec<Value>, RenderError> {
    let charts = release.charts();
    let mut objects = Vec::new();
    for (chart, values) in charts.iter().zip(values::of_each(charts, user)?) {
        for (file, text) in chart.render(release, &values)? {
            if file.ends_with("NOTES.txt") {
                continue;
            }
            for document in documents(&text) {
                let object: Value = serde_saphyr::from_str(document).map_err(|error| RenderError::Yaml {
                    file: file.clone(),
                    reason: error.to_string(),
                })?;
                if !object.is_null() {
                    objects.push(object);
                }
            }
        }
    }
    objects.sort_by_key(order);
    Ok(objects)
}

/// What the last chart's notes say to who installed it.
///
/// # Errors
/// As [`manifests`].
pub fn notes(release: &Release, user: &Value) -> Result<String, RenderError> {
    let charts = release.charts();
    let values = values::of_each(charts, user)?;
    let mut notes = String::new();
    if let Some((chart, values)) = charts.iter().zip(values).next_back() {
        for (file, text) in chart.render(release, &values)? {
            if file.ends_with("NOTES.txt") {
                notes = text;
            }
        }
    }
    Ok(notes)
}

/// Place of an object in the order of creation: its webhooks come last, since they refuse pods until the injector runs.
fn order(object: &Value) -> usize {
    let kind = object["kind"].as_str().unwrap_or_default();
    let place = ORDER.iter().position(|known| *known == kind);
    let last = if kind.ends_with("WebhookConfiguration") {
        ORDER.len() + 1
    } else {
        ORDER.len()
    };
    place.unwrap_or(last)
}

/// The documents of a YAML stream.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n---\n")
        .map(|part| part.strip_prefix("---\n").unwrap_or(part))
        .filter(|part| {
            part.lines()
                .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        })
}

impl Chart {
    fn file(&self, path: &str) -> &'static str {
        let found = self.files.iter().find(|(known, _)| *known == path);
        found.map_or("", |(_, text)| text)
    }

    /// `values.yaml` of the chart.
    fn defaults(&self) -> Value {
        serde_saphyr::from_str(self.file("values.yaml")).unwrap_or_default()
    }

    /// `values.schema.json` of the chart.
    fn schema(&self) -> Value {
        serde_json::from_str(self.file("values.schema.json")).unwrap_or_default()
    }

    /// Every template's text, by file.
    fn render(&self, release: &Release, values: &Value) -> Result<Vec<(String, String)>, TemplateError> {
        let about: Value = serde_saphyr::from_str(self.file("Chart.yaml")).unwrap_or_default();
        let context = json!({
            "Values": values,
            "Chart": {"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
            "Release": {"Name": release.name(self), "Namespace": release.namespace(), "Service": MANAGED_BY},
        });
        let mut named = evaluate::Named::default();
        let mut templates = Vec::new();
        for (path, text) in self.files {
            if !path.starts_with("templates/") {
                continue;
            }
            let file = format!("{}/{path}", self.name);
            let nodes = syntax::parse(&file, text)?;
            named.collect(&file, &nodes);
            if !path.ends_with(".tpl") {
                templates.push((file, nodes));
            }
        }
        let mut rendered = Vec::new();
        for (file, nodes) in templates {
            let text = evaluate::evaluate(&file, &nodes, &context, &named)?;
            rendered.push((file, text));
        }
        Ok(rendered)
    }
}

/// An object as YAML, the way people write it.
pub fn yaml(object: &Value) -> String {
    let mut head = Map::new();
    // What it is comes first.
    for key in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = object.get(key) {
            head.insert(key.to_owned(), value.clone());
        }
    }
    let mut out = String::new();
    for key in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = head.get(key) {
            out.push_str(&write(key, value));
        }
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        if !head.contains_key(key) {
            out.push_str(&write(key, value));
        }
    }
    out
}

fn write(key: &str, value: &Value) -> String {
    let mut text = serde_saphyr::to_string(&json!({ key: value })).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
