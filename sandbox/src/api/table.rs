//! Objects as rows, as `kubectl get` asks for them (`as=Table`), and as metadata alone (`as=PartialObjectMetadata`).
//!
//! In: objects of a kind. Out: a `Table` with the columns that Kubernetes has for the kind, or that its
//! CustomResourceDefinition asks for. Never: a column that is empty because nothing here knows it.

mod path;
mod pods;
mod rows;
mod words;

use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::kinds::Kind;
use super::{Api, definitions, object};

/// In what shape objects are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As they are.
    Whole,
    /// Only `metadata`.
    Metadata,
    /// Rows; each with the object's metadata, the whole object, or nothing.
    Table(Include),
}

/// What of the object goes with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

/// What a client takes, from its Accept header; none where it takes nothing that is served.
#[must_use]
pub fn shape(accept: &str, include: Option<&str>) -> Option<Shape> {
    if accept.trim().is_empty() {
        return Some(Shape::Whole);
    }
    accept.split(',').take(32).find_map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            return None;
        }
        let (mut kind, mut group, mut version) = ("", "", "");
        for (key, value) in parts.filter_map(|p| p.split_once('=')) {
            match key {
                "as" => kind = value,
                "g" => group = value,
                "v" => version = value,
                _ => {}
            }
        }
        match (kind, group, version) {
            ("", ..) => Some(Shape::Whole),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Some(Shape::Metadata)
            }
            ("Table", "meta.k8s.io", "v1") => Some(Shape::Table(match include {
                Some("None") => Include::None,
                Some("Object") => Include::Object,
                _ => Include::Metadata,
            })),
            _ => None,
        }
    })
}

/// A column: name, type and format as OpenAPI has them, and whether only `-o wide` shows it.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    wide: bool,
    cell: Cell,
}

/// Where a column's value comes from.
#[derive(Debug, Clone)]
enum Cell {
    /// Known here.
    Of(fn(&Value, OffsetDateTime) -> Value),
    /// A path of a definition, and whether it is a moment to be shown as an age.
    Path(path::Path, bool),
}

/// The columns of a kind, in one version.
#[derive(Debug, Clone)]
pub struct Columns(Vec<Column>);

impl Columns {
    /// Those of Kubernetes' own kinds, or of the kind's definition.
    #[must_use]
    pub fn of(api: &Api, kind: &Kind, version: &str) -> Self {
        let column = |name: &str, wide, cell| Column {
            name: name.to_owned(),
            wide,
            cell,
        };
        let mut columns = vec![column("Name", false, Cell::Of(|o, _| object::name(o).into()))];
        let definition = kind
            .custom
            .then(|| api.store.get(definitions::KEY, "", &kind.key()))
            .flatten();
        let listed: Vec<Value> = definition
            .iter()
            .flat_map(|d| object::list(d, "/spec/versions"))
            .filter(|v| v["name"] == version)
            .flat_map(|v| object::list(v, "/additionalPrinterColumns"))
            .cloned()
            .collect();
        for entry in &listed {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            let cell = Cell::Path(path::Path::parse(text("jsonPath")), text("type") == "date");
            columns.push(column(
                text("name"),
                entry["priority"].as_i64().unwrap_or(0) > 0,
                cell,
            ));
        }
        if listed.is_empty() {
            let own = rows::columns(&kind.key());
            columns.extend(
                own.iter()
                    .map(|(name, wide, cell)| column(name, *wide, Cell::Of(*cell))),
            );
            if own.is_empty() {
                columns.push(column("Age", false, Cell::Of(|o, now| words::age(o, now).into())));
            }
        }
        // Events have their name last, and only where there is room.
        if kind.key() == "events" {
            columns.rotate_left(1);
            if let Some(name) = columns.last_mut() {
                name.wide = true;
            }
        }
        Self(columns)
    }

