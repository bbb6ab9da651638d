//! Expressions of templates: fields, variables, literals, calls and pipelines.
//!
//! Enters: the text of an expression. Leaves: a tree. Never: a value.

use serde_json::Value;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// `.`
    Dot,
    /// `$` is the variable with the empty name.
    Variable(String),
    /// A field of something.
    Field(Box<Expression>, String),
    /// A constant.
    Literal(Value),
    /// A function, with its arguments; what a pipeline hands on is the last.
    Call(String, Vec<Expression>),
}

/// The tokens of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// `name`
    Name(String),
    /// `$name`
    Variable(String),
    /// `.name`, and whether it follows another token without a space.
    Field(String, bool),
    /// `.`
    Dot,
    /// A constant.
    Literal(Value),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
}

/// Cuts an expression into tokens.
pub struct Tokens;

impl Tokens {
    /// Whether a text is a name.
    pub fn is_name(text: &str) -> bool {
        let mut letters = text.chars();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    }

    fn read(text: &str) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        let mut touches = false;
        while let Some(first) = rest.chars().next() {
            let name = |from: &str| {
                let end = from
                    .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
                    .unwrap_or(from.len());
                from[..end].to_owned()
            };
            let (token, length) = match first {
                '|' => (Token::Pipe, 1),
                '(' => (Token::Open, 1),
                ')' => (Token::Close, 1),
                '$' => {
                    let name = name(&rest[1..]);
                    let length = 1 + name.len();
                    (Token::Variable(name), length)
                }
                '.' => match name(&rest[1..]) {
                    name if name.is_empty() => (Token::Dot, 1),
                    name => {
                        let length = 1 + name.len();
                        (Token::Field(name, touches), length)
                    }
                },
                '"' => quoted(rest)?,
                '`' => {
                    let end = rest[1..].find('`').ok_or("a ` without its end")?;
                    (Token::Literal(rest[1..=end].into()), end + 2)
                }
                '0'..='9' | '-' => {
                    let end = rest
                        .find(|letter: char| !matches!(letter, '0'..='9' | '-' | '.'))
                        .unwrap_or(rest.len());
                    let number = serde_json::from_str(&rest[..end])
                        .map_err(|_| format!("{:?} is no number", &rest[..end]))?;
                    (Token::Literal(number), end)
                }
                _ => match name(rest) {
                    name if name.is_empty() => return Err(format!("{first:?} is not expected here")),
                    name => {
                        let length = name.len();
                        let token = match name.as_str() {
                            "true" => Token::Literal(true.into()),
                            "false" => Token::Literal(false.into()),
                            "nil" => Token::Literal(Value::Null),
                            _ => Token::Name(name),
                        };
                        (token, length)
                    }
                },
            };
            tokens.push(token);
            let next = &rest[length..];
            rest = next.trim_start();
            touches = rest.len() == next.len();
        }
        Ok(tokens)
    }
}

/// A constant in double quotes: Go's escapes are JSON's, as far as charts use them.
fn quoted(text: &str) -> Result<(Token, usize), String> {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => {
                let value = serde_json::from_str(&text[..=at])
                    .map_err(|error| format!("{} can't be read: {error}", &text[..=at]))?;
                return Ok((Token::Literal(value), at + 1));
            }
            _ => escaped = false,
        }
    }
    Err("a \" without its end".to_owned())
}

/// Reads an expression.
///
/// # Errors
/// Says what is not expected.
pub fn parse(text: &str) -> Result<Expression, String> {
    let tokens = Tokens::read(text)?;
    let mut at = 0;
    let expression = pipeline(&tokens, &mut at)?;
    match tokens.get(at) {
        None => Ok(expression),
        Some(token) => Err(format!("{token:?} is not expected in {text:?}")),
    }
}

fn pipeline(tokens: &[Token], at: &mut usize) -> Result<Expression, String> {
    let mut value = command(tokens, at, None)?;
    while tokens.get(*at) == Some(&Token::Pipe) {
        *at += 1;
        value = command(tokens, at, Some(value))?;
    }
    Ok(value)
}

/// A function with its arguments, or one operand.
fn command(tokens: &[Token], at: &mut usize, handed: Option<Expression>) -> Result<Expression, String> {
    if let Some(Token::Name(name)) = tokens.get(*at) {
        *at += 1;
        let mut arguments = Vec::new();
        while !matches!(tokens.get(*at), None | Some(Token::Pipe | Token::Close)) {
            arguments.push(operand(tokens, at)?);
        }
        arguments.extend(handed);
        return Ok(Expression::Call(name.clone(), arguments));
    }
    if handed.is_some() {
        return Err("a pipeline hands on to functions only".to_owned());
    }
    operand(tokens, at)
}

fn operand(tokens: &[Token], at: &mut usize) -> Result<Expression, String> {
    let token = tokens.get(*at).ok_or("the expression ends too early")?;
    *at += 1;
    let mut value = match token {
        Token::Dot => Expression::Dot,
        Token::Field(name, _) => Expression::Field(Box::new(Expression::Dot), name.clone()),
        Token::Variable(name) => Expression::Variable(name.clone()),
        Token::Literal(value) => Expression::Literal(value.clone()),
        Token::Name(name) => Expression::Call(name.clone(), Vec::new()),
        Token::Open => {
            let inner = pipeline(tokens, at)?;
            if tokens.get(*at) != Some(&Token::Close) {
                return Err("a ( without its )".to_owned());
            }
            *at += 1;
            inner
        }
        Token::Pipe | Token::Close => return Err(format!("{token:?} is not expected here")),
    };
    while let Some(Token::Field(name, true)) = tokens.get(*at) {
        *at += 1;
        value = Expression::Field(Box::new(value), name.clone());
    }
    Ok(value)
}
