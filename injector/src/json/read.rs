//! From text to a tree.
//!
//! In: JSON text. Out: [`Json`] whose texts are those of it, wherever they have no escapes, and whose lists lie one behind the other in an
//! [`Arena`]: a body is hundreds of small values, which are given back all at once. Never: a field that is there twice.

use std::borrow::Cow;
use std::fmt;

use bumpalo::Bump;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{Field, Json, List};

/// Bytes that a tree takes for each byte of its text, about.
const OF_TEXT: usize = 4;

/// Where the lists of trees are kept, until it goes.
#[derive(Debug, Default)]
pub struct Arena(Bump);

impl Arena {
    /// One with room for the tree of a text of so many bytes; it grows with larger ones.
    #[must_use]
    pub fn of(text: usize) -> Self {
        Self(Bump::with_capacity(text.saturating_mul(OF_TEXT)))
    }
}

impl<'a> Json<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// Text that isn't JSON, is nested more than 128 deep, or has a field twice.
    pub fn read(text: &'a str, arena: &'a Arena) -> Result<Self, serde_json::Error> {
        let mut source = serde_json::Deserializer::from_str(text);
        let mut reader = Reader {
            arena: &arena.0,
            items: Vec::with_capacity(64),
            fields: Vec::with_capacity(64),
        };
        let value = Value(&mut reader).deserialize(&mut source)?;
        source.end()?;
        Ok(value)
    }
}

/// What is being read: the lists that aren't complete yet, each behind those that it is within.
struct Reader<'a> {
    arena: &'a Bump,
    items: Vec<Json<'a>>,
    fields: Vec<Field<'a>>,
}

impl<'a> Reader<'a> {
    fn text(&self, text: &str) -> Cow<'a, str> {
        Cow::Borrowed(self.arena.alloc_str(text))
    }

    fn list(&mut self, start: usize) -> Json<'a> {
        let items = self.arena.alloc_slice_fill_iter(self.items.drain(start..));
        Json::Array(List::Of(items))
    }

    fn object(&mut self, start: usize) -> Json<'a> {
        let fields = self.arena.alloc_slice_fill_iter(self.fields.drain(start..));
        Json::Object(List::Of(fields))
    }
}

/// A value.
struct Value<'r, 'a>(&'r mut Reader<'a>);

impl<'a> DeserializeSeed<'a> for Value<'_, 'a> {
    type Value = Json<'a>;

    fn deserialize<D: Deserializer<'a>>(self, source: D) -> Result<Json<'a>, D::Error> {
        source.deserialize_any(self)
    }
}

/// The name of a field.
struct Name<'r, 'a>(&'r Reader<'a>);

impl<'a> DeserializeSeed<'a> for Name<'_, 'a> {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name<'_, 'a> {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(text))
    }
}

impl<'a> Visitor<'a> for Value<'_, 'a> {
    type Value = Json<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'a>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'a>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'a>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'a>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json<'a>, E> {
        let number = Number::from_f64(value);
        number
            .map(Json::Number)
            .ok_or_else(|| E::custom("a number that JSON does not have"))
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Json<'a>, E> {
        Ok(Json::String(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'a>, E> {
        Ok(Json::String(self.0.text(text)))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Json<'a>, A::Error> {
        let start = self.0.items.len();
        while let Some(item) = list.next_element_seed(Value(self.0))? {
            self.0.items.push(item);
        }
        Ok(self.0.list(start))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Json<'a>, A::Error> {
        let start = self.0.fields.len();
        let mut sorted = true;
        while let Some(name) = map.next_key_seed(Name(self.0))? {
            let value = map.next_value_seed(Value(self.0))?;
            let before = self.0.fields.get(start..).and_then(<[_]>::last);
            sorted = sorted && before.is_none_or(|(last, _)| *last < name);
            self.0.fields.push((name, value));
        }
        if !sorted && let Some(fields) = self.0.fields.get_mut(start..) {
            fields.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            if let Some(twice) = fields.windows(2).find(|two| two[0].0 == two[1].0) {
                return Err(A::Error::custom(format!(
                    "the field {:.80?} is there twice",
                    twice[0].0
                )));
            }
        }
        Ok(self.0.object(start))
    }
}
