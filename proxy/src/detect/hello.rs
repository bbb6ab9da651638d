//! The ClientHello of a TLS connection (RFC 8446 section 4.1.2), as far as it says whose TLS it is.
//!
//! Enters: the first bytes of a connection. Leaves: whether a sidecar is calling. Never: a byte beyond what is there, a
//! decision about trust: that is the handshake's.

/// Whose TLS it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A sidecar's: it offers one of Weft's protocols.
    Mesh,
    /// An application's own.
    Foreign,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A whole ClientHello.
    Hello(Hello),
    /// The beginning of one.
    More,
    /// Not TLS.
    NotTls,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const MAX_RECORD: usize = 16 * 1024;
const PREFIX: &[u8] = b"weft-";

/// Reads a ClientHello from one or several records at the front of `bytes`.
pub fn read(bytes: &[u8]) -> Reading {
    match with(bytes, offers_mesh) {
        Ok(true) => Reading::Hello(Hello::Mesh),
        Ok(false) => Reading::Hello(Hello::Foreign),
        Err(reading) => reading,
    }
}

/// The name of the server that a ClientHello asks for (RFC 6066, section 3), lower case; `None`: it names none, or there is no whole
/// one.
pub fn server_name(bytes: &[u8]) -> Option<String> {
    with(bytes, |body| Some(named(body))).ok().flatten()
}

/// What `look` finds in the body of a ClientHello; it finds nothing in one that is malformed.
fn with<T>(bytes: &[u8], look: impl Fn(&[u8]) -> Option<T>) -> Result<T, Reading> {
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        let record = match record(rest) {
            Ok((record, after)) => {
                rest = after;
                record
            }
            Err(reading) => return Err(reading),
        };
        // Nearly always the first record holds it all.
        let message: &[u8] = if joined.is_empty() && rest.is_empty() {
            record
        } else {
            joined.extend_from_slice(record);
            &joined
        };
        let [kind, a, b, c, body @ ..] = message else {
            match message.first() {
                Some(&CLIENT_HELLO) | None => {}
                Some(_) => return Err(Reading::NotTls),
            }
            if joined.is_empty() {
                joined.extend_from_slice(record);
            }
            continue;
        };
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if *kind != CLIENT_HELLO || length > MAX_RECORD {
            return Err(Reading::NotTls);
        }
        if let Some(body) = body.get(..length) {
            return look(body).ok_or(Reading::NotTls);
        }
        if joined.is_empty() {
            joined.extend_from_slice(record);
        }
    }
}

/// The payload of the first record, and what follows.
fn record(bytes: &[u8]) -> Result<(&[u8], &[u8]), Reading> {
    match bytes {
        [kind, ..] if *kind != HANDSHAKE => Err(Reading::NotTls),
        [_, major, ..] if *major != 3 => Err(Reading::NotTls),
        [_, _, _, a, b, rest @ ..] => {
            let length = usize::from(*a) << 8 | usize::from(*b);
            match length {
                0 | MAX_RECORD.. => Err(Reading::NotTls),
                // The first byte of the first handshake message tells early.
                _ if rest.len() < length => Err(Reading::More),
                _ => Ok(rest.split_at(length)),
            }
        }
        _ => Err(Reading::More),
    }
}

/// Whether the hello's ALPN has a protocol of Weft's; `None`: malformed.
fn offers_mesh(body: &[u8]) -> Option<bool> {
    let Some(data) = extension(body, ALPN)? else {
        return Some(false);
    };
    let (mut names, _) = vector16(data)?;
    while !names.is_empty() {
        let (name, after) = vector8(names)?;
        names = after;
        if name.starts_with(PREFIX) {
            return Some(true);
        }
    }
    Some(false)
}

/// The name in the hello's list of server names.
fn named(body: &[u8]) -> Option<String> {
    let data = extension(body, SERVER_NAME)??;
    let (list, _) = vector16(data)?;
    // A list has at most one name of each type, and there is only the type 0.
    let (0, name) = (list.first()?, list.get(1..)?) else {
        return None;
    };
    let (name, _) = vector16(name)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = (1..=255).contains(&name.len()) && name.iter().all(allowed);
    valid.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// The first extension of a kind; outer `None`: malformed.
fn extension(body: &[u8], wanted: u16) -> Option<Option<&[u8]>> {
    // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods
    let rest = body.get(34..)?;
    let (_, rest) = vector8(rest)?;
    let (_, rest) = vector16(rest)?;
    let (_, rest) = vector8(rest)?;
    if rest.is_empty() {
        return Some(None);
    }
    let (mut extensions, _) = vector16(rest)?;
    while !extensions.is_empty() {
        let kind = u16::from_be_bytes([*extensions.first()?, *extensions.get(1)?]);
        let (data, after) = vector16(extensions.get(2..)?)?;
        extensions = after;
        if kind == wanted {
            return Some(Some(data));
        }
    }
    Some(None)
}

fn vector8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let mut config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = "example.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of `size` bytes.
    fn fragmented(bytes: &[u8], size: usize) -> Vec<u8> {
        let pieces = bytes[5..].chunks(size);
        pieces
            .flat_map(|piece| {
                let length = (piece.len() as u16).to_be_bytes();
                [&[22, 3, 1], &length[..], piece].concat()
            })
            .collect()
    }

    #[test]
    fn whose_tls_it_is() {
        for (alpn, wanted) in [
            (&[&b"weft-h1"[..]][..], Hello::Mesh),
            (&[b"h2", b"weft-tcp"], Hello::Mesh),
            (&[b"h2", b"http/1.1"], Hello::Foreign),
            (&[], Hello::Foreign),
        ] {
            let bytes = hello(alpn);
            assert_eq!(read(&bytes), Reading::Hello(wanted));
            assert_eq!(server_name(&bytes).as_deref(), Some("example.test"));
            assert_eq!(server_name(&bytes[..bytes.len() - 1]), None);
            for length in 1..bytes.len() {
                assert_eq!(
                    read(&bytes[..length]),
                    Reading::More,
                    "{length} of {} bytes",
                    bytes.len()
                );
            }
            for size in [1, 3, 100] {
                assert_eq!(
                    read(&fragmented(&bytes, size)),
                    Reading::Hello(wanted),
                    "records of {size}"
                );
            }
        }
    }

    #[test]
    fn mutated_hellos_are_harmless() {
        let bytes = hello(&[b"weft-h1"]);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut mutated = bytes.clone();
                mutated[at] = value;
                let _ = read(&mutated);
                let _ = server_name(&mutated);
            }
        }
        assert_eq!(read(&[22, 2, 0]), Reading::NotTls);
        assert_eq!(read(&[22, 3, 1, 0xff, 0xff]), Reading::NotTls);
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Reading::NotTls);
    }
}
