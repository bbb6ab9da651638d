//! Connections that have not said yet what they want.
//!
//! Enters: what is waited for on each of them. Leaves: the same, or nothing where others needed the place. Never: more of them than the
//! bound; a new one refused while an old one still says nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::Notify;

/// Most connections of a thread before their first request or the end of their handshake.
pub const MOST: usize = 2_048;

/// The connections of one thread, the oldest first.
#[derive(Debug, Default)]
pub struct Waiting {
    list: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
}

impl Waiting {
    /// Waits for what a client does first; `None`: too many came since, and it is the oldest that did nothing.
    pub async fn during<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let number = self.next.get();
        self.next.set(number + 1);
        let bell = Rc::new(Notify::new());
        self.list.borrow_mut().insert(number, bell.clone());
        let _place = Place { of: self, number };
        self.make_room();
        tokio::select! {
            biased;
            done = wait => Some(done),
            () = bell.notified() => None,
        }
    }

    fn make_room(&self) {
        let mut list = self.list.borrow_mut();
        while list.len() > MOST {
            match list.pop_first() {
                Some((_, bell)) => bell.notify_one(),
                None => return,
            }
        }
    }
}

/// A place in the list, given back when it is dropped.
struct Place<'a> {
    of: &'a Waiting,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.list.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let waiting = Rc::new(Waiting::default());
        assert_eq!(waiting.during(ready(1)).await, Some(1));
        let first = waiting.during(pending::<()>());
        tokio::pin!(first);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let mut others: Vec<_> = (0..MOST - 1)
            .map(|_| Box::pin(waiting.during(pending::<()>())))
            .collect();
        for other in &mut others {
            assert!(futures_util::poll!(other.as_mut()).is_pending());
        }
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let mut last = Box::pin(waiting.during(pending::<()>()));
        assert!(futures_util::poll!(last.as_mut()).is_pending());
        assert_eq!(first.await, None);
        assert!(futures_util::poll!(last.as_mut()).is_pending());
        drop(others);
        assert_eq!(waiting.list.borrow().len(), 1);
    }
}
