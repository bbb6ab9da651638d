//! Which line of a file a rule or a field of an object is on.
//!
//! Enters: where an object was read, and a path in it. Leaves: the line of what the path names, or of the nearest thing around it that is
//! there. Never: a failure: what can't be found keeps the line that it has. A file is read again for this, once, and only if somebody asks.

use super::files;
use crate::mesh::Diagnostic;
use serde::de::{self, Deserialize, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use weft_proto::model::Origin;

/// Files whose lines were asked for.
#[derive(Debug, Default)]
pub struct Lines {
    files: BTreeMap<Arc<str>, Objects>,
}

/// The objects of a file, by kind and name.
type Objects = BTreeMap<(String, String), Vec<Object>>;

/// An object of a file.
#[derive(Debug)]
struct Object {
    /// As written; may be empty.
    namespace: String,
    /// Line of its document's content.
    document: u32,
    /// What its own lines are counted from.
    before: u32,
    tree: Spanned<Node>,
}

#[derive(Debug)]
enum Node {
    /// As text, where it has one.
    Leaf(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<Node>, Spanned<Node>)>),
}

impl Lines {
    /// Moves an origin to the line of its rule, if it has one.
    pub fn narrow(&mut self, origin: &mut Origin) {
        if !origin.rule.is_empty()
            && let Some(line) = self.find(origin, &origin.rule)
        {
            origin.line = line;
        }
    }

    /// Moves a finding to the line of its field, or of its rule.
    pub fn point(&mut self, finding: &mut Diagnostic) {
        let path = match finding.field.is_empty() {
            true => &finding.object.rule,
            false => &finding.field,
        };
        if let Some(line) = self.find(&finding.object, path) {
            finding.object.line = line;
        }
    }

    /// The line of what `path` names in an object: `spec.rules[2].matches[0]`, `rules[2]`, or the name of a rule.
    fn find(&mut self, origin: &Origin, path: &str) -> Option<u32> {
        let file = origin.file.as_ref().filter(|_| !path.is_empty())?;
        if !self.files.contains_key(file) {
            self.files.insert(file.clone(), read(Path::new(&**file)));
        }
        let key = (origin.kind.to_string(), origin.name.to_string());
        let objects = self.files.get(file)?.get(&key)?.iter();
        let mut objects =
            objects.filter(|object| object.namespace.is_empty() || *object.namespace == *origin.namespace);
        let first = objects.clone().next();
        let here = objects.find(|object| object.document == origin.line);
        here.or(first)?.line(path)
    }
}

/// Every object of a file.
fn read(file: &Path) -> Objects {
    let mut objects = Objects::new();
    let Ok(text) = files::text(file) else {
        return objects;
    };
    for (document, text) in files::documents(&text) {
        let Ok(tree) = serde_saphyr::from_str::<Spanned<Node>>(&text) else {
            continue;
        };
        let trees = match tree.value.field("kind").and_then(Node::text) {
            Some("List") => tree.value.into_items(),
            _ => vec![tree],
        };
        for tree in trees {
            let metadata = tree.value.field("metadata");
            let text = |node: Option<&Node>| node.and_then(Node::text).unwrap_or_default().to_owned();
            let of_metadata = |name: &str| text(metadata.and_then(|node| node.field(name)));
            let key = (text(tree.value.field("kind")), of_metadata("name"));
            let object = Object {
                namespace: of_metadata("namespace"),
                document,
                before: document - 1,
                tree,
            };
            objects.entry(key).or_default().push(object);
        }
    }
    objects
}

impl Object {
    fn line(&self, path: &str) -> Option<u32> {
        let root = &self.tree.value;
        let spec = root.field("spec");
        let line = root
            .walk(path)
            .or_else(|| spec?.walk(path))
            .or_else(|| spec?.field("trafficPolicy")?.walk(path))
            .or_else(|| {
                ["rules", "http"]
                    .iter()
                    .find_map(|list| spec?.field(list)?.entry(path))
            })?;
        Some(self.before + line)
    }
}

impl Node {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Leaf(text) => Some(text),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    fn field(&self, name: &str) -> Option<&Self> {
        let Self::Map(fields) = self else { return None };
        let found = fields.iter().find(|(key, _)| key.value.text() == Some(name));
        found.map(|(_, value)| &value.value)
    }

    /// The entries of a `List`.
    fn into_items(self) -> Vec<Spanned<Node>> {
        let Self::Map(fields) = self else {
            return Vec::new();
        };
        let items = fields
            .into_iter()
            .find(|(key, _)| key.value.text() == Some("items"));
        match items {
            Some((
                _,
                Spanned {
                    value: Self::List(items),
                    ..
                },
            )) => items,
            _ => Vec::new(),
        }
    }

    /// The line of a list's entry that has this name.
    fn entry(&self, name: &str) -> Option<u32> {
        let Self::List(entries) = self else { return None };
        let is = |entry: &&Spanned<Node>| entry.value.is_called(name);
        entries.iter().find(is).and_then(line)
    }

