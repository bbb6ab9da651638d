//! Frames of a WebSocket, as a client (RFC 6455). Pure.
//!
//! Enters: bytes of the server, payloads of ours. Leaves: messages, frames. Never: a message larger than the bound, a masked frame from
//! the server, a frame of ours without a mask.

/// Largest message, bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes (or text, which is the same here).
    Data(Vec<u8>),
    /// To be answered with [`pong`] of the same bytes.
    Ping(Vec<u8>),
    /// It ends.
    Close,
}

/// What the server may not say.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A reserved bit or opcode, or a mask.
    #[error("the API server sent a WebSocket frame that isn't allowed")]
    Frame,
    /// Too large.
    #[error("the API server sent a WebSocket message of more than {MAX_MESSAGE} bytes")]
    Size,
}

/// Reads frames from bytes as they come.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    message: Vec<u8>,
}

impl Reader {
    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// See [`Malformed`]; the connection is of no more use.
    pub fn message(&mut self) -> Result<Option<Message>, Malformed> {
        loop {
            let Some((first, payload)) = self.frame()? else {
                return Ok(None);
            };
            let last = first & 0x80 != 0;
            match first & 0x0f {
                0..=2 => {
                    if self.message.len() + payload.len() > MAX_MESSAGE {
                        return Err(Malformed::Size);
                    }
                    self.message.extend_from_slice(&payload);
                    if last {
                        return Ok(Some(Message::Data(std::mem::take(&mut self.message))));
                    }
                }
                8 => return Ok(Some(Message::Close)),
                9 => return Ok(Some(Message::Ping(payload))),
                10 => {}
                _ => return Err(Malformed::Frame),
            }
        }
    }

    /// The first byte and the payload of the next frame.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Malformed> {
        let &[first, second, ..] = self.bytes.as_slice() else {
            return Ok(None);
        };
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err(Malformed::Frame);
        }
        let (head, length) = match second {
            126 => (4, self.bytes.get(2..4).map(number)),
            127 => (10, self.bytes.get(2..10).map(number)),
            short => (2, Some(u64::from(short))),
        };
        let Some(length) = length else { return Ok(None) };
        let length = usize::try_from(length).map_err(|_| Malformed::Size)?;
        if length > MAX_MESSAGE {
            return Err(Malformed::Size);
        }
        if self.bytes.len() < head + length {
            return Ok(None);
        }
        let payload = self.bytes[head..head + length].to_vec();
        self.bytes.drain(..head + length);
        Ok(Some((first, payload)))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// A message of bytes, in one frame.
pub fn data(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(2, payload, mask)
}

/// The answer to a ping.
pub fn pong(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(10, payload, mask)
}

/// The end.
pub fn close(mask: [u8; 4]) -> Vec<u8> {
    frame(8, &1000_u16.to_be_bytes(), mask)
}

fn frame(opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap_or_default()),
        length => match u16::try_from(length) {
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server would send: the same without the mask.
    fn served(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(0, payload, [0; 4]);
        let head = bytes.len() - payload.len() - 4;
        bytes.drain(head..head + 4);
        bytes[0] = first;
        bytes[1] &= 0x7f;
        bytes
    }

    #[test]
    fn frames_of_every_size_arrive_in_any_pieces() {
        for size in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![7; size];
            let bytes = served(0x82, &payload);
            let mut reader = Reader::default();
            let (last, before) = bytes.split_last().unwrap();
            reader.push(before);
            assert_eq!(reader.message(), Ok(None), "{size}");
            reader.push(&[*last]);
            assert_eq!(reader.message(), Ok(Some(Message::Data(payload))), "{size}");
            assert_eq!(reader.message(), Ok(None), "{size}");
        }
    }

    #[test]
    fn pieces_of_a_message_are_joined_and_control_frames_come_between() {
        let mut reader = Reader::default();
        reader.push(&served(0x02, b"ab"));
        reader.push(&served(0x89, b"?"));
        reader.push(&served(0x80, b"c"));
        reader.push(&served(0x88, b""));
        assert_eq!(reader.message(), Ok(Some(Message::Ping(b"?".to_vec()))));
        assert_eq!(reader.message(), Ok(Some(Message::Data(b"abc".to_vec()))));
        assert_eq!(reader.message(), Ok(Some(Message::Close)));
    }

    #[test]
    fn what_a_server_may_not_send_is_refused() {
        for (bytes, error) in [
            (vec![0xc2, 0], Malformed::Frame),
            (vec![0x82, 0x80], Malformed::Frame),
            (vec![0x83, 0], Malformed::Frame),
            (vec![0x82, 127, 0, 0, 0, 0, 2, 0, 0, 0], Malformed::Size),
            (
                vec![0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255],
                Malformed::Size,
            ),
        ] {
            let mut reader = Reader::default();
            reader.push(&bytes);
            assert_eq!(reader.message(), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn our_frames_are_masked() {
        assert_eq!(
            data(b"Hello", [0x37, 0xfa, 0x21, 0x3d]),
            [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
        assert_eq!(close([0; 4])[..2], [0x88, 0x82]);
    }
}
