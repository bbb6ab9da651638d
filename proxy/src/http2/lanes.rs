//! Tasks that serve one stream after the other, so that a stream needs no task of its own.
//!
//! Enters: jobs. Leaves: the same, each run by a task that is free, or by a new one. Never: a job that waits for another one's end, a task
//! that stays although none like it was needed for a while.
//!
//! A task for each stream would be made, moved and freed with all the state that a request can have. A lane keeps the room for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::spawn_local;

/// Most lanes of one kind that wait for a job.
const MOST_FREE: usize = 256;

/// What a lane does once.
pub trait Job: 'static {
    /// Does it.
    fn run(self) -> impl Future<Output = ()>;
}

/// The lanes of one thread for one kind of jobs.
#[derive(Debug)]
pub struct Lanes<J>(Rc<RefCell<State<J>>>);

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    /// Lanes that wait; the last one began to wait last.
    free: Vec<Free>,
    /// So many of the free ones were not needed since they were looked at.
    spare: usize,
    /// So many are to end.
    ending: usize,
}

/// A lane that waits.
#[derive(Debug)]
struct Free {
    waker: Waker,
    called: Rc<Cell<bool>>,
}

impl<J: Job> Lanes<J> {
    /// Runs a job, soon.
    pub fn run(&self, job: J) {
        let mut state = self.0.borrow_mut();
        state.jobs.push_back(job);
        let free = state.free.pop();
        state.spare = state.spare.min(state.free.len());
        drop(state);
        match free {
            Some(free) => free.call(),
            None => drop(spawn_local(lane(self.0.clone()))),
        }
    }

    /// Ends the lanes that were not needed since the last time.
    pub fn trim(&self) {
        let mut state = self.0.borrow_mut();
        let spare = state.spare;
        let ended: Vec<Free> = state.free.drain(..spare).collect();
        state.ending += spare;
        state.spare = state.free.len();
        drop(state);
        ended.into_iter().for_each(Free::call);
    }
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(State {
            jobs: VecDeque::new(),
            free: Vec::new(),
            spare: 0,
            ending: 0,
        })))
    }
}

impl Free {
    fn call(self) {
        self.called.set(true);
        self.waker.wake();
    }
}

impl<J> State<J> {
    /// The next job; `None`: the lane is to end. `called` is the lane's own, and true as long as it doesn't wait.
    fn poll_next(&mut self, cx: &mut Context<'_>, called: &Rc<Cell<bool>>) -> Poll<Option<J>> {
        if !called.get() {
            return Poll::Pending;
        }
        if let Some(job) = self.jobs.pop_front() {
            return Poll::Ready(Some(job));
        }
        if self.ending > 0 {
            self.ending -= 1;
            return Poll::Ready(None);
        }
        if self.free.len() >= MOST_FREE {
            return Poll::Ready(None);
        }
        called.set(false);
        self.free.push(Free {
            waker: cx.waker().clone(),
            called: called.clone(),
        });
        Poll::Pending
    }
}

async fn lane<J: Job>(state: Rc<RefCell<State<J>>>) {
    let called = Rc::new(Cell::new(true));
    while let Some(job) = poll_fn(|cx| state.borrow_mut().poll_next(cx, &called)).await {
        job.run().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use tokio::task::{Id, LocalSet, id, yield_now};

    struct Wait {
        until: oneshot::Receiver<()>,
        done: Rc<RefCell<Vec<Id>>>,
    }

    impl Job for Wait {
        async fn run(self) {
            let _ = self.until.await;
            self.done.borrow_mut().push(id());
        }
    }

    #[tokio::test]
    async fn a_lane_serves_one_job_after_the_other_and_ends_when_it_is_not_needed() {
        let test = async {
            let lanes = Lanes::default();
            let done: Rc<RefCell<Vec<Id>>> = Rc::default();
            let job = |lanes: &Lanes<Wait>| {
                let (end, until) = oneshot::channel();
                let done = done.clone();
                lanes.run(Wait { until, done });
                end
            };
            let free = |lanes: &Lanes<Wait>| lanes.0.borrow().free.len();
            let settle = async |wanted: usize| {
                while done.borrow().len() < wanted {
                    yield_now().await;
                }
                yield_now().await;
            };
            // None waits for another.
            let (first, second) = (job(&lanes), job(&lanes));
            second.send(()).unwrap();
            settle(1).await;
            first.send(()).unwrap();
            settle(2).await;
            for n in 3..=10 {
                job(&lanes).send(()).unwrap();
                settle(n).await;
            }
            let tasks: std::collections::HashSet<Id> = done.borrow().iter().copied().collect();
            assert_eq!((tasks.len(), free(&lanes)), (2, 2));
            // Of two only one was needed.
            lanes.trim();
            assert_eq!(free(&lanes), 2);
            job(&lanes).send(()).unwrap();
            settle(11).await;
            lanes.trim();
            yield_now().await;
            assert_eq!((free(&lanes), lanes.0.borrow().ending), (1, 0));
            lanes.trim();
            yield_now().await;
            assert_eq!((free(&lanes), lanes.0.borrow().ending), (0, 0));
            job(&lanes).send(()).unwrap();
            settle(12).await;
        };
        LocalSet::new().run_until(test).await;
    }
}