    /// Whether it is what a list is narrowed to by `[name]`.
    fn is_called(&self, name: &str) -> bool {
        let port = |node: &Self| node.field("number").and_then(Self::text) == Some(name);
        self.field("name").and_then(Self::text) == Some(name) || self.field("port").is_some_and(port)
    }

    /// The line of the deepest part of a path that is there; `None`: not even the first is.
    fn walk(&self, path: &str) -> Option<u32> {
        let (at, value, rest) = self.step(path)?;
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        match rest.is_empty() {
            true => line(at),
            false => value.walk(rest).or_else(|| line(at)),
        }
    }

    /// What the first part of a path names: where it is written, what it is, and the rest of the path.
    fn step<'a, 'b>(&'a self, path: &'b str) -> Option<(&'a Spanned<Node>, &'a Node, &'b str)> {
        match self {
            Self::Leaf(_) => None,
            Self::List(entries) => {
                let (inside, rest) = path.strip_prefix('[')?.split_once(']')?;
                let by_name = || entries.iter().find(|entry| entry.value.is_called(inside));
                let by_place = inside.parse().ok().and_then(|at: usize| entries.get(at));
                let entry = by_place.or_else(by_name)?;
                Some((entry, &entry.value, rest))
            }
            Self::Map(fields) => {
                // Names may have dots in them, as those of annotations do: the longest is meant.
                let rest = |(key, _): &&'a (Spanned<Node>, Spanned<Node>)| {
                    let key = key.value.text()?;
                    let inside = path.strip_prefix('[').and_then(|path| path.split_once(']'));
                    if let Some((inside, rest)) = inside {
                        return (inside == key).then_some(rest);
                    }
                    path.strip_prefix(key)
                        .filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                };
                let found = fields.iter().filter_map(|field| Some((field, rest(&field)?)));
                let ((key, value), rest) = found.min_by_key(|(_, rest)| rest.len())?;
                Some((key, &value.value, rest))
            }
        }
    }
}

fn line(node: &Spanned<Node>) -> Option<u32> {
    u32::try_from(node.referenced.line())
        .ok()
        .filter(|line| *line > 0)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

/// Whatever is there.
struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(String::new()))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Node::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# What follows is counted too.
kind: Service
metadata: {name: cart}
---

kind: HTTPRoute
metadata:
  name: cart
  namespace: shop
  annotations:
    traffic.weft.dev/hedge: x
spec:
  parentRefs: [{kind: Service, name: cart}]
  rules:
    - name: next
      matches:
        - path: {type: Exact, value: /}
          headers:
            - name: user
              value: |
                jane
    -
      backendRefs:
      - name: cart
--- {kind: List, items: [
  {kind: Service, metadata: {name: a}},
  {kind: DestinationRule, metadata: {name: a}, spec: {trafficPolicy: {
    portLevelSettings: [{port: {number: 80},
      outlierDetection: {}}]},
    subsets: [{name: v1},
              {name: v2}]}}]}
";

    #[test]
    fn paths_have_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, TEXT).unwrap();
        let mut lines = Lines::default();
        for (kind, name, path, wanted) in [
            (
                "HTTPRoute",
                "shop/cart",
                "spec.rules[0].matches[0].path.value",
                Some(17),
            ),
            (
                "HTTPRoute",
                "shop/cart",
                "spec.rules[0].matches[0].headers[0].value",
                Some(20),
            ),
            ("HTTPRoute", "shop/cart", "spec.rules[1].backendRefs[0]", Some(24)),
            (
                "HTTPRoute",
                "shop/cart",
                "spec.rules[1].backendRefs[0].port",
                Some(24),
            ),
            ("HTTPRoute", "shop/cart", "spec.rules", Some(14)),
            ("HTTPRoute", "shop/cart", "spec.hostnames", Some(12)),
            ("HTTPRoute", "shop/cart", "rules[0]", Some(15)),
            ("HTTPRoute", "shop/cart", "next", Some(15)),
            (
                "HTTPRoute",
                "shop/cart",
                "metadata.annotations.traffic.weft.dev/hedge",
                Some(11),
            ),
            ("HTTPRoute", "shop/cart", "metadata.labels", Some(7)),
            ("HTTPRoute", "shop/cart", "", None),
            ("HTTPRoute", "shop/cart", "nothing", None),
            ("HTTPRoute", "bank/cart", "spec.rules", None),
            ("DestinationRule", "any/a", "subsets[v2]", Some(31)),
            (
                "DestinationRule",
                "any/a",
                "portLevelSettings[80].outlierDetection",
                Some(29),
            ),
            ("Service", "any/a", "metadata.name", Some(26)),
        ] {
            let (namespace, name) = name.split_once('/').unwrap();
            let origin = Origin {
                file: Some(file.to_str().unwrap().into()),
                ..Origin::object(kind, namespace, name)
            };
            assert_eq!(lines.find(&origin, path), wanted, "{kind} {path}");
        }
    }
}
