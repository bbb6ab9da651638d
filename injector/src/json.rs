//! JSON as it is judged: read once, never copied.
//!
//! In: the bytes of a body, or parts of a template. Out: a tree whose texts are those of the body, whose fields are in the order of their
//! names, and which is copied where it is changed only: what is [`shared`](Json::share) is the same list of items. Never: a field that is
//! there twice, or a number that changed on the way.

use std::borrow::Cow;
use std::ops::Index;

use serde_json::Number;

mod convert;
mod list;
mod read;

pub use list::{List, Written};
pub use read::Arena;

/// A value.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Json<'a> {
    /// Null.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    String(Cow<'a, str>),
    /// A list.
    Array(List<'a, Json<'a>>),
    /// An object: its fields in the order of their names, no two with the same.
    Object(List<'a, Field<'a>>),
}

/// Name and value.
pub type Field<'a> = (Cow<'a, str>, Json<'a>);

static NULL: Json<'static> = Json::Null;

/// Objects of so many fields are looked through one by one.
const FEW: usize = 16;

impl<'a> Json<'a> {
    /// An object of these fields. Of two with the same name the first is kept.
    pub fn object(fields: impl IntoIterator<Item = (&'a str, Json<'a>)>) -> Self {
        let fields = fields
            .into_iter()
            .map(|(name, value)| (Cow::Borrowed(name), value));
        let mut fields: Vec<Field<'a>> = fields.collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields.dedup_by(|one, other| one.0 == other.0);
        Self::Object(List::Own(fields))
    }

    /// A list of these items.
    pub fn array(items: impl IntoIterator<Item = Json<'a>>) -> Self {
        Self::Array(List::Own(items.into_iter().collect()))
    }

    /// The same, without a copy of anything below it.
    #[must_use]
    pub fn share(&'a self) -> Self {
        match self {
            Self::Null => Self::Null,
            Self::Bool(value) => Self::Bool(*value),
            Self::Number(number) => Self::Number(number.clone()),
            Self::String(text) => Self::String(Cow::Borrowed(text)),
            Self::Array(items) => Self::Array(items.share()),
            Self::Object(fields) => Self::Object(fields.share()),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is whole and not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// The items of a list.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The fields of an object, in the order of their names.
    #[must_use]
    pub fn as_object(&self) -> Option<&[Field<'a>]> {
        match self {
            Self::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// A field of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let fields = self.as_object()?;
        if fields.len() <= FEW {
            // Most names differ in length already.
            return fields
                .iter()
                .find(|(known, _)| **known == *name)
                .map(|(_, value)| value);
        }
        let place = find(fields, name).ok()?;
        Some(&fields.get(place)?.1)
    }

    /// What is at a JSON pointer (RFC 6901) of fields.
    #[must_use]
    pub fn pointer(&self, path: &str) -> Option<&Self> {
        path.split('/')
            .skip(1)
            .try_fold(self, |here, step| here.get(step))
    }

    /// As [`pointer`](Self::pointer), to change it.
    pub fn pointer_mut(&mut self, path: &str) -> Option<&mut Self> {
        path.split('/')
            .skip(1)
            .try_fold(self, |here, step| here.get_mut(step))
    }

    /// A field of an object, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        let Self::Object(fields) = self else { return None };
        let place = find(fields, name).ok()?;
        fields.to_mut().get_mut(place).map(|(_, value)| value)
    }

    /// The object, made where there is none.
    pub fn fields(&mut self) -> Fields<'_, 'a> {
        if !self.is_object() {
            *self = Self::Object(List::Own(Vec::new()));
        }
        match self {
            Self::Object(fields) => Fields(fields.to_mut()),
            _ => unreachable!("it was just made an object"),
        }
    }

    /// The list, made where there is none.
    pub fn items(&mut self) -> &mut Vec<Self> {
        if !matches!(self, Self::Array(_)) {
            *self = Self::Array(List::Own(Vec::new()));
        }
        match self {
            Self::Array(items) => items.to_mut(),
            _ => unreachable!("it was just made a list"),
        }
    }

    /// The field of this name, made where there is none (and the object too).
    pub fn entry(&mut self, name: impl Into<Cow<'a, str>>) -> &mut Self {
        let fields = self.fields().0;
        let name = name.into();
        let place = match find(fields, &name) {
            Ok(place) => place,
            Err(place) => {
                fields.insert(place, (name, Self::Null));
                place
            }
        };
        &mut fields[place].1
    }

    /// Nothing of it is borrowed any more.
    #[must_use]
    pub fn into_owned(self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(number) => Json::Number(number),
            Self::String(text) => Json::String(Cow::Owned(text.into_owned())),
            Self::Array(items) => Json::array(items.iter().map(|item| item.clone().into_owned())),
            Self::Object(fields) => {
                let own = fields
                    .iter()
                    .map(|(name, value)| (Cow::Owned(name.clone().into_owned()), value.clone().into_owned()));
                Json::Object(List::Own(own.collect()))
            }
        }
    }

    /// The same as a template: the text of it and of everything within it is made once, now.
    #[must_use]
    pub fn written(self) -> Json<'static> {
        let own = self.into_owned();
        let text = own.to_string();
        match own {
            Json::Array(mut items) => {
                let items = std::mem::take(items.to_mut());
                let items = items.into_iter().map(Json::written).collect();
                Json::Array(List::Written(Box::new(Written { items, text })))
            }
            Json::Object(mut fields) => {
                let fields = std::mem::take(fields.to_mut()).into_iter();
                let items = fields.map(|(name, value)| (name, value.written())).collect();
                Json::Object(List::Written(Box::new(Written { items, text })))
            }
            other => other,
        }
    }

