//! The side that begins streams.
//!
//! Enters: a connection to another sidecar. Leaves: streams. Never: a stream before the other side's application is
//! connected: whoever gets [`NotOpened`] may go elsewhere, whatever the reason.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::driver::Driver;
use super::frame::{Refusal, Reset};
use super::state::{Over, Side, State};
use super::stream::TunnelStream;

/// Why a stream was not opened. Nothing of it has reached an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// The other side says no.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// The tunnel is closed or broke.
    #[error("the tunnel is gone")]
    Gone,
    /// The other side doesn't answer.
    #[error("the other side does not answer")]
    Silent,
}

/// Opens streams in one tunnel. When it is dropped, the tunnel ends with its last stream.
pub struct Opener(Rc<RefCell<State>>);

/// A stream that is being opened. Dropping it gives it up.
#[must_use = "a stream is opened by waiting for it"]
pub struct Opening {
    state: Rc<RefCell<State>>,
    id: Result<Option<u32>, NotOpened>,
}

/// The opening end of a tunnel over a fresh connection, and the task that moves its bytes.
pub fn client<IO: AsyncBufRead + AsyncWrite + Unpin>(io: IO) -> (Opener, Driver<IO>) {
    let state = Rc::new(RefCell::new(State::new(Side::Opener)));
    (Opener(state.clone()), Driver::new(io, Side::Opener, state))
}

impl Opener {
    /// Asks for a stream at once; the future waits for the answer.
    pub fn open(&self) -> Opening {
        let id = self.0.borrow_mut().open().map(Some);
        Opening {
            state: self.0.clone(),
            id,
        }
    }

    /// Streams that are open or being opened.
    pub fn streams(&self) -> usize {
        self.0.borrow().count()
    }

    /// Bytes that wait to be written.
    pub fn backlog(&self) -> usize {
        self.0.borrow().backlog()
    }

    /// No new stream can be opened: the tunnel is over, or will be with its last stream.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().is_leaving()
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.borrow_mut().leave();
    }
}

impl Future for Opening {
    type Output = Result<TunnelStream, NotOpened>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(id) = this.id? else {
            return Poll::Ready(Err(NotOpened::Gone));
        };
        ready!(this.state.borrow_mut().poll_opened(id, cx))?;
        this.id = Ok(None);
        Poll::Ready(Ok(TunnelStream::new(this.state.clone(), id)))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Ok(Some(id)) = self.id {
            self.state.borrow_mut().release(id, Reset::Broken);
        }
    }
}

impl From<Over> for NotOpened {
    fn from(over: Over) -> Self {
        match over {
            Over::Gone => Self::Gone,
            Over::Silent => Self::Silent,
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("streams", &self.streams())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
