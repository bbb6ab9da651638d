//! The JSON paths of printer columns: `.a.b`, `.a[0]`, `.a[*].b`, `.a[?(@.type=="x")].b`.
//!
//! In: a path, an object. Out: what a column shows. Never: a path that can't be read taken for another.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    At(usize),
    Each,
    Where(String, String),
}

/// A path that was read; one that can't be read finds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Option<Vec<Step>>);

impl Path {
    /// Reads a path.
    pub(super) fn parse(text: &str) -> Self {
        Self(steps(text))
    }

    /// What it finds first, as text; empty where it finds nothing.
    pub(super) fn print(&self, of: &Value) -> String {
        let Some(steps) = &self.0 else {
            return String::new();
        };
        let mut found = vec![of];
        for step in steps {
            found = found.into_iter().flat_map(|v| follow(v, step)).collect();
        }
        found.first().map(|v| text(v)).unwrap_or_default()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::At(index) => list.get(*index).into_iter().collect(),
        Step::Each => list.iter().collect(),
        Step::Where(field, wanted) => list.iter().filter(|v| v[field] == wanted.as_str()).collect(),
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = inner.find(']')?;
            let (word, after) = (&inner[..end], &inner[end + 1..]);
            let quoted = |w: &'_ str| {
                let plain = w.trim().trim_matches(['"', '\'']);
                (plain.len() + 2 == w.trim().len()).then(|| plain.to_owned())
            };
            steps.push(match word {
                "*" => Step::Each,
                number if number.bytes().all(|b| b.is_ascii_digit()) => Step::At(number.parse().ok()?),
                filter if filter.starts_with("?(") => {
                    let (field, wanted) = filter.strip_prefix("?(@.")?.strip_suffix(')')?.split_once("==")?;
                    Step::Where(field.trim().to_owned(), quoted(wanted)?)
                }
                name => Step::Field(quoted(name)?),
            });
            rest = after;
        } else {
            let inner = rest.strip_prefix('.')?;
            let mut name = String::new();
            let mut letters = inner.char_indices();
            let mut end = inner.len();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '.' | '[' => {
                        end = at;
                        break;
                    }
                    '\\' => name.push(letters.next()?.1),
                    other => name.push(other),
                }
            }
            if !name.is_empty() {
                steps.push(Step::Field(name));
            }
            rest = &inner[end..];
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn table() {
        let of = json!({"a": {"b.c": "dotted", "n": 3}, "l": [{"type": "x", "v": "1"}, {"type": "y", "v": "2"}], "w": ["p", "q"]});
        for (path, expected) in [
            (".a.n", "3"),
            (".a.b\\.c", "dotted"),
            (".a['b.c']", "dotted"),
            (".l[0].v", "1"),
            (".l[*].v", "1"),
            (".l[?(@.type==\"y\")].v", "2"),
            ("{.l[?(@.type=='y')].v}", "2"),
            (".w", "[\"p\",\"q\"]"),
            (".missing.x", ""),
            ("a", ""),
            (".l[", ""),
        ] {
            assert_eq!(Path::parse(path).print(&of), expected, "{path}");
        }
    }
}
