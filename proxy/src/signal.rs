//! Tells every connection of a worker that something changed: the view, or the drain's stage.
//!
//! Enters: a bump. Leaves: a wake-up of every task that watches. Never: an atomic, a lock or an allocation when nothing
//! changed; what changed is for the watcher to look up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The bell of one worker thread.
#[derive(Debug, Default)]
pub struct Signal {
    count: Cell<u64>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One listener of a [`Signal`].
#[derive(Debug)]
pub struct Watcher {
    signal: Rc<Signal>,
    slot: usize,
    seen: u64,
}

impl Signal {
    /// Wakes every watcher.
    pub fn bump(&self) {
        self.count.set(self.count.get() + 1);
        // Woken tasks run later, so that nobody touches the slots meanwhile.
        for waker in self.slots.borrow_mut().wakers.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// A watcher that hears of bumps from now on.
    pub fn watch(self: &Rc<Self>) -> Watcher {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        Watcher {
            signal: self.clone(),
            slot,
            seen: self.count.get(),
        }
    }
}

impl Watcher {
    /// Ready once after each bump (several may count as one).
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let count = self.signal.count.get();
        if count != self.seen {
            self.seen = count;
            return Poll::Ready(());
        }
        let waker = &mut self.signal.slots.borrow_mut().wakers[self.slot];
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Returns after the next bump.
    pub async fn changed(&mut self) {
        std::future::poll_fn(|cx| self.poll_changed(cx)).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut slots = self.signal.slots.borrow_mut();
        slots.wakers[self.slot] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bump_is_heard_once_by_each() {
        let signal = Rc::new(Signal::default());
        let mut cx = Context::from_waker(Waker::noop());
        let (mut one, mut two) = (signal.watch(), signal.watch());
        assert!(one.poll_changed(&mut cx).is_pending());
        signal.bump();
        signal.bump();
        assert!(one.poll_changed(&mut cx).is_ready());
        assert!(one.poll_changed(&mut cx).is_pending());
        assert!(two.poll_changed(&mut cx).is_ready());
        drop(one);
        assert!(signal.watch().poll_changed(&mut cx).is_pending());
    }
}