    /// A table of objects. `metadata` is the list's.
    #[must_use]
    pub fn table(&self, objects: &[Value], include: Include, metadata: &Value, head: bool) -> Value {
        let now = OffsetDateTime::now_utc();
        let rows: Vec<Value> = objects.iter().map(|o| self.row(o, include, now)).collect();
        let definitions: Vec<Value> = self
            .0
            .iter()
            .map(|c| {
                let format = if c.name == "Name" { "name" } else { "" };
                json!({"name": c.name, "type": "string", "format": format, "description": "", "priority": i32::from(c.wide)})
            })
            .collect();
        let definitions = if head {
            Value::Array(definitions)
        } else {
            Value::Null
        };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": definitions, "rows": rows})
    }

    fn row(&self, of: &Value, include: Include, now: OffsetDateTime) -> Value {
        let cells: Vec<Value> = self
            .0
            .iter()
            .map(|c| match &c.cell {
                Cell::Of(cell) => cell(of, now),
                Cell::Path(path, false) => path.print(of).into(),
                Cell::Path(path, true) => words::since(&path.print(of), now).into(),
            })
            .collect();
        let mut row = json!({"cells": cells});
        match include {
            Include::None => {}
            Include::Metadata => row["object"] = metadata_of(of),
            Include::Object => row["object"] = of.clone(),
        }
        row
    }
}

/// Only an object's metadata, as `PartialObjectMetadata`.
#[must_use]
pub fn metadata_of(of: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": of["metadata"]})
}

/// Answers in a shape: one object, or a list with `items`.
#[must_use]
pub fn shaped(api: &Api, kind: &Arc<Kind>, version: &str, shape: Shape, answer: Value) -> Value {
    let list = answer["items"].is_array() && answer["kind"].as_str().is_some_and(|k| k.ends_with("List"));
    match shape {
        Shape::Whole => answer,
        Shape::Metadata if list => {
            let items: Vec<Value> = object::list(&answer, "/items").iter().map(metadata_of).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": answer["metadata"], "items": items})
        }
        Shape::Metadata => metadata_of(&answer),
        Shape::Table(include) => {
            let columns = Columns::of(api, kind, version);
            if list {
                columns.table(
                    object::list(&answer, "/items"),
                    include,
                    &answer["metadata"],
                    true,
                )
            } else {
                let metadata = json!({"resourceVersion": answer["metadata"]["resourceVersion"]});
                columns.table(std::slice::from_ref(&answer), include, &metadata, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, expected) in [
            ("", Some(Shape::Whole)),
            ("*/*", Some(Shape::Whole)),
            (kubectl, Some(Shape::Table(Include::Metadata))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Shape::Whole),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Shape::Metadata),
            ),
            ("application/json;as=Other;g=meta.k8s.io;v=v1", None),
        ] {
            assert_eq!(shape(accept, None), expected, "{accept}");
        }
        assert_eq!(
            shape(kubectl, Some("Object")),
            Some(Shape::Table(Include::Object))
        );
    }

    #[test]
    fn every_kind_has_its_columns() {
        let api = Api::new("/nonexistent".into()).unwrap();
        for kind in api.kinds.all() {
            let columns = Columns::of(&api, &kind, &kind.versions[0]);
            let empty = json!({"metadata": {"name": "x", "creationTimestamp": "2024-01-01T00:00:00Z"}});
            let table = columns.table(&[empty], Include::Metadata, &json!({}), true);
            let (head, cells) = (&table["columnDefinitions"], &table["rows"][0]["cells"]);
            assert_eq!(
                head.as_array().unwrap().len(),
                cells.as_array().unwrap().len(),
                "{}",
                kind.key()
            );
            assert!(cells.as_array().unwrap().contains(&json!("x")), "{}", kind.key());
        }
    }

    #[test]
    fn columns_of_a_definition() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let kind = api.kinds.by_key("gateways.gateway.networking.k8s.io").unwrap();
        let gateway = json!({"metadata": {"name": "g"}, "spec": {"gatewayClassName": "weft"},
            "status": {"addresses": [{"value": "1.2.3.4"}, {"value": "::1"}],
                "conditions": [{"type": "Accepted", "status": "False"}, {"type": "Programmed", "status": "True"}]}});
        let table = Columns::of(&api, &kind, "v1").table(&[gateway], Include::None, &json!({}), true);
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["g", "weft", "1.2.3.4", "True", "<unknown>"])
        );
    }
}
