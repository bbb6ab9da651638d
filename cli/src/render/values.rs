//! Values as a user gives them: files and `--set key=value`.
//!
//! Enters: text. Leaves: each chart's values, checked against its schema. Never: a key that no chart has.

use super::Chart;
use super::schema;
use serde_json::{Map, Value};
use std::path::Path;

/// Largest file of values, bytes.
const MAX_FILE: u64 = 1 << 20;

/// A value that the charts don't have or don't take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("value {key}: {reason}")]
pub struct InvalidValue {
    /// Its key, as in `--set`.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl InvalidValue {
    /// A value under `key`, and what is wrong with it.
    pub fn new(key: &str, reason: impl ToString) -> Self {
        Self {
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Reads a file of values on top of `user`.
///
/// # Errors
/// When it can't be read, is too big or isn't a mapping.
pub fn read_file(user: &mut Value, path: &Path) -> Result<(), InvalidValue> {
    let wrong = |reason: String| InvalidValue::new(&path.display().to_string(), reason);
    let size = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > MAX_FILE {
        return Err(wrong(format!("{size} bytes; at most {MAX_FILE} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let read: Value = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match read {
        Value::Null => Ok(()),
        Value::Object(_) => {
            merge(user, read);
            Ok(())
        }
        _ => Err(wrong("a mapping of keys to values is needed".to_owned())),
    }
}

/// Takes `key=value` on top of `user`. The charts' schema says what type the value has; lists and mappings are written as JSON,
/// and a dot that is part of a key as `\.`.
///
/// # Errors
/// When there is no such key, or the value isn't of its type.
pub fn set(charts: &[Chart], user: &mut Value, assignment: &str) -> Result<(), InvalidValue> {
    let Some((key, text)) = assignment.split_once('=') else {
        return Err(InvalidValue::new(assignment, "write --set key=value"));
    };
    let path = split(key);
    let mut known = None;
    for chart in charts {
        let schema = chart.schema();
        if let Some(place) = schema::at(&schema, &path) {
            known = Some(schema::read(key, place, text)?);
        }
    }
    let Some(mut value) = known else {
        return Err(unknown(charts, key));
    };
    for name in path.into_iter().rev() {
        value = Value::Object(Map::from_iter([(name, value)]));
    }
    merge(user, value);
    Ok(())
}

fn split(key: &str) -> Vec<String> {
    let mut path = vec![String::new()];
    let mut letters = key.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, path.last_mut()) {
            ('.', _) => path.push(String::new()),
            ('\\', Some(last)) if letters.peek() == Some(&'.') => {
                letters.next();
                last.push('.');
            }
            (_, Some(last)) => last.push(letter),
            (_, None) => {}
        }
    }
    path
}

fn unknown(charts: &[Chart], key: &str) -> InvalidValue {
    let mut keys: Vec<String> = charts
        .iter()
        .flat_map(|chart| schema::keys(&chart.schema()))
        .collect();
    keys.sort();
    keys.dedup();
    InvalidValue::new(
        key,
        format!("there is no such value; there are {}", keys.join(", ")),
    )
}

/// Puts `over` on top of `base`: mappings are merged, `null` takes a key away, all else replaces.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// The values of each chart: its defaults with the user's on top. A key goes to every chart that has it.
///
/// # Errors
/// Names the first value that no chart has or that isn't as its schema says.
pub fn of_each(charts: &[Chart], user: &Value) -> Result<Vec<Value>, InvalidValue> {
    let given = user.as_object().cloned().unwrap_or_default();
    for key in given.keys() {
        let path = [key.clone()];
        if !charts
            .iter()
            .any(|chart| schema::at(&chart.schema(), &path).is_some())
        {
            return Err(unknown(charts, key));
        }
    }
    charts.iter().map(|chart| of(chart, &given)).collect()
}

fn of(chart: &Chart, given: &Map<String, Value>) -> Result<Value, InvalidValue> {
    let schema = chart.schema();
    let mine = given
        .iter()
        .filter(|(key, _)| schema::at(&schema, std::slice::from_ref(key)).is_some())
        .map(|(key, value)| (key.clone(), value.clone()));
    let mut values = chart.defaults();
    merge(&mut values, Value::Object(mine.collect()));
    schema::check("", &schema, &values)?;
    Ok(values)
}
