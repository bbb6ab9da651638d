//! Which objects need a look, each at most once at a time.
//!
//! In: changes, and what they mean for which objects. Out: calls, at most one per object at a time, again later
//! where one failed. Never: a change missed: one that comes during a call causes another call.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::store::{Event, Store};
use crate::api::{Api, Refusal, object};

/// Namespace and name.
pub type Key = (String, String);

/// Most calls at once.
const AT_ONCE: usize = 16;
/// First and last pause before a failed call is made again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// When to look at an object again by itself; none: when it changes.
pub type Outcome = Result<Option<Duration>, Refusal>;

#[derive(Default)]
struct Queue {
    ready: VecDeque<Key>,
    waiting: HashSet<Key>,
    active: HashSet<Key>,
    dirty: HashSet<Key>,
    failures: HashMap<Key, u32>,
    later: BTreeMap<(Instant, Key), ()>,
}

impl Queue {
    fn add(&mut self, key: Key) {
        if self.active.contains(&key) {
            self.dirty.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn next(&mut self) -> Option<Key> {
        if self.active.len() >= AT_ONCE {
            return None;
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.active.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: Key, outcome: &Outcome) {
        self.active.remove(&key);
        let pause = match outcome {
            Ok(again) => {
                self.failures.remove(&key);
                *again
            }
            Err(_) => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                Some((BACK_OFF.0 * 2_u32.pow((*failures - 1).min(10))).min(BACK_OFF.1))
            }
        };
        if self.dirty.remove(&key) && outcome.is_ok() {
            self.add(key);
        } else if let Some(pause) = pause {
            self.later.insert((Instant::now() + pause, key), ());
        }
    }

    fn due(&mut self) {
        let now = Instant::now();
        while let Some(((at, _), ())) = self.later.first_key_value() {
            if *at > now {
                return;
            }
            if let Some(((_, key), ())) = self.later.pop_first() {
                self.add(key);
            }
        }
    }
}

/// Looks at every object of `kind`, and again whenever `concerns` says that a change touches it.
pub async fn run<C, R, F>(api: Arc<Api>, kind: &'static str, concerns: C, reconcile: R)
where
    C: Fn(&Store, &Event) -> Vec<Key>,
    R: Fn(Arc<Api>, Key) -> F,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut queue = Queue::default();
    let mut watch = api.store.watch();
    let mut tasks = JoinSet::new();
    let all = |queue: &mut Queue| {
        for object in api.store.list(kind, None).0 {
            queue.add(key_of(&object));
        }
    };
    all(&mut queue);
    loop {
        while let Some(key) = queue.next() {
            let work = reconcile(Arc::clone(&api), key.clone());
            tasks.spawn(async move { (key, work.await) });
        }
        let next = queue.later.first_key_value().map(|((at, _), ())| *at);
        tokio::select! {
            events = watch.next() => match events {
                Ok(events) => {
                    for event in events {
                        for key in concerns(&api.store, &event) {
                            queue.add(key);
                        }
                    }
                }
                Err(_) => {
                    watch = api.store.watch();
                    all(&mut queue);
                }
            },
            Some(done) = tasks.join_next() => match done {
                Ok((key, outcome)) => {
                    if let Err(refusal) = &outcome {
                        tracing::debug!("{kind} {}/{}: {refusal}", key.0, key.1);
                    }
                    queue.done(key, &outcome);
                }
                Err(e) => tracing::error!("a controller of {kind} failed: {e}"),
            },
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => queue.due(),
        }
    }
}

/// Namespace and name of an object.
pub fn key_of(of: &serde_json::Value) -> Key {
    (object::namespace(of).to_owned(), object::name(of).to_owned())
}

/// The object of `kind` that controls this one.
pub fn owner(store: &Store, kind: &str, of: &serde_json::Value) -> Option<Key> {
    let uid = object::controller_uid(of)?;
    let owners = of.pointer("/metadata/ownerReferences")?.as_array()?;
    let name = owners.iter().find(|o| o["uid"] == uid)?["name"].as_str()?;
    let found = store.get(kind, object::namespace(of), name)?;
    (object::uid(&found) == uid).then(|| key_of(&found))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_once_at_a_time_and_again_after_failures() {
        let api = Api::new("/nonexistent".into()).unwrap();
        api.store
            .create("configmaps", json!({"metadata": {"namespace": "a", "name": "x"}}))
            .unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let reconcile = move |_, key: Key| {
            let (tell, calls) = (tell.clone(), Arc::clone(&calls));
            async move {
                let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tell.send((key.1, call)).unwrap();
                if call < 2 {
                    Err(Refusal::internal("not yet"))
                } else {
                    Ok(None)
                }
            }
        };
        let concerns = |_: &Store, e: &Event| vec![key_of(&e.object)];
        let task = tokio::spawn(run(Arc::clone(&api), "configmaps", concerns, reconcile));
        for call in 0..3 {
            assert_eq!(told.recv().await.unwrap(), ("x".to_owned(), call));
        }
        api.store
            .create("configmaps", json!({"metadata": {"namespace": "a", "name": "y"}}))
            .unwrap();
        assert_eq!(told.recv().await.unwrap(), ("y".to_owned(), 3));
        task.abort();
    }
}
