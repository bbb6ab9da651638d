//! The syntax of the charts' templates: the part of Go's `text/template` that Weft's own charts use.
//!
//! Enters: a template's text. Leaves: its nodes. Never: a construct that is skipped; what isn't known is an error with a line.

use super::TemplateError;
use super::expression::{Expression, Tokens, parse as parse_expression};

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// Text as it is.
    Text(String),
    /// `{{ expression }}`
    Output(Expression),
    /// `{{ $name := expression }}` (declares) or `{{ $name = expression }}`.
    Assign {
        /// The variable, without its `$`.
        name: String,
        /// What it becomes.
        value: Expression,
        /// `:=` rather than `=`.
        declares: bool,
    },
    /// `if`, `else if`, `else`.
    If(Vec<(Expression, Vec<Node>)>, Vec<Node>),
    /// `with`, `else`.
    With(Expression, Vec<Node>, Vec<Node>),
    /// `range`, `else`.
    Range {
        /// `$key` and `$value`, or only `$value`.
        variables: Vec<String>,
        /// What is gone through.
        over: Expression,
        /// For each.
        body: Vec<Node>,
        /// For none.
        otherwise: Vec<Node>,
    },
    /// `define "name"`.
    Define(String, Vec<Node>),
}

/// An action or a text, with its line.
struct Piece {
    line: usize,
    kind: PieceKind,
}

enum PieceKind {
    Text(String),
    Action(String),
}

/// How a block ended.
enum End {
    Finished,
    Closed,
    Else(String),
}

/// Reads a template; `name` is for errors.
pub fn parse(name: &str, text: &str) -> Result<Vec<Node>, TemplateError> {
    let pieces = split(name, text)?;
    let mut parser = Parser {
        name,
        pieces: pieces.into_iter().peekable(),
        line: 1,
    };
    match parser.block()? {
        (nodes, End::Finished) => Ok(nodes),
        _ => Err(parser.error("an `end` or `else` without a beginning")),
    }
}

/// Cuts text and actions apart, and trims what `{{-` and `-}}` ask for.
fn split(name: &str, text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut rest, mut line, mut trim) = (text, 1, false);
    loop {
        let start = rest.find("{{");
        let mut before = start.map_or(rest, |start| &rest[..start]);
        let here = line + before.matches('\n').count();
        let after = start.map(|start| &rest[start + 2..]);
        if trim {
            before = before.trim_start();
        }
        if after.is_some_and(|after| after.starts_with("- ")) {
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece {
                line,
                kind: PieceKind::Text(before.to_owned()),
            });
        }
        let Some(after) = after else { return Ok(pieces) };
        let unclosed = || TemplateError::new(name, here, "an action without its end");
        let action = after.strip_prefix("- ").unwrap_or(after).trim_start();
        // A comment may hold anything.
        let skip = if action.starts_with("/*") {
            after.find("*/").ok_or_else(unclosed)?
        } else {
            0
        };
        let end = skip + after[skip..].find("}}").ok_or_else(unclosed)?;
        let body = &after[..end];
        trim = body.ends_with(" -");
        let body = body.strip_prefix("- ").unwrap_or(body);
        let body = body.strip_suffix(" -").unwrap_or(body).trim();
        if !body.starts_with("/*") {
            pieces.push(Piece {
                line: here,
                kind: PieceKind::Action(body.to_owned()),
            });
        }
        line = here + after[..end].matches('\n').count();
        rest = &after[end + 2..];
    }
}

struct Parser<'a> {
    name: &'a str,
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
    line: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl ToString) -> TemplateError {
        TemplateError::new(self.name, self.line, message)
    }

    fn expression(&self, text: &str) -> Result<Expression, TemplateError> {
        parse_expression(text).map_err(|message| self.error(message))
    }

    fn block(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            self.line = piece.line;
            let action = match piece.kind {
                PieceKind::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                PieceKind::Action(action) => action,
            };
            let (word, rest) = action
                .split_once(char::is_whitespace)
                .map_or((action.as_str(), ""), |(word, rest)| (word, rest.trim()));
            match word {
                "end" => return Ok((nodes, End::Closed)),
                "else" => return Ok((nodes, End::Else(rest.to_owned()))),
                "if" => nodes.push(self.conditions(rest)?),
                "with" => {
                    let over = self.expression(rest)?;
                    let (body, otherwise) = self.body()?;
                    nodes.push(Node::With(over, body, otherwise));
                }
                "range" => nodes.push(self.range(rest)?),
                "define" => {
                    let Expression::Literal(serde_json::Value::String(name)) = self.expression(rest)? else {
                        return Err(self.error("`define` needs a name in quotes"));
                    };
                    let (body, _) = self.body()?;
                    nodes.push(Node::Define(name, body));
                }
                "block" | "template" | "break" | "continue" => {
                    return Err(self.error(format!("`{word}` isn't used in Weft's charts")));
                }
                _ => nodes.push(self.simple(&action)?),
            }
        }
        Ok((nodes, End::Finished))
    }

    /// What follows up to `end`, and what follows an `else` in between.
    fn body(&mut self) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, end) = self.block()?;
        match end {
            End::Closed => Ok((body, Vec::new())),
            End::Else(condition) if condition.is_empty() => match self.block()? {
                (otherwise, End::Closed) => Ok((body, otherwise)),
                _ => Err(self.error("an `else` without its `end`")),
            },
            End::Else(_) => Err(self.error("`else` takes a condition only after `if`")),
            End::Finished => Err(self.error("a block without its `end`")),
        }
    }

    fn conditions(&mut self, condition: &str) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        let mut condition = self.expression(condition)?;
        loop {
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end {
                End::Closed => return Ok(Node::If(arms, Vec::new())),
                End::Finished => return Err(self.error("an `if` without its `end`")),
                End::Else(rest) => match rest.strip_prefix("if ") {
                    Some(next) => condition = self.expression(next)?,
                    None => match self.block()? {
                        (otherwise, End::Closed) => return Ok(Node::If(arms, otherwise)),
                        _ => return Err(self.error("an `else` without its `end`")),
                    },
                },
            }
        }
    }

    fn range(&mut self, head: &str) -> Result<Node, TemplateError> {
        let (variables, over) = match head.split_once(":=") {
            Some((names, over)) => {
                let names = names.split(',').map(|name| name.trim().strip_prefix('$'));
                let names: Option<Vec<String>> = names.map(|name| name.map(str::to_owned)).collect();
                (
                    names.ok_or_else(|| self.error("`range` declares variables that begin with $"))?,
                    over,
                )
            }
            None => (Vec::new(), head),
        };
        let over = self.expression(over)?;
        let (body, otherwise) = self.body()?;
        Ok(Node::Range {
            variables,
            over,
            body,
            otherwise,
        })
    }

    fn simple(&self, action: &str) -> Result<Node, TemplateError> {
        let assigned = action.strip_prefix('$').and_then(|rest| {
            let (name, value) = rest.split_once('=')?;
            let (name, declares) = match name.strip_suffix(':') {
                Some(name) => (name.trim(), true),
                None => (name.trim(), false),
            };
            Tokens::is_name(name).then_some((name, value, declares))
        });
        match assigned {
            Some((name, value, declares)) => Ok(Node::Assign {
                name: name.to_owned(),
                value: self.expression(value)?,
                declares,
            }),
            None => Ok(Node::Output(self.expression(action)?)),
        }
    }
}
