//! Changes of header fields, layer after layer: a rule's, its backend's, this sidecar's own.
//!
//! Enters: up to three layers of validated changes. Leaves: which fields of a message go, and which come. Never: an allocation; a change
//! of the host, which is no field in HTTP/2 and is changed apart from fields.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use weft_proto::model::HeaderChanges;

/// Layers of changes; a later one has the last word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    layers: [Option<&'a HeaderChanges>; 3],
}

impl<'a> Changes<'a> {
    /// No change.
    pub const NONE: Self = Self { layers: [None; 3] };

    /// Layers, the first one first. Those without a change are left out.
    pub fn new(layers: [Option<&'a HeaderChanges>; 3]) -> Self {
        Self {
            layers: layers.map(|layer| layer.filter(|layer| !is_empty(layer))),
        }
    }

    /// The same, and one more layer after the rule's and its backend's.
    pub fn and(mut self, own: Option<&'a HeaderChanges>) -> Self {
        self.layers[2] = own.filter(|layer| !is_empty(layer));
        self
    }

    /// Nothing changes.
    pub fn is_none(&self) -> bool {
        self.layers.iter().all(Option::is_none)
    }

    /// Whether a field of the message as it came goes.
    pub fn takes(&self, name: &[u8]) -> bool {
        self.layers.iter().flatten().any(|layer| takes(layer, name))
    }

    /// The fields that come, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let layers = self.layers;
        (0..layers.len()).flat_map(move |at| {
            let layer = layers[at];
            let fields = layer
                .into_iter()
                .flat_map(|layer| layer.set.iter().chain(&layer.add));
            fields.filter_map(move |(name, value)| {
                let removed = layer.is_some_and(|layer| layer.remove.contains(name));
                let mut later = layers[at + 1..].iter().flatten();
                let gone = removed || later.any(|layer| takes(layer, name.as_bytes()));
                (!gone && !is_host(name)).then_some((&**name, &**value))
            })
        })
    }

    /// Changes a map.
    pub fn apply(&self, fields: &mut HeaderMap) {
        let parsed = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        for layer in self.layers.iter().flatten() {
            let taken = layer.set.iter().map(|(name, _)| name).chain(&layer.remove);
            for name in taken.filter(|name| !is_host(name)) {
                fields.remove(&**name);
            }
        }
        for (name, value) in self.fields().filter_map(|(name, value)| parsed(name, value)) {
            fields.append(name, value);
        }
    }
}

fn is_empty(changes: &HeaderChanges) -> bool {
    changes.set.is_empty() && changes.add.is_empty() && changes.remove.is_empty()
}

fn is_host(name: &str) -> bool {
    name == "host"
}

fn takes(layer: &HeaderChanges, name: &[u8]) -> bool {
    let is = |other: &str| !is_host(other) && name.eq_ignore_ascii_case(other.as_bytes());
    layer.remove.iter().any(|each| is(each)) || layer.set.iter().any(|(each, _)| is(each))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChanges {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            pairs.collect()
        };
        HeaderChanges {
            set: pairs(set),
            add: pairs(add),
            remove: remove.iter().map(|name| (*name).into()).collect(),
        }
    }

    #[test]
    fn later_layers_have_the_last_word() {
        let rule = changes(
            &[("a", "1"), ("b", "1"), ("host", "x")],
            &[("c", "1"), ("d", "1")],
            &["e", "d"],
        );
        let backend = changes(&[("a", "2")], &[("c", "2"), ("e", "2")], &["b"]);
        let own = changes(&[], &[("set-cookie", "s=1")], &[]);
        let all = Changes::new([Some(&rule), Some(&backend), None]).and(Some(&own));
        let fields: Vec<_> = all.fields().collect();
        assert_eq!(
            fields,
            [
                ("c", "1"),
                ("a", "2"),
                ("c", "2"),
                ("e", "2"),
                ("set-cookie", "s=1")
            ]
        );
        for (name, wanted) in [
            ("A", true),
            ("b", true),
            ("c", false),
            ("d", true),
            ("e", true),
            ("host", false),
        ] {
            assert_eq!(all.takes(name.as_bytes()), wanted, "{name}");
        }
        let mut map = HeaderMap::new();
        for name in ["a", "b", "c", "d", "e", "host"] {
            map.append(name, HeaderValue::from_static("0"));
        }
        all.apply(&mut map);
        let values = |name: &str| {
            map.get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(values("a"), ["2"]);
        assert_eq!(values("b"), [""; 0]);
        assert_eq!(values("c"), ["0", "1", "2"]);
        assert_eq!(values("d"), [""; 0]);
        assert_eq!(values("e"), ["2"]);
        assert_eq!(values("host"), ["0"]);
        assert!(Changes::new([Some(&HeaderChanges::default()), None, None]).is_none());
    }
}
