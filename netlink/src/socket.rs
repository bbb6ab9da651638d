//! One netlink socket for one exchange.
//!
//! Enters: a batch of messages, each with a description. Leaves: success, or the first refusal with the kernel's
//! error number, its own words and the description of the message that it refused. Never happens: a wait without end
//! (netlink answers before `send` returns, so that an empty queue means that there is no answer).

use std::io;
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sockopt;

use crate::wire::{self, HEADER, Writer};

/// The kernel's refusal of one message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {}{}", io::Error::from_raw_os_error(*.errno), .said.as_deref().map(|s| format!(" ({s})")).unwrap_or_default())]
pub struct KernelError {
    /// What was asked for.
    pub what: String,
    /// The error number (`libc::E…`), positive.
    pub errno: i32,
    /// The kernel's extended explanation.
    pub said: Option<String>,
}

/// Why something could not be written over netlink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made or used.
    #[error("cannot {doing} a netlink socket: {source}")]
    Socket {
        /// What was tried: open, send on, read from.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused a message.
    #[error("the kernel refused: {0}")]
    Refused(#[from] KernelError),
    /// The batch is larger than the socket's buffer, whose bound is `net.core.wmem_max`.
    #[error(
        "the rules take {bytes} bytes, more than one netlink batch may hold here; raise net.core.wmem_max to {bytes}"
    )]
    TooLarge {
        /// Size of the batch in bytes.
        bytes: usize,
    },
    /// The kernel did not acknowledge the last message.
    #[error("the kernel gave no answer to: {0}")]
    NoAnswer(String),
    /// A name or number that the kernel cannot take.
    #[error("{0}")]
    Invalid(String),
    /// A namespace could not be entered.
    #[error("cannot enter the network namespace: {0}")]
    Namespace(io::Error),
    /// A setting under `/proc/sys/net` could not be written.
    #[error("cannot write {value:?} to {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// What should have been written.
        value: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused(e) => Some(e.errno),
            _ => None,
        }
    }
}

/// Messages with their descriptions; the sequence number of a message is its index.
#[derive(Default)]
pub(crate) struct Exchange {
    writer: Writer,
    what: Vec<String>,
}

impl Exchange {
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        kind: u16,
        flags: u16,
        body: &[u8],
        attributes: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.what.len() as u32;
        self.what.push(what.into());
        self.writer.message(kind, flags, sequence, body, attributes);
    }

    /// Sends all in one datagram and reads what comes back. `acked` messages must be acknowledged.
    pub(crate) fn send(self, protocol: isize, acked: usize) -> Result<(), Error> {
        let failed = |doing| move |source| Error::Socket { doing, source };
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Older kernels explain less: neither option is needed.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let bytes = self.writer.bytes();
        if bytes.len() > 64 * 1024 {
            let _ = nix::sys::socket::setsockopt(&socket.as_fd(), sockopt::SndBuf, &(bytes.len() + 4096));
        }
        match socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
            Err(e) if e.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                return Err(Error::TooLarge { bytes: bytes.len() });
            }
            other => other.map_err(failed("send on"))?,
        };

        let mut answer: Vec<u8> = Vec::with_capacity(64 * 1024);
        let mut acks = 0;
        let mut first: Option<KernelError> = None;
        loop {
            answer.clear();
            match socket.recv(&mut answer, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // More refusals than the queue holds: the ones at hand are enough.
                Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) && first.is_some() => break,
                Err(source) => {
                    return Err(Error::Socket {
                        doing: "read from",
                        source,
                    });
                }
            }
            for message in wire::messages(&answer) {
                if message.kind != wire::NLMSG_ERROR {
                    continue;
                }
                let errno = -(wire::u32_at(message.body, 0).unwrap_or_default() as i32);
                if errno == 0 {
                    acks += 1;
                    continue;
                }
                let index = message.sequence as usize;
                let error = KernelError {
                    what: self
                        .what
                        .get(index)
                        .cloned()
                        .unwrap_or_else(|| "the whole batch".into()),
                    errno,
                    said: explanation(&message),
                };
                // The refusal of a single message says more than that of the batch around it.
                if first.as_ref().is_none_or(|f| f.errno == nix::libc::ENOBUFS) {
                    first = Some(error);
                }
            }
        }
        match first {
            Some(error) => Err(error.into()),
            None if acks < acked => Err(Error::NoAnswer(self.what.last().cloned().unwrap_or_default())),
            None => Ok(()),
        }
    }
}

/// The text of the extended acknowledgement.
fn explanation(message: &wire::Received<'_>) -> Option<String> {
    if message.flags & wire::NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = match message.flags & wire::NLM_F_CAPPED {
        0 => (wire::u32_at(message.body, 4)? as usize).next_multiple_of(4),
        _ => HEADER,
    };
    let (_, text) = wire::attributes(message.body.get(4 + request..)?)
        .find(|(kind, _)| *kind == wire::NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}
