//! The part of JSON Schema that the charts' `values.schema.json` uses.
//!
//! Enters: a schema and a value. Leaves: whether it fits, with the key and the reason. Never: a keyword that is passed over in
//! a chart of ours (a test reads them all).

use super::InvalidValue;
use regex::Regex;
use serde_json::Value;

/// Keywords that are understood.
#[cfg(test)]
pub const KEYWORDS: [&str; 14] = [
    "$schema",
    "title",
    "description",
    "type",
    "properties",
    "additionalProperties",
    "required",
    "items",
    "enum",
    "pattern",
    "minLength",
    "minimum",
    "maximum",
    "default",
];

/// The schema of the value at a path, if the schema knows one.
pub fn at<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else {
        return Some(schema);
    };
    let next = schema["properties"].get(first).or_else(|| {
        let others = &schema["additionalProperties"];
        others.is_object().then_some(others)
    });
    match next {
        Some(next) => at(next, rest),
        // An object without rules of its own takes anything.
        None => (schema["type"] == "object" && schema.get("properties").is_none()).then_some(&Value::Null),
    }
}

/// All keys of a schema, with dots.
pub fn keys(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let below = keys(inner);
        if below.is_empty() && name != "global" {
            found.push(name.clone());
        }
        found.extend(below.into_iter().map(|key| format!("{name}.{key}")));
    }
    found
}

/// Reads text as the type that a schema asks for.
///
/// # Errors
/// When it isn't of that type, or not as the schema asks.
pub fn read(key: &str, schema: &Value, text: &str) -> Result<Value, InvalidValue> {
    let value = match schema["type"].as_str() {
        Some("string") => Value::from(text),
        Some(kind) => serde_json::from_str(text).map_err(|_| {
            let how = if matches!(kind, "array" | "object") {
                ", written as JSON"
            } else {
                ""
            };
            InvalidValue::new(key, format!("{text:?} is not of the type {kind}{how}"))
        })?,
        None => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    check(key, schema, &value)?;
    Ok(value)
}

/// Whether a value is as its schema says.
///
/// # Errors
/// Names the key and what is wrong.
pub fn check(key: &str, schema: &Value, value: &Value) -> Result<(), InvalidValue> {
    let wrong = |reason: String| Err(InvalidValue::new(key, reason));
    if let Some(kind) = schema["type"].as_str()
        && !is(kind, value)
    {
        return wrong(format!("{value} is not of the type {kind}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        return wrong(format!("{value} is none of {}", allowed.join(", ")));
    }
    if let (Some(number), minimum, maximum) = (
        value.as_f64(),
        schema["minimum"].as_f64(),
        schema["maximum"].as_f64(),
    ) && (minimum.is_some_and(|least| number < least) || maximum.is_some_and(|most| number > most))
    {
        return wrong(format!(
            "{value} is not between {} and {}",
            schema["minimum"], schema["maximum"]
        ));
    }
    if let Some(text) = value.as_str() {
        if schema["minLength"]
            .as_u64()
            .is_some_and(|least| (text.len() as u64) < least)
        {
            return wrong("it is empty".to_owned());
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            match Regex::new(pattern) {
                Ok(pattern) if pattern.is_match(text) => {}
                Ok(_) => return wrong(format!("{text:?} is not like {pattern}")),
                Err(error) => return wrong(error.to_string()),
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&format!("{key}[{index}]"), &schema["items"], item)?;
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let key = if key.is_empty() {
            name.clone()
        } else {
            format!("{key}.{name}")
        };
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => {
                let known = schema["properties"].as_object().into_iter().flatten();
                let known: Vec<&str> = known.map(|(name, _)| name.as_str()).collect();
                return Err(InvalidValue::new(
                    &key,
                    format!("there is no such value; there are {}", known.join(", ")),
                ));
            }
            (Value::Null, others) => check(&key, others, inner)?,
            (schema, _) => check(&key, schema, inner)?,
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if let Some(name) = name.as_str()
            && value.get(name).is_none()
        {
            return wrong(format!("{name} is missing"));
        }
    }
    Ok(())
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
