//! Which streams asked for a resource by its name: who must hear of a change, and who needn't look.
//!
//! Enters: names that streams ask for and give up. Leaves: streams, woken. Never: a stream that misses what it asked for: it asks here first and looks
//! at the newest catalog then, and a catalog is published first and streams are looked for then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use weft_proto::resource::Kind;

/// Streams by what they asked for.
#[derive(Debug, Default)]
pub struct Users(HashMap<(Kind, Arc<str>), BTreeMap<u64, Arc<Notify>>>);

/// Names that one stream asked for; they are the same texts as those of all others.
pub type Used = BTreeMap<Kind, BTreeSet<Arc<str>>>;

impl Users {
    /// A stream asks for a resource, or for one that isn't there yet.
    pub fn add(&mut self, kind: Kind, name: &str, id: u64, wake: &Arc<Notify>, used: &mut Used) {
        let asked = (kind, Arc::from(name));
        let (kind, name) = self
            .0
            .get_key_value(&asked)
            .map_or(asked.clone(), |(known, _)| known.clone());
        if used.entry(kind).or_default().insert(name.clone()) {
            let users = self.0.entry((kind, name)).or_default();
            users.insert(id, wake.clone());
        }
    }

    /// A stream gives a resource up.
    pub fn remove(&mut self, kind: Kind, name: &str, id: u64, used: &mut Used) {
        if let Some(name) = used.get_mut(&kind).and_then(|used| used.take(name)) {
            self.forget(kind, name, id);
        }
    }

    /// A stream ends.
    pub fn leave(&mut self, id: u64, used: Used) {
        for (kind, names) in used {
            names.into_iter().for_each(|name| self.forget(kind, name, id));
        }
    }

    fn forget(&mut self, kind: Kind, name: Arc<str>, id: u64) {
        let key = (kind, name);
        if let Some(users) = self.0.get_mut(&key) {
            users.remove(&id);
            if users.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Wakes whoever asked for one of these.
    pub fn wake<'c>(&self, changes: impl Iterator<Item = &'c (Kind, Arc<str>)>) {
        for change in changes {
            for wake in self.0.get(change).into_iter().flatten().map(|(_, wake)| wake) {
                wake.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    /// Whether it was woken since it was last asked.
    fn woken(wake: &Notify) -> bool {
        let notified = pin!(wake.notified());
        notified.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_asked_is_woken_and_nobody_else() {
        let mut users = Users::default();
        let (one, other) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (mut used_by_one, mut used_by_other) = (Used::new(), Used::new());
        users.add(Kind::Endpoints, "shop/web", 1, &one, &mut used_by_one);
        users.add(Kind::Endpoints, "shop/web", 1, &one, &mut used_by_one);
        users.add(Kind::Routes, "shop/web", 1, &one, &mut used_by_one);
        users.add(Kind::Endpoints, "shop/cart", 2, &other, &mut used_by_other);
        let changed = |kind, name: &str| [(kind, Arc::<str>::from(name))];
        for (kind, name, expected) in [
            (Kind::Endpoints, "shop/web", [true, false]),
            (Kind::Endpoints, "shop/cart", [false, true]),
            (Kind::Routes, "shop/cart", [false, false]),
            (Kind::Endpoints, "shop/none", [false, false]),
        ] {
            users.wake(changed(kind, name).iter());
            assert_eq!([woken(&one), woken(&other)], expected, "{kind:?} {name}");
        }
        users.remove(Kind::Endpoints, "shop/web", 1, &mut used_by_one);
        users.remove(Kind::Endpoints, "shop/cart", 1, &mut used_by_one);
        users.wake(changed(Kind::Endpoints, "shop/web").iter());
        assert!(!woken(&one));
        users.leave(1, used_by_one);
        users.leave(2, used_by_other);
        assert!(users.0.is_empty());
    }
}
