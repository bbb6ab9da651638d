//! Copies of requests, whose answers nobody waits for.
//!
//! Enters: a request as it was sent, whole. Leaves: the same to another destination. Never: a request that waits for its copy or fails
//! with it; more copies at once than a bound, or a copy of a part of a body: then there is none, and that is counted.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use weft_engine::{Class, Wish, retry};

use super::backend::destination;
use crate::context::Worker;
use crate::upstream::call::{Ask, Target};
use weft_proto::model::Mirror;

/// Over HTTP/1.
pub mod http1;
/// Over HTTP/2.
pub mod http2;

/// Copies of one thread that are under way at once.
const MOST: usize = 128;
/// How long one may take.
const LONGEST: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read to keep the connection.
const DRAINED: usize = 64 * 1024;

/// Copies of one thread that are under way.
#[derive(Debug, Default)]
pub struct Copies(Rc<Cell<usize>>);

/// The right to send one copy.
#[derive(Debug)]
pub struct Slot {
    /// Where to.
    pub target: Target,
    count: Rc<Cell<usize>>,
}

impl Slot {
    /// For a copy to a mirror. `None`: the mirror can't be used, or too many copies are under way; counted.
    pub fn take(worker: &Worker, mirror: &Mirror) -> Option<Self> {
        let count = &worker.copies.0;
        let target = destination(worker, &mirror.backend).filter(|_| count.get() < MOST);
        let Some(target) = target else {
            skipped(worker);
            return None;
        };
        count.set(count.get() + 1);
        Some(Self {
            target,
            count: count.clone(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

/// A copy was not made.
pub fn skipped(worker: &Worker) {
    worker.shared.telemetry.own().refused("mirror-skipped");
}

/// What copies ask: nothing is owed to anybody, so that nothing is tried again.
fn ask() -> Ask<'static> {
    static NONE: LazyLock<retry::Policy> =
        LazyLock::new(|| retry::Policy::compile(Some(&Default::default())));
    Ask {
        class: Class::Unsafe,
        wish: Wish::default(),
        retries: &NONE,
    }
}
