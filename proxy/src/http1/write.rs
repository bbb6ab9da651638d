//! Heads as they leave.
//!
//! Enters: a parsed [`Head`] and what this hop changes. Leaves: bytes in a [`Buffer`]. Never: a field that belongs to one
//! hop, or a value with CR or LF (values were parsed, or come from validated configuration).

use super::head::{Form, Head};
use crate::buffer::Buffer;
use crate::changes::Changes;
use crate::outbound::answer::Answer;
use crate::request_id::RequestId;

/// What this hop changes of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestChanges<'a> {
    /// The path and query to send.
    pub target: &'a str,
    /// Whole field lines to add, each with CR LF.
    pub lines: &'a [u8],
    /// The name that the request gets.
    pub id: Option<&'a RequestId>,
    /// Instead of the request's host.
    pub host: Option<&'a str>,
    /// The route's changes.
    pub fields: Changes<'a>,
}

/// Writes the head of a request.
pub fn request(out: &mut Buffer, head: &Head, changes: RequestChanges<'_>) {
    out.extend(head.method().as_bytes());
    out.extend(b" ");
    out.extend(changes.target.as_bytes());
    out.extend(if head.is_11 {
        b" HTTP/1.1\r\n"
    } else {
        b" HTTP/1.0\r\n"
    });
    let own_host = head.form == Form::Absolute || changes.host.is_some();
    if own_host {
        field(
            out,
            b"host",
            changes.host.unwrap_or_else(|| head.authority()).as_bytes(),
        );
    }
    match changes.fields.is_none() && !own_host {
        true => head.kept_lines(|_| false).for_each(|lines| out.extend(lines)),
        false => {
            let drop =
                |name: &[u8]| own_host && name.eq_ignore_ascii_case(b"host") || changes.fields.takes(name);
            head.kept_lines(drop).for_each(|lines| out.extend(lines));
        }
    }
    if head.upgrade && head.form != Form::Authority {
        upgrade(out, head);
    }
    out.extend(changes.lines);
    if let Some(id) = changes.id {
        out.extend(id.line());
    }
    add(out, changes.fields);
    out.extend(b"\r\n");
}

/// What this hop changes of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseChanges<'a> {
    /// The connection closes after it.
    pub close: bool,
    /// The client speaks HTTP/1.0 and asked to keep the connection.
    pub keep_alive_10: bool,
    /// The route's changes.
    pub fields: Changes<'a>,
}

/// Writes the head of a response, interim ones too.
pub fn response(out: &mut Buffer, head: &Head, changes: ResponseChanges<'_>) {
    let digit = |value: u16| b'0' + (value % 10) as u8;
    let status = [
        digit(head.status / 100),
        digit(head.status / 10),
        digit(head.status),
    ];
    out.extend(b"HTTP/1.1 ");
    out.extend(&status);
    out.extend(b" ");
    out.extend(head.reason());
    out.extend(b"\r\n");
    match changes.fields.is_none() {
        true => head.kept_lines(|_| false).for_each(|lines| out.extend(lines)),
        false => head
            .kept_lines(|name| changes.fields.takes(name))
            .for_each(|lines| out.extend(lines)),
    }
    if head.status == 101 {
        upgrade(out, head);
    } else if changes.close {
        out.extend(b"connection: close\r\n");
    } else if changes.keep_alive_10 {
        out.extend(b"connection: keep-alive\r\n");
    }
    add(out, changes.fields);
    out.extend(b"\r\n");
}

/// Writes a whole answer of the sidecar's own. `to_head`: without the body; `marks`: fields that say
/// numbers besides.
pub fn answer(
    out: &mut Buffer,
    status: http::StatusCode,
    body: &str,
    close: bool,
    to_head: bool,
    marks: impl IntoIterator<Item = (&'static str, u64)>,
) {
    let reason = status.canonical_reason().unwrap_or("Error");
    let connection = if close { "connection: close\r\n" } else { "" };
    let marks: String = marks
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    let text = if to_head { "" } else { body };
    out.extend(
        format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{marks}{connection}\r\n{text}",
            status.as_u16()
        )
        .as_bytes(),
    );
}

/// Writes a whole answer that a rule asks for. `to_head`: without the body.
pub fn own(out: &mut Buffer, answer: &Answer, close: bool, to_head: bool) {
    let status = http::StatusCode::from_u16(answer.status).ok();
    let reason = status.and_then(|status| status.canonical_reason());
    out.extend(format!("HTTP/1.1 {} {}\r\n", answer.status, reason.unwrap_or_default()).as_bytes());
    for (name, value) in &answer.fields {
        field(out, name.as_bytes(), value.as_bytes());
    }
    if answer.has_body() {
        field(out, b"content-length", answer.body.len().to_string().as_bytes());
    }
    if close {
        out.extend(b"connection: close\r\n");
    }
    out.extend(b"\r\n");
    if answer.has_body() && !to_head {
        out.extend(&answer.body);
    }
}

fn upgrade(out: &mut Buffer, head: &Head) {
    out.extend(b"connection: upgrade\r\n");
    for value in head.upgrade_values() {
        field(out, b"upgrade", value);
    }
}

fn field(out: &mut Buffer, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend(part);
    }
}

fn add(out: &mut Buffer, changes: Changes<'_>) {
    for (name, value) in changes.fields() {
        field(out, name.as_bytes(), value.as_bytes());
    }
}
