//! Turns to connect: how many new connections to one endpoint a thread makes at once.
//!
//! Enters: an address. Leaves: a turn, when fewer than [`AT_ONCE`] connections to it are being made; or word that a kept one has come back, which
//! is better. Never: more handshakes than that at once, however many requests come from a place that has just died: each
//! would take its share of both processors, and all of them would be late.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use rapidhash::RapidHashMap;
use tokio::sync::Notify;

/// Connections to one endpoint that a thread makes at once.
const AT_ONCE: u32 = 8;

/// The turns of one thread.
#[derive(Debug, Default)]
pub struct Turns(RefCell<RapidHashMap<SocketAddr, Rc<Line>>>);

/// Connections to one endpoint that are being made, and who waits for one.
#[derive(Debug, Default)]
struct Line {
    making: Cell<u32>,
    waiting: Cell<u32>,
    freed: Notify,
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    address: SocketAddr,
    line: Rc<Line>,
}

/// One who waits.
#[derive(Debug)]
pub struct Waiter<'a> {
    turns: &'a Turns,
    address: SocketAddr,
    line: Rc<Line>,
}

impl Turns {
    /// A turn, or the line to wait in.
    ///
    /// # Errors
    /// None is free.
    pub fn take(&self, address: SocketAddr) -> Result<Turn<'_>, Waiter<'_>> {
        let line = self.0.borrow_mut().entry(address).or_default().clone();
        if line.making.get() < AT_ONCE {
            line.making.set(line.making.get() + 1);
            return Ok(Turn {
                turns: self,
                address,
                line,
            });
        }
        line.waiting.set(line.waiting.get() + 1);
        Err(Waiter {
            turns: self,
            address,
            line,
        })
    }

    /// A connection to `address` is there for the next request.
    pub fn is_back(&self, address: SocketAddr) {
        if let Some(line) = self.0.borrow().get(&address)
            && line.waiting.get() > 0
        {
            line.freed.notify_one();
        }
    }

    fn forget(&self, address: SocketAddr, line: &Line) {
        if line.making.get() == 0 && line.waiting.get() == 0 {
            self.0.borrow_mut().remove(&address);
        }
    }
}

impl Waiter<'_> {
    /// Ends when it is worth to look again.
    pub async fn freed(&self) {
        self.line.freed.notified().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.line.waiting.set(self.line.waiting.get() - 1);
        // Who leaves may have been told of what is for the next.
        if self.line.waiting.get() > 0 && self.line.making.get() < AT_ONCE {
            self.line.freed.notify_one();
        }
        self.turns.forget(self.address, &self.line);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.line.making.set(self.line.making.get() - 1);
        if self.line.waiting.get() > 0 {
            self.line.freed.notify_one();
        }
        self.turns.forget(self.address, &self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_at_once_and_the_next_when_one_is_done() {
        let (turns, address) = (Turns::default(), SocketAddr::from(([10, 0, 0, 1], 80)));
        let mut held: Vec<_> = (0..AT_ONCE).map(|_| turns.take(address).unwrap()).collect();
        let other = SocketAddr::from(([10, 0, 0, 2], 80));
        drop(turns.take(other).unwrap());
        let waiter = turns.take(address).unwrap_err();
        held.pop();
        waiter.freed().await;
        drop(waiter);
        held.push(turns.take(address).unwrap());
        let waiter = turns.take(address).unwrap_err();
        turns.is_back(address);
        waiter.freed().await;
        drop(waiter);
        held.clear();
        assert!(turns.0.borrow().is_empty(), "{turns:?}");
    }
}
