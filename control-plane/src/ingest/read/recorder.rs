//! Which fields the readers ask for, written down while a test reads example objects: what `docs/fields.md` is made of.
//!
//! Enters: paths that [`Fields`](super::fields::Fields) is asked for, and structs that serde fills. Leaves: path and type of each. Never: anything outside tests.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer as _, Visitor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

thread_local! {
    static ASKED: RefCell<Option<BTreeMap<String, &'static str>>> = const { RefCell::new(None) };
}

/// What a text, a number and so on are called, by path; list indexes are left out of paths.
pub(crate) type Asked = BTreeMap<String, &'static str>;

/// Runs `read` and gives what it asked for.
pub(crate) fn record(read: impl FnOnce()) -> Asked {
    ASKED.set(Some(Asked::new()));
    read();
    ASKED.take().unwrap_or_default()
}

/// Whether somebody records.
pub(crate) fn on() -> bool {
    ASKED.with_borrow(Option::is_some)
}

/// A field was asked for.
pub(crate) fn asked(path: &str, what: &'static str) {
    ASKED.with_borrow_mut(|asked| {
        let Some(asked) = asked else { return };
        let mut plain = String::with_capacity(path.len());
        let mut inside = false;
        for c in path.chars() {
            match c {
                '[' => {
                    inside = true;
                    plain.push_str("[]");
                }
                ']' => inside = false,
                c if !inside => plain.push(c),
                _ => {}
            }
        }
        let entry = asked.entry(plain).or_insert(what);
        // How it is read says more than that it is looked at.
        if *entry == "any" {
            *entry = what;
        }
    });
}

/// The fields of a struct that serde fills, below `path`.
pub(crate) fn structure<T: DeserializeOwned>(path: &str) {
    let shape = Shape {
        path: path.to_owned(),
        what: None,
    };
    T::deserialize(shape)
        .map(drop)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Gives every field of every struct once, with the simplest value that there is.
struct Shape {
    path: String,
    what: Option<&'static str>,
}

#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Shape {
    fn leaf(&self, what: &'static str) {
        asked(&self.path, self.what.unwrap_or(what));
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.leaf("number");
            visitor.$visit(1)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Shape {
    type Error = Wrong;

    numbers! {
        deserialize_i8 visit_i8; deserialize_i16 visit_i16; deserialize_i32 visit_i32; deserialize_i64 visit_i64;
        deserialize_u8 visit_u8; deserialize_u16 visit_u16; deserialize_u32 visit_u32; deserialize_u64 visit_u64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.leaf("any");
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.leaf("true or false");
        visitor.visit_bool(false)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.leaf("text");
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_seq(One(Some(Self {
            path: format!("{}[]", self.path),
            what: None,
        })))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.leaf("map");
        visitor.visit_map(Each {
            names: [].iter(),
            path: self.path,
            name: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_map(Each {
            names: fields.iter(),
            path: self.path,
            name: None,
        })
    }

    serde::forward_to_deserialize_any! {
        f32 f64 i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct One(Option<Shape>);

impl<'de> de::SeqAccess<'de> for One {
    type Error = Wrong;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        self.0.take().map(|shape| seed.deserialize(shape)).transpose()
    }
}

struct Each {
    names: std::slice::Iter<'static, &'static str>,
    path: String,
    name: Option<&'static str>,
}

impl<'de> de::MapAccess<'de> for Each {
    type Error = Wrong;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.name = self.names.next().copied();
        let key = |name: &'static str| -> StrDeserializer<'static, Wrong> { name.into_deserializer() };
        self.name.map(|name| seed.deserialize(key(name))).transpose()
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Wrong> {
        let name = self.name.take().unwrap_or_default();
        let path = match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        };
        seed.deserialize(Shape { path, what: None })
    }
}
