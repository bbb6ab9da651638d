//! What connections need to know and don't.
//!
//! Enters: from the data-plane threads, names and addresses that somebody calls. Leaves: to the control thread, each of them once.
//! Never: an unbounded number of them, a long wait while there is nobody to answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rapidhash::{RapidHashMap, RapidHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::view::Wanted;

/// How long a connection waits for an answer of the control plane.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the stream may be away before nobody waits for it: a replica that is replaced is back sooner.
const AWAY: Duration = Duration::from_secs(10);
/// For how long nobody waits for what was not answered.
const DOUBT: Duration = Duration::from_secs(5);
/// Most that may be asked for at once.
const MAX_ASKED: usize = 4_096;

/// The handle of both sides. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Demand(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug)]
struct State {
    asked: RapidHashSet<Wanted>,
    /// What was not answered, and when.
    doubted: RapidHashMap<Wanted, Instant>,
    /// What was answered with something that can't be used.
    refused: RapidHashSet<Wanted>,
    /// Since when there is no stream.
    away: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            asked: RapidHashSet::default(),
            doubted: RapidHashMap::default(),
            refused: RapidHashSet::default(),
            away: Some(Instant::now()),
        }
    }
}

impl Demand {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something; the answer is in a later view.
    pub fn ask(&self, wanted: Wanted) {
        let mut state = self.lock();
        if state.asked.len() < MAX_ASKED && state.asked.insert(wanted) {
            drop(state);
            self.0.bell.notify_one();
        }
    }

    /// How long a wait for an answer makes sense.
    pub fn patience(&self, wanted: &Wanted) -> Duration {
        let state = self.lock();
        let away = state.away.is_some_and(|since| since.elapsed() >= AWAY);
        let doubted = state.doubted.get(wanted).is_some_and(|at| at.elapsed() < DOUBT);
        if away || doubted { Duration::ZERO } else { PATIENCE }
    }

    /// Somebody waited for an answer and there was none: the next ones fail sooner.
    pub fn unanswered(&self, wanted: &Wanted) {
        let mut state = self.lock();
        state.doubted.retain(|_, at| at.elapsed() < DOUBT);
        if state.doubted.len() < MAX_ASKED {
            state.doubted.entry(wanted.clone()).or_insert_with(Instant::now);
        }
    }

    /// The last answer can't be used (`true`), or can: nobody waits for what can't.
    pub(super) fn refused(&self, wanted: Wanted, refused: bool) {
        let mut state = self.lock();
        if !refused {
            state.refused.remove(&wanted);
        } else if state.refused.len() < MAX_ASKED {
            state.refused.insert(wanted);
        }
    }

    /// Whether the last answer can't be used.
    pub fn is_refused(&self, wanted: &Wanted) -> bool {
        self.lock().refused.contains(wanted)
    }

    /// The stream is open, or not any more.
    pub(super) fn connected(&self, connected: bool) {
        let mut state = self.lock();
        match (connected, state.away) {
            (true, _) => {
                state.away = None;
                state.doubted.clear();
            }
            (false, None) => state.away = Some(Instant::now()),
            (false, Some(_)) => {}
        }
    }

    /// Waits until there is something, and takes it.
    pub(super) async fn next(&self) -> Vec<Wanted> {
        loop {
            let asked = self.take();
            if !asked.is_empty() {
                return asked;
            }
            self.0.bell.notified().await;
        }
    }

    /// What was asked for since the last time.
    pub(super) fn take(&self) -> Vec<Wanted> {
        self.lock().asked.drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_is_passed_on_once_and_nobody_waits_for_the_dead() {
        let demand = Demand::default();
        let wanted = Wanted::Pod("10.244.1.5".parse().unwrap());
        demand.ask(wanted.clone());
        demand.ask(wanted.clone());
        assert_eq!(demand.next().await, std::slice::from_ref(&wanted));
        assert_eq!(demand.patience(&wanted), PATIENCE);
        tokio::time::advance(AWAY).await;
        assert_eq!(demand.patience(&wanted), Duration::ZERO);
        demand.connected(true);
        demand.unanswered(&wanted);
        assert_eq!(demand.patience(&wanted), Duration::ZERO);
        assert_eq!(
            demand.patience(&Wanted::Pod("10.244.1.6".parse().unwrap())),
            PATIENCE
        );
        tokio::time::advance(AWAY).await;
        assert_eq!(demand.patience(&wanted), PATIENCE);
        demand.connected(false);
        demand.connected(false);
        assert_eq!(demand.patience(&wanted), PATIENCE);
        tokio::time::advance(AWAY).await;
        assert_eq!(demand.patience(&wanted), Duration::ZERO);
    }

    #[test]
    fn questions_are_bounded() {
        let demand = Demand::default();
        for n in 0..u32::try_from(MAX_ASKED).unwrap() + 10 {
            demand.ask(Wanted::Pod(std::net::Ipv4Addr::from(n).into()));
        }
        assert_eq!(demand.take().len(), MAX_ASKED);
        assert_eq!(demand.take(), []);
    }
}
