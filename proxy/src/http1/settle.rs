//! What a head's fields mean for its message: length, connection, host, and which of them end at this hop.
//!
//! Enters: a [`Head`] whose fields were parsed. Leaves: the same, settled. Never: a choice between two readings.

use super::field::{self, Kind};
use super::head::{Field, Form, Framing, Head, Malformed, Memory, range};

impl Head {
    pub(super) fn settle_request(&mut self) -> Result<(), Malformed> {
        let seen = self.settle_fields()?;
        self.framing = match seen {
            Seen { coding: true, .. } if !self.is_11 => return Err(Malformed::Coding),
            Seen { coding: true, .. } => Framing::Chunked,
            Seen {
                length: Some(0) | None,
                ..
            } => Framing::Empty,
            Seen {
                length: Some(length), ..
            } => Framing::Length(length),
        };
        if seen.hosts > 1 || (seen.hosts == 0 && self.is_11) {
            return Err(Malformed::Host);
        }
        self.settle_target()?;
        let authority = &self.memory.bytes[self.authority.clone()];
        if !authority.iter().all(|b| is_host_byte(*b)) {
            return Err(Malformed::Host);
        }
        // An upgrade with a body has two readings of where the new protocol begins; HTTP/2 is offered by its preface only.
        self.upgrade = seen.connection_upgrade
            && seen.upgrade
            && self.is_11
            && self.framing == Framing::Empty
            && !self.upgrades_to_h2c()
            || self.form == Form::Authority;
        if self.form == Form::Authority && self.framing != Framing::Empty {
            return Err(Malformed::Length);
        }
        Ok(())
    }

    fn settle_target(&mut self) -> Result<(), Malformed> {
        let host = self.memory.fields.iter().find(|field| field.kind == Kind::Host);
        self.authority = host.map_or(0..0, |field| range(field.value, field.value_len));
        let target = &self.memory.bytes[self.target.clone()];
        let method = &self.memory.bytes[self.word.clone()];
        if method == b"CONNECT" {
            self.form = Form::Authority;
            self.authority = self.target.clone();
            let has_port = target
                .iter()
                .rposition(|b| *b == b':')
                .is_some_and(|at| at > 0 && at + 1 < target.len());
            return if has_port { Ok(()) } else { Err(Malformed::Target) };
        }
        if target.contains(&b'#') {
            return Err(Malformed::Target);
        }
        match target {
            [b'/', ..] => self.form = Form::Origin,
            b"*" if method == b"OPTIONS" => self.form = Form::Asterisk,
            _ if target.len() > 7 && target[..7].eq_ignore_ascii_case(b"http://") => {
                self.form = Form::Absolute;
                let end = target[7..]
                    .iter()
                    .position(|b| matches!(b, b'/' | b'?'))
                    .map_or(target.len(), |at| at + 7);
                let start = self.target.start;
                self.authority = start + 7..start + end;
                self.target.start = start + end;
                if self.authority.is_empty() {
                    return Err(Malformed::Host);
                }
            }
            _ => return Err(Malformed::Target),
        }
        Ok(())
    }

    pub(super) fn settle_response(&mut self, to_head: bool, to_connect: bool) -> Result<(), Malformed> {
        let seen = self.settle_fields()?;
        let interim = self.status < 200;
        self.upgrade = self.status == 101 || to_connect && (200..300).contains(&self.status);
        self.framing = if interim || self.upgrade || to_head || matches!(self.status, 204 | 304) {
            Framing::Empty
        } else {
            match seen {
                Seen { coding: true, .. } => Framing::Chunked,
                Seen { length: Some(0), .. } => Framing::Empty,
                Seen {
                    length: Some(length), ..
                } => Framing::Length(length),
                Seen { length: None, .. } => Framing::Close,
            }
        };
        if self.framing == Framing::Close {
            self.keep_alive = false;
        }
        Ok(())
    }

    /// Lengths, connection options, and which fields stay on this hop (RFC 9110 section 7.6.1).
    fn settle_fields(&mut self) -> Result<Seen, Malformed> {
        let mut seen = Seen::default();
        let Memory { bytes, fields } = &mut self.memory;
        let (mut close, mut keep, mut named) = (false, false, false);
        for field in fields.iter_mut() {
            let value = &bytes[range(field.value, field.value_len)];
            match field.kind {
                Kind::Other => {}
                Kind::RequestId => self.has_request_id = true,
                Kind::Host => seen.hosts += 1,
                Kind::ContentLength => {
                    if seen.length.replace(number(value)?).is_some() {
                        return Err(Malformed::Length);
                    }
                }
                Kind::TransferEncoding => {
                    if seen.coding || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::Coding);
                    }
                    seen.coding = true;
                }
                Kind::Connection => {
                    field.keep = false;
                    for option in field::list(value) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep |= option.eq_ignore_ascii_case(b"keep-alive");
                        seen.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                        named = true;
                    }
                }
                Kind::Upgrade => {
                    seen.upgrade = true;
                    field.keep = false;
                }
                Kind::Te => field.keep = value.eq_ignore_ascii_case(b"trailers"),
                Kind::Expect => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
                Kind::HopByHop | Kind::Identity => field.keep = false,
            }
        }
        if seen.coding && seen.length.is_some() {
            return Err(Malformed::TwoLengths);
        }
        self.keep_alive = if self.is_11 { !close } else { keep && !close };
        if named {
            drop_named(bytes, fields);
        }
        Ok(seen)
    }

    fn upgrades_to_h2c(&self) -> bool {
        self.of_kind(Kind::Upgrade)
            .any(|value| field::list(value).any(|name| name.eq_ignore_ascii_case(b"h2c")))
    }
}

#[derive(Default)]
struct Seen {
    hosts: u32,
    length: Option<u64>,
    coding: bool,
    upgrade: bool,
    connection_upgrade: bool,
}

/// Takes away what `Connection` names, except what ends at no hop or is this side's own.
fn drop_named(bytes: &[u8], fields: &mut [Field]) {
    for at in 0..fields.len() {
        if fields[at].kind != Kind::Connection {
            continue;
        }
        let options = range(fields[at].value, fields[at].value_len);
        for option in field::list(&bytes[options]) {
            for named in fields.iter_mut().filter(|field| field.kind == Kind::Other) {
                let name = &bytes[range(named.name, named.name_len)];
                if name.eq_ignore_ascii_case(option) && !field::is_protected(name) {
                    named.keep = false;
                }
            }
        }
    }
}

fn number(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    Ok(value
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
}
