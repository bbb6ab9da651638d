//! Which ports are open.
//!
//! Enters: from each data-plane thread, ports that it could bind or couldn't. Leaves: to readiness and people, how they stand. Never: a
//! wait of a thread for another.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::table::Table;

/// The ports of all threads. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ports: Mutex<BTreeMap<u16, State>>,
    /// Every port of some configuration was open.
    begun: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Threads that listen.
    listening: usize,
    /// What the system said to the last one that couldn't.
    error: Option<String>,
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, State>> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thread listens on a port.
    pub fn opened(&self, port: u16) {
        let mut doors = self.lock();
        let state = doors.entry(port).or_default();
        state.listening += 1;
        state.error = None;
    }

    /// A thread doesn't listen any more.
    pub fn closed(&self, port: u16) {
        let mut doors = self.lock();
        if let Some(state) = doors.get_mut(&port) {
            state.listening = state.listening.saturating_sub(1);
            if state.listening == 0 {
                doors.remove(&port);
            }
        }
    }

    /// A thread can't listen. `true`: this is news.
    pub fn failed(&self, port: u16, error: &io::Error) -> bool {
        let mut doors = self.lock();
        let state = doors.entry(port).or_default();
        state.error.replace(error.to_string()).is_none()
    }

    /// Nobody tries a port any more.
    pub fn given_up(&self, port: u16) {
        let mut doors = self.lock();
        if doors.get(&port).is_some_and(|state| state.listening == 0) {
            doors.remove(&port);
        }
    }

    /// Whether `threads` threads listen on a port.
    pub fn is_open(&self, port: u16, threads: usize) -> bool {
        self.lock()
            .get(&port)
            .is_some_and(|state| state.listening >= threads)
    }

    /// Why a port isn't open, if the system said so.
    pub fn error(&self, port: u16) -> Option<String> {
        self.lock().get(&port)?.error.clone()
    }

    /// Why a gateway can't begin to serve `table`; `None`: every port is open, or was once: what one port lacks later doesn't take the
    /// others away.
    pub fn missing(&self, table: &Table, threads: usize) -> Option<String> {
        if self.0.begun.load(Ordering::Relaxed) {
            return None;
        }
        let Some(port) = table.ports().find(|port| !self.is_open(port.bind, threads)) else {
            self.0.begun.store(true, Ordering::Relaxed);
            return None;
        };
        Some(match self.error(port.bind) {
            Some(error) => format!(
                "port {} can't be opened: {error}; change the Service's targetPort or stop what uses it",
                port.bind
            ),
            None => format!("port {} is not open yet", port.bind),
        })
    }

    /// How many ports can't be opened.
    pub fn failures(&self) -> usize {
        self.lock().values().filter(|state| state.error.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_open_when_all_threads_listen() {
        let doors = Doors::default();
        doors.opened(8080);
        assert!(!doors.is_open(8080, 2));
        let error = io::Error::from(io::ErrorKind::AddrInUse);
        assert!(doors.failed(8080, &error));
        assert!(!doors.failed(8080, &error));
        assert_eq!(doors.failures(), 1);
        doors.opened(8080);
        assert!(doors.is_open(8080, 2));
        assert_eq!((doors.error(8080), doors.failures()), (None, 0));
        doors.closed(8080);
        doors.closed(8080);
        assert!(!doors.is_open(8080, 1));
        doors.failed(80, &error);
        doors.given_up(80);
        assert_eq!(doors.failures(), 0);
    }
}
