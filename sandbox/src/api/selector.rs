//! Label and field selectors.
//!
//! In: a selector as a query string or as an object of the API. Out: does an object match? Never: a selector that
//! can't be read matching anything.

use serde_json::{Map, Value};

use super::object;

/// How one key is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    /// Node affinity's `Gt` and `Lt`.
    Above(i64),
    Below(i64),
}

/// A conjunction of tests on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    tests: Vec<(String, Test)>,
}

/// Most requirements in one selector.
const MAX_TESTS: usize = 64;

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// A sentence with the part that can't be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tests = Vec::new();
        for part in split(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            tests.push(
                requirement(part).ok_or_else(|| format!("cannot read the label selector at {part:?}"))?,
            );
        }
        if tests.len() > MAX_TESTS {
            return Err(format!("a label selector has at most {MAX_TESTS} requirements"));
        }
        Ok(Self { tests })
    }

    /// Reads a LabelSelector (`matchLabels`, `matchExpressions`). Null or `{}` matches everything.
    ///
    /// # Errors
    /// A sentence naming the operator that is not known.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let mut all = Self::from_map(selector.get("matchLabels").and_then(Value::as_object));
        for expression in object::list(selector, "/matchExpressions") {
            all.tests.push(Self::expression(expression)?);
        }
        Ok(all)
    }

    /// Every pair of a plain map must be there (a Service's selector, a nodeSelector).
    #[must_use]
    pub fn from_map(map: Option<&Map<String, Value>>) -> Self {
        let tests = map
            .into_iter()
            .flatten()
            .map(|(k, v)| {
                (
                    k.clone(),
                    Test::In(vec![v.as_str().unwrap_or_default().to_owned()]),
                )
            })
            .collect();
        Self { tests }
    }

    /// Reads `matchExpressions` of a node selector term or of a LabelSelector.
    ///
    /// # Errors
    /// A sentence naming the operator that is not known.
    pub fn from_expressions(expressions: &[Value]) -> Result<Self, String> {
        Ok(Self {
            tests: expressions
                .iter()
                .map(Self::expression)
                .collect::<Result<_, _>>()?,
        })
    }

    fn expression(expression: &Value) -> Result<(String, Test), String> {
        let key = expression["key"]
            .as_str()
            .ok_or("a matchExpressions entry has no key")?;
        let values: Vec<String> = object::list(expression, "/values")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let number = || {
            values
                .first()
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| format!("the value for {key} is not a number"))
        };
        let test = match expression["operator"].as_str().unwrap_or_default() {
            "In" => Test::In(values),
            "NotIn" => Test::NotIn(values),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Missing,
            "Gt" => Test::Above(number()?),
            "Lt" => Test::Below(number()?),
            other => {
                return Err(format!(
                    "operator {other:?} for {key} is not one of In, NotIn, Exists, DoesNotExist"
                ));
            }
        };
        Ok((key.to_owned(), test))
    }

    /// The same, and this label too.
    #[must_use]
    pub fn and(mut self, key: &str, value: &str) -> Self {
        self.tests
            .push((key.to_owned(), Test::In(vec![value.to_owned()])));
        self
    }

    /// Whether there is no test at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether these labels pass every test.
    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.tests.iter().all(|(key, test)| {
            let value = labels.and_then(|l| l.get(key)).and_then(Value::as_str);
            match (test, value) {
                (Test::In(values), Some(v)) => values.iter().any(|x| x == v),
                (Test::NotIn(values), Some(v)) => !values.iter().any(|x| x == v),
                (Test::NotIn(_) | Test::Missing, None) | (Test::Exists, Some(_)) => true,
                (Test::Above(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v > *n),
                (Test::Below(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v < *n),
                _ => false,
            }
        })
    }

    /// Whether an object's labels pass every test.
    #[must_use]
    pub fn matches_object(&self, of: &Value) -> bool {
        self.matches(object::labels(of))
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn requirement(part: &str) -> Option<(String, Test)> {
    let key = |k: &str| {
        let k = k.trim();
        let fine = !k.is_empty()
            && k.len() <= 317
            && k.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        fine.then(|| k.to_owned())
    };
    if let Some(open) = part.find('(') {
        let values = part[open + 1..]
            .strip_suffix(')')?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        let mut words = part[..open].split_whitespace();
        let (name, operator) = (key(words.next()?)?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        return match operator {
            "in" => Some((name, Test::In(values))),
            "notin" => Some((name, Test::NotIn(values))),
            _ => None,
        };
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Some((key(name)?, Test::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some((key(name)?, Test::In(vec![value.trim().to_owned()])));
    }
    if let Some(name) = part.strip_prefix('!') {
        return Some((key(name)?, Test::Missing));
    }
    Some((key(part)?, Test::Exists))
}

/// A conjunction of tests on fields, as `fieldSelector` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// JSON pointer, wanted value, whether it must be equal.
    tests: Vec<(String, String, bool)>,
}

/// The fields that can be selected on.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
    "spec.serviceAccountName",
    "status.podIP",
    "type",
    "reason",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.kind",
    "involvedObject.uid",
];

impl Fields {
    /// Reads `metadata.name=x,spec.nodeName!=y`.
    ///
    /// # Errors
    /// A sentence naming the field that can't be selected on.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tests = Vec::new();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let (field, value, equal) = if let Some((f, v)) = part.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, v, true)
            } else {
                return Err(format!("cannot read the field selector at {part:?}"));
            };
            let field = field.trim();
            if !FIELDS.contains(&field) {
                return Err(format!(
                    "field selector on {field:?} is not supported; supported: {}",
                    FIELDS.join(", ")
                ));
            }
            tests.push((
                format!("/{}", field.replace('.', "/")),
                value.trim().to_owned(),
                equal,
            ));
        }
        Ok(Self { tests })
    }

    /// Whether the object passes every test.
    #[must_use]
    pub fn matches(&self, of: &Value) -> bool {
        self.tests
            .iter()
            .all(|(path, value, equal)| (object::string(of, path).unwrap_or_default() == value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_table() {
        let labels = json!({"app": "web", "tier": "front"});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, api),tier", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("!missing", true),
            ("!app", false),
            ("missing", false),
        ] {
            assert_eq!(
                Labels::parse(selector).unwrap().matches(labels.as_object()),
                expected,
                "{selector}"
            );
        }
        for bad in ["a b", "=x", "a in x)", "a on (b)", "a in (b"] {
            assert!(Labels::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn object_selectors() {
        let labels = json!({"inject": "false", "n": "5"});
        let yes = |s: Value| Labels::from_object(&s).unwrap().matches(labels.as_object());
        assert!(yes(json!({})));
        assert!(yes(Value::Null));
        assert!(!yes(
            json!({"matchExpressions": [{"key": "inject", "operator": "NotIn", "values": ["false"]}]})
        ));
        assert!(yes(
            json!({"matchLabels": {"n": "5"}, "matchExpressions": [{"key": "n", "operator": "Gt", "values": ["4"]}]})
        ));
        assert!(
            Labels::from_object(&json!({"matchExpressions": [{"key": "x", "operator": "Like"}]})).is_err()
        );
    }

    #[test]
    fn field_selectors() {
        let pod = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n1"}});
        assert!(
            Fields::parse("metadata.name=x,spec.nodeName==n1")
                .unwrap()
                .matches(&pod)
        );
        assert!(!Fields::parse("metadata.name!=x").unwrap().matches(&pod));
        assert!(Fields::parse("spec.nodeName=").is_ok());
        assert!(Fields::parse("spec.image=x").is_err());
    }
}
