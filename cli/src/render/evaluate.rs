//! What a template says for given values.
//!
//! Enters: nodes and a context. Leaves: text. Never: a file, the clock or the cluster; endless recursion.

use super::TemplateError;
use super::expression::Expression;
use super::functions;
use super::syntax::Node;
use serde_json::Value;
use std::collections::BTreeMap;

/// Deepest `include` in an `include`.
const MAX_DEPTH: usize = 32;

/// The named templates of a chart.
#[derive(Debug, Default)]
pub struct Named(BTreeMap<String, (String, Vec<Node>)>);

impl Named {
    /// Takes the `define`s of a template's nodes.
    pub fn collect(&mut self, file: &str, nodes: &[Node]) {
        for node in nodes {
            if let Node::Define(name, body) = node {
                self.0.insert(name.clone(), (file.to_owned(), body.clone()));
            }
        }
    }
}

/// One run of a template.
struct Run<'a> {
    named: &'a Named,
    file: &'a str,
    depth: usize,
    /// Variables, innermost last; `$` is the first.
    variables: Vec<(String, Value)>,
}

/// The text of `nodes` with `context` as `.` and `$`.
///
/// # Errors
/// Names the template and what went wrong.
pub fn evaluate(file: &str, nodes: &[Node], context: &Value, named: &Named) -> Result<String, TemplateError> {
    start(file, nodes, context, named, 0).map_err(|message| TemplateError::new(file, 0, message))
}

fn start(file: &str, nodes: &[Node], context: &Value, named: &Named, depth: usize) -> Result<String, String> {
    let mut run = Run {
        named,
        file,
        depth,
        variables: vec![(String::new(), context.clone())],
    };
    let mut out = String::new();
    run.nodes(nodes, context, &mut out)?;
    Ok(out)
}

impl Run<'_> {
    /// Runs a block; its variables end with it.
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot, out)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<(), String> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Define(..) => {}
            Node::Output(expression) => out.push_str(&functions::text(&self.value(expression, dot)?)),
            Node::Assign {
                name,
                value,
                declares,
            } => {
                let value = self.value(value, dot)?;
                if *declares {
                    self.variables.push((name.clone(), value));
                } else {
                    let place = self.variables.iter_mut().rev().find(|(known, _)| known == name);
                    place.ok_or_else(|| format!("${name} isn't declared"))?.1 = value;
                }
            }
            Node::If(arms, otherwise) => {
                for (condition, body) in arms {
                    if functions::truth(&self.value(condition, dot)?) {
                        return self.nodes(body, dot, out);
                    }
                }
                return self.nodes(otherwise, dot, out);
            }
            Node::With(expression, body, otherwise) => {
                let value = self.value(expression, dot)?;
                return if functions::truth(&value) {
                    self.nodes(body, &value, out)
                } else {
                    self.nodes(otherwise, dot, out)
                };
            }
            Node::Range {
                variables,
                over,
                body,
                otherwise,
            } => {
                let items = items(self.value(over, dot)?)?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot, out);
                }
                for (key, item) in items {
                    let outer = self.variables.len();
                    match variables.as_slice() {
                        [] => {}
                        [value] => self.variables.push((value.clone(), item.clone())),
                        [name, value, ..] => {
                            self.variables.push((name.clone(), key));
                            self.variables.push((value.clone(), item.clone()));
                        }
                    }
                    self.nodes(body, &item, out)?;
                    self.variables.truncate(outer);
                }
            }
        }
        Ok(())
    }

    fn value(&self, expression: &Expression, dot: &Value) -> Result<Value, String> {
        Ok(match expression {
            Expression::Dot => dot.clone(),
            Expression::Literal(value) => value.clone(),
            Expression::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.ok_or_else(|| format!("${name} isn't declared"))?.1.clone()
            }
            Expression::Field(of, name) => match self.value(of, dot)? {
                Value::Object(mut map) => map.remove(name).unwrap_or_default(),
                Value::Null => return Err(format!(".{name} is asked of nothing ({of:?})")),
                other => return Err(format!(".{name} is asked of {other}")),
            },
            Expression::Call(name, arguments) => {
                let arguments = arguments.iter().map(|argument| self.value(argument, dot));
                let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
                match (name.as_str(), arguments.as_slice()) {
                    ("include", [Value::String(name), context]) => self.include(name, context)?.into(),
                    _ => functions::call(name, arguments)?,
                }
            }
        })
    }

    fn include(&self, name: &str, context: &Value) -> Result<String, String> {
        let (file, nodes) = self
            .named
            .0
            .get(name)
            .ok_or_else(|| format!("there is no template {name:?} (included by {})", self.file))?;
        if self.depth == MAX_DEPTH {
            return Err(format!("template {name:?} includes itself"));
        }
        start(file, nodes, context, self.named, self.depth + 1)
    }
}

/// Keys and items, in the order of the keys as Go has it.
fn items(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items
            .into_iter()
            .enumerate()
            .map(|(index, item)| (index.into(), item))
            .collect()),
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().collect();
            Ok(sorted.into_iter().map(|(key, item)| (key.into(), item)).collect())
        }
        other => Err(format!("`range` can't go through {other}")),
    }
}
