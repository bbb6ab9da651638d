//! A document whose fields stay in the order in which somebody wrote them.
//!
//! In: YAML or JSON. Out: the same, after the operations of a [`diff`](crate::diff) were done to it: what they don't touch keeps
//! its place, what they add comes last. Never: a number or text that changed on the way.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::diff::Operation;
use crate::json::Json;

/// A document, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Ordered {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Ordered>),
    /// Fields, in order; no two with the same name.
    Map(Vec<(String, Ordered)>),
}

impl From<&Json<'_>> for Ordered {
    fn from(value: &Json<'_>) -> Self {
        match value {
            Json::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Json::Object(fields) => Self::Map(
                fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), Self::from(value)))
                    .collect(),
            ),
            Json::Null => Self::Scalar(Value::Null),
            Json::Bool(value) => Self::Scalar((*value).into()),
            Json::Number(number) => Self::Scalar(number.clone().into()),
            Json::String(text) => Self::Scalar((&**text).into()),
        }
    }
}

impl Ordered {
    /// The same without an order.
    #[must_use]
    pub fn to_json(&self) -> Json<'_> {
        match self {
            Self::Scalar(value) => Json::from(value),
            Self::List(items) => Json::array(items.iter().map(Self::to_json)),
            Self::Map(fields) => Json::object(
                fields
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.to_json())),
            ),
        }
    }

    /// A field, by its name.
    pub fn field_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Map(fields) => fields
                .iter_mut()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// Does one operation. Returns whether there was such a place.
    pub fn apply(&mut self, operation: &Operation<'_>) -> bool {
        let path = match operation {
            Operation::Add { path, .. } | Operation::Replace { path, .. } | Operation::Remove { path } => {
                path
            }
        };
        let Some((parent, last)) = path.rsplit_once('/') else {
            if let Operation::Replace { value, .. } = operation {
                *self = Self::from(value);
            }
            return matches!(operation, Operation::Replace { .. });
        };
        let last = unescaped(last);
        let Some(parent) = self.at(parent) else {
            return false;
        };
        match (parent, operation) {
            (Self::List(items), Operation::Add { value, .. }) => {
                let place = last.parse().ok().filter(|place| *place <= items.len());
                place
                    .map(|place| items.insert(place, Self::from(value)))
                    .is_some()
            }
            (Self::List(items), Operation::Remove { .. }) => {
                let place = last.parse().ok().filter(|place| *place < items.len());
                place.map(|place| items.remove(place)).is_some()
            }
            (Self::List(items), Operation::Replace { value, .. }) => {
                let place = last.parse().ok().and_then(|place: usize| items.get_mut(place));
                place.map(|place| *place = Self::from(value)).is_some()
            }
            (Self::Map(fields), Operation::Remove { .. }) => {
                let before = fields.len();
                fields.retain(|(name, _)| *name != last);
                fields.len() < before
            }
            (Self::Map(fields), Operation::Add { value, .. } | Operation::Replace { value, .. }) => {
                let value = Self::from(value);
                match fields.iter_mut().find(|(name, _)| *name == last) {
                    Some((_, place)) => *place = value,
                    None => fields.push((last, value)),
                }
                true
            }
            (Self::Scalar(_), _) => false,
        }
    }

    fn at(&mut self, pointer: &str) -> Option<&mut Self> {
        pointer.split('/').skip(1).try_fold(self, |here, step| {
            let step = unescaped(step);
            match here {
                Self::List(items) => items.get_mut(step.parse::<usize>().ok()?),
                map => map.field_mut(&step),
            }
        })
    }
}

/// A step of a JSON pointer (RFC 6901).
fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Scalar(value) => value.serialize(serializer),
            Self::List(items) => items.serialize(serializer),
            Self::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML or JSON")
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Ordered, D::Error> {
        Ordered::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Ordered, E> {
        let number = serde_json::Number::from_f64(value);
        number
            .map(|number| Ordered::Scalar(number.into()))
            .ok_or_else(|| E::custom("a number that JSON does not have"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ordered, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Ordered::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
        let mut fields: Vec<(String, Ordered)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, Ordered>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the field {name:?} is there twice")));
            }
            fields.push((name, value));
        }
        Ok(Ordered::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use serde_json::json;

    #[test]
    fn order_is_kept_and_what_is_new_comes_last() {
        let text = r#"{"z": 1, "a": {"y": [{"name": "q"}, {"name": "r"}], "b/~": null}, "m": "1.0"}"#;
        let mut document: Ordered = serde_json::from_str(text).unwrap();
        let before = document.clone();
        let old = before.to_json();
        assert_eq!(old, Json::read(text, &crate::json::Arena::default()).unwrap());
        let new = json!({"z": 2, "a": {"y": [{"name": "n"}, {"name": "q", "v": 1}], "b/~": true, "c": []}});
        let new = Json::from(&new);
        for operation in diff(&old, &new) {
            assert!(document.apply(&operation), "{operation:?}");
        }
        assert_eq!(document.to_json(), new);
        assert_eq!(
            serde_json::to_string(&document).unwrap(),
            r#"{"z":2,"a":{"y":[{"name":"n"},{"name":"q","v":1}],"b/~":true,"c":[]}}"#
        );
    }

    #[test]
    fn a_place_that_is_not_there() {
        let mut document = Ordered::from(&Json::from(&json!({"a": [1]})));
        for path in ["/b/c", "/a/7", "/a/0/x"] {
            let path = path.to_owned();
            assert!(!document.apply(&Operation::Replace {
                path,
                value: 1.into()
            }));
        }
        assert!(serde_json::from_str::<Ordered>(r#"{"a": 1, "a": 2}"#).is_err());
    }
}
