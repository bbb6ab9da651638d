//! The loop of a client's HTTP/1 connection: a head, its exchange, the next head.
//!
//! Enters: the client's side. Leaves: heads to a [`Handler`], one at a time, and answers to what can't be read. Never: a
//! second reading of bytes that an exchange left over, a client that takes its time for ever over a head.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::half::Half;
use super::head::{Head, Malformed, may_be_complete};
use super::write;
use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::failure::Failure;
use crate::settings::Role;

/// How long a head may take from its first byte on.
const HEAD: Duration = Duration::from_secs(15);
/// How long a client may stay without a request.
const IDLE: Duration = Duration::from_secs(3600);
/// The same at a gateway, whose clients may be anybody: longer than load balancers keep theirs.
pub const IDLE_OUTSIDE: Duration = Duration::from_secs(650);
/// The same while the sidecar drains: callers have heard of that by then, so that none sends a request into the close.
const IDLE_DRAINING: Duration = Duration::from_secs(3);
/// How long, and for how many bytes, a connection is read on after its last answer, so that the answer isn't lost.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1 << 20);

/// What happens with the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next request may come.
    Again,
    /// Everything was said; the client may still be sending.
    Linger,
    /// It is over, and the client must not take what it has for the whole.
    Abort,
    /// It was ended in order already.
    Done,
}

/// What is done with a request. Its futures stay on their thread.
#[allow(async_fn_in_trait)]
pub trait Handler {
    /// Forwards one request and its response. Answers of its own are written to `down.output`.
    async fn handle(&mut self, down: &mut Half, head: Head, watch: &mut Watch) -> Next;

    /// A request that could not even be read was answered with a failure.
    fn unreadable(&mut self, failure: Failure);
}

/// Serves a connection to its end.
pub async fn serve(worker: &Worker, down: &mut Half, handler: &mut impl Handler, watch: &mut Watch) {
    loop {
        let next = match read_head(worker, down, watch).await {
            // A request's state is large, and exists only while there is one: an idle connection holds none of it.
            Ok(Some(head)) => Box::pin(handler.handle(down, head, watch)).await,
            Ok(None) => Next::Done,
            Err(failure) => {
                handler.unreadable(failure);
                refuse(down, failure);
                Next::Linger
            }
        };
        match next {
            Next::Again => {}
            Next::Linger => return Box::pin(linger(down)).await,
            Next::Abort => return down.io.reset_on_close(),
            Next::Done => {
                let _ = Box::pin(timeout(LINGER.0, poll_fn(|cx| down.poll_finish(cx)))).await;
                return;
            }
        }
    }
}

/// Writes a failure's answer, which is the connection's last.
pub fn refuse(down: &mut Half, failure: Failure) {
    if let Some(status) = failure.status() {
        write::answer(&mut down.output, status, failure.text(), true, false, None);
    }
}

/// The next head; `None`: the client, or the sidecar, ends the connection between two requests.
async fn read_head(worker: &Worker, down: &mut Half, watch: &mut Watch) -> Result<Option<Head>, Failure> {
    let mut seen = 0;
    let mut deadline = None;
    poll_fn(|cx| poll_head(cx, worker, down, watch, &mut seen, &mut deadline)).await
}

fn poll_head(
    cx: &mut Context<'_>,
    worker: &Worker,
    down: &mut Half,
    watch: &mut Watch,
    seen: &mut usize,
    deadline: &mut Option<(Instant, Duration)>,
) -> Poll<Result<Option<Head>, Failure>> {
    loop {
        if down.input.len() > *seen {
            let bytes = down.input.bytes();
            if may_be_complete(bytes, *seen).map_err(Failure::Head)?
                && let Some((head, length)) = Head::request(bytes).map_err(Failure::Head)?
            {
                down.input.consume(length);
                return Poll::Ready(Ok(Some(head)));
            }
            *seen = bytes.len();
            if down.input.is_full() && !down.input.grow() {
                return Poll::Ready(Err(Failure::Head(Malformed::TooLarge)));
            }
        }
        if !down.is_flushed() && ready!(down.poll_flush(cx)).is_err() {
            return Poll::Ready(Ok(None));
        }
        match down.poll_fill(cx) {
            Poll::Ready(Ok(1..)) => continue,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
            Poll::Pending => {}
        }
        let idle = down.input.is_empty();
        while watch.watcher.poll_changed(cx).is_ready() {}
        if worker.stage() == Stage::Ended {
            return Poll::Ready(Ok(None));
        }
        // The wait for a first byte is long and begins anew with every request: the connection's timer is set once, and
        // looks again when it fires.
        let limit = match (idle, worker.stage()) {
            (true, Stage::Running) => match worker.shared.settings.role {
                Role::Sidecar => IDLE,
                Role::Gateway => IDLE_OUTSIDE,
            },
            (true, _) => IDLE_DRAINING,
            (false, _) => HEAD,
        };
        let until = match *deadline {
            Some((until, same)) if same == limit => until,
            _ => deadline.insert((Instant::now() + limit, limit)).0,
        };
        ready!(watch.alarm.poll_at(cx, until));
        return Poll::Ready(if idle { Ok(None) } else { Err(Failure::HeadTimeout) });
    }
}

/// Says the last words, and reads on for a moment: closing with unread bytes would make the kernel reset the connection
/// and the client lose the answer.
async fn linger(down: &mut Half) {
    let last_words = async {
        poll_fn(|cx| down.poll_finish(cx)).await?;
        let mut left = LINGER.1;
        while left > 0 {
            down.input.consume(down.input.len());
            let read = poll_fn(|cx| down.poll_fill(cx)).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER.0, last_words).await;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::accept::Accepted;
    use crate::context::Worker;
    use crate::{inbound, outbound};

    /// What a task of this kind takes, for as long as its connection is open.
    fn size<F>(_: impl Fn(Rc<Worker>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_takes_little() {
        let sizes = (size(outbound::serve), size(inbound::serve));
        // What a request, a handshake or another protocol needs is apart, and only there while it is needed.
        assert!(sizes.0 <= 1_536 && sizes.1 <= 1_792, "{sizes:?}");
    }
}
