//! The functions of templates that Weft's charts use, with Helm's meaning.
//!
//! Enters: a name and values. Leaves: a value. Never: anything but these functions; an unknown one is an error.

use serde_json::{Map, Value};

/// What counts as true: neither nothing, nor false, zero or empty.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(bool) => *bool,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// How a value is printed.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Calls a function.
///
/// # Errors
/// When there is no such function, its arguments don't fit, or the chart says `fail`.
pub fn call(name: &str, mut arguments: Vec<Value>) -> Result<Value, String> {
    use Value::{Array, Object, String as Text};
    Ok(match (name, arguments.as_mut_slice()) {
        ("add", numbers) => numbers.iter().map(whole).sum::<i64>().into(),
        ("and", [first, ..]) => {
            let first = first.take();
            arguments
                .into_iter()
                .skip(1)
                .fold(first, |all, next| if truth(&all) { next } else { all })
        }
        ("or", [first, ..]) => {
            let first = first.take();
            arguments
                .into_iter()
                .skip(1)
                .fold(first, |any, next| if truth(&any) { any } else { next })
        }
        ("not", [value]) => (!truth(value)).into(),
        ("eq", [value, others @ ..]) => others.contains(value).into(),
        ("ne", [value, other]) => (value != other).into(),
        ("default", [fallback, value]) => (if truth(value) { value } else { fallback }).take(),
        ("dict", pairs) if pairs.len() % 2 == 0 => {
            let mut map = Map::new();
            for pair in pairs.chunks_exact_mut(2) {
                map.insert(text(&pair[0]), pair[1].take());
            }
            Object(map)
        }
        ("list", items) => Array(items.iter_mut().map(Value::take).collect()),
        ("fail", [message]) => return Err(text(message)),
        ("int", [value]) => whole(value).into(),
        ("indent", [width, value]) => indented(width, value)?.into(),
        ("nindent", [width, value]) => format!("\n{}", indented(width, value)?).into(),
        // What is there already stays.
        ("merge", [Object(first), Object(second)]) => {
            let mut merged = std::mem::take(first);
            for (key, value) in std::mem::take(second) {
                merged.entry(key).or_insert(value);
            }
            Object(merged)
        }
        ("printf", [Text(format), values @ ..]) => formatted(format, values)?.into(),
        ("quote", [value]) => Value::String(text(value)).to_string().into(),
        ("toYaml", [value]) => yaml(value).into(),
        ("trimPrefix", [Text(prefix), Text(value)]) => {
            value.strip_prefix(prefix.as_str()).unwrap_or(value).into()
        }
        (_, arguments) => {
            let arguments = Array(arguments.to_vec());
            return Err(format!("the function {name} can't be called with {arguments}"));
        }
    })
}

/// A number without its fraction; 0 for what is none.
fn whole(value: &Value) -> i64 {
    let whole = value.as_i64().or_else(|| {
        #[allow(clippy::cast_possible_truncation)] // as Helm does
        value.as_f64().map(|number| number as i64)
    });
    whole.unwrap_or_default()
}

fn indented(width: &Value, value: &Value) -> Result<String, String> {
    let width = width
        .as_u64()
        .and_then(|width| usize::try_from(width).ok())
        .ok_or("an indentation is a number")?;
    let space = " ".repeat(width);
    Ok(format!(
        "{space}{}",
        text(value).replace('\n', &format!("\n{space}"))
    ))
}

/// `%s`, `%d` and `%v` only.
fn formatted(format: &str, values: &[Value]) -> Result<String, String> {
    let mut values = values.iter();
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some('s' | 'd' | 'v') => {
                let value = values.next().ok_or("printf has fewer values than places")?;
                out.push_str(&text(value));
            }
            other => return Err(format!("printf doesn't know %{}", other.unwrap_or(' '))),
        }
    }
    Ok(out)
}

/// Block style at the top, JSON (which is YAML) below: reads back as the same value wherever it is indented to.
fn yaml(value: &Value) -> String {
    let lines: Vec<String> = match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .map(|(key, value)| format!("{}: {value}", Value::from(key.as_str())))
            .collect(),
        Value::Array(items) if !items.is_empty() => items.iter().map(|item| format!("- {item}")).collect(),
        other => vec![other.to_string()],
    };
    lines.join("\n")
}