    /// Writes it as text, compact.
    pub fn write(&self, out: &mut Vec<u8>) {
        let text = match self {
            Self::Array(items) => items.text(),
            Self::Object(fields) => fields.text(),
            _ => None,
        };
        if let Some(text) = text {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            // Writing to a Vec does not fail.
            Self::Number(number) => drop(serde_json::to_writer(out, number)),
            Self::String(text) => write_text(text, out),
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(fields) => {
                out.push(b'{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Writes a text in quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    // Every byte is looked at, without a branch.
    let special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    if !text.bytes().fold(false, |found, byte| found | special(byte)) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to a Vec does not fail.
        drop(serde_json::to_writer(out, text));
    }
}

/// Where a field is, or would be.
fn find(fields: &[Field<'_>], name: &str) -> Result<usize, usize> {
    fields.binary_search_by(|(known, _)| (**known).cmp(name))
}

/// The fields of an object, to be changed.
#[derive(Debug)]
pub struct Fields<'f, 'a>(&'f mut Vec<Field<'a>>);

impl<'a> Fields<'_, 'a> {
    /// Whether there is one of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        find(self.0, name).is_ok()
    }

    /// Sets one.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        let (name, value) = (name.into(), value.into());
        match find(self.0, &name) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (name, value)),
        }
    }

    /// Takes one away.
    pub fn remove(&mut self, name: &str) {
        if let Ok(place) = find(self.0, name) {
            self.0.remove(place);
        }
    }
}

impl<'a> Index<&str> for Json<'a> {
    type Output = Json<'a>;

    /// The field; null where there is none.
    fn index(&self, name: &str) -> &Self {
        self.get(name).unwrap_or(&NULL)
    }
}

impl<'a> Index<usize> for Json<'a> {
    type Output = Json<'a>;

    /// The item; null where there is none.
    fn index(&self, place: usize) -> &Self {
        self.as_array()
            .and_then(|items| items.get(place))
            .unwrap_or(&NULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_shared_is_copied_where_it_is_changed() {
        let text = r#"{"b": [1, {"c": "x\ny"}], "a": -1.5, "é": null}"#;
        let arena = Arena::default();
        let old = Json::read(text, &arena).unwrap();
        assert_eq!(old.to_string(), r#"{"a":-1.5,"b":[1,{"c":"x\ny"}],"é":null}"#);
        let mut new = old.share();
        assert_eq!(new, old);
        new.entry("b").items()[1].fields().set("c", "z");
        new.fields().set("aa", true);
        new.fields().remove("a");
        assert_eq!(new.to_string(), r#"{"aa":true,"b":[1,{"c":"z"}],"é":null}"#);
        assert_eq!(old["b"][1]["c"], "x\ny");
        assert_eq!(old["b"][7]["none"], Json::Null);
        assert_eq!(new.clone().into_owned(), new);
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": 1, "a": 2, "b": 3}]"#] {
            let arena = Arena::default();
            let error = Json::read(text, &arena).unwrap_err().to_string();
            assert!(error.contains("is there twice"), "{error}");
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,2}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_is_written(value in documents()) {
            let text = value.to_string();
            let arena = Arena::of(text.len());
            let read = Json::read(&text, &arena).unwrap();
            let written = read.clone().written();
            prop_assert_eq!(written.share().to_string(), read.to_string());
            prop_assert_eq!(&written, &read);
            prop_assert_eq!(serde_json::from_str::<Value>(&read.to_string()).unwrap(), value.clone());
            prop_assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
    }
}
