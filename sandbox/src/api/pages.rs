//! Long lists in pieces: `limit` and `continue`.
//!
//! In: a list and where to go on. Out: a page, and a token for the next. A list is kept as it was when its first page was made,
//! so that pages fit together. Never: lists kept without end: the oldest goes, and its token is answered with 410.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::refusal::Refusal;

/// Most lists kept.
const MOST: usize = 64;

/// A list on the way out.
#[derive(Debug)]
struct Kept {
    id: u64,
    place: String,
    version: u64,
    objects: Vec<Arc<Value>>,
}

/// The lists that are on the way out.
#[derive(Debug, Default)]
pub(super) struct Pages {
    kept: Mutex<VecDeque<Kept>>,
}

/// One page.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub objects: Vec<Arc<Value>>,
    /// The version that the whole list is as of.
    pub version: u64,
    /// Where to go on; empty at the end.
    pub next: String,
    /// How many are left after this page.
    pub left: usize,
}

impl Pages {
    /// The first `limit` objects of a list. `place` says what is listed.
    pub(super) fn first(&self, place: &str, objects: Vec<Arc<Value>>, version: u64, limit: usize) -> Page {
        if limit == 0 || objects.len() <= limit {
            return Page {
                objects,
                version,
                next: String::new(),
                left: 0,
            };
        }
        let page = objects[..limit].to_vec();
        let left = objects.len() - limit;
        let id = rand::random();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(Kept {
            id,
            place: place.to_owned(),
            version,
            objects,
        });
        if kept.len() > MOST {
            kept.pop_front();
        }
        Page {
            objects: page,
            version,
            next: format!("{id:x}.{limit}"),
            left,
        }
    }

    /// The page that a token stands for.
    ///
    /// # Errors
    /// 410 where the list is not kept any more, 400 where the token is none of ours.
    pub(super) fn next(&self, place: &str, token: &str, limit: usize) -> Result<Page, Refusal> {
        let bad = || Refusal::bad_request("continue key is not valid");
        let (id, from) = token.split_once('.').ok_or_else(bad)?;
        let id = u64::from_str_radix(id, 16).map_err(|_| bad())?;
        let from: usize = from.parse().map_err(|_| bad())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept
            .iter()
            .position(|k| k.id == id)
            .ok_or_else(Refusal::expired)?;
        if kept[at].place != place || from > kept[at].objects.len() {
            return Err(bad());
        }
        let rest = &kept[at].objects[from..];
        let take = if limit == 0 {
            rest.len()
        } else {
            limit.min(rest.len())
        };
        let page = Page {
            objects: rest[..take].to_vec(),
            version: kept[at].version,
            next: if take < rest.len() {
                format!("{id:x}.{}", from + take)
            } else {
                String::new()
            },
            left: rest.len() - take,
        };
        if page.next.is_empty() {
            kept.remove(at);
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<Arc<Value>> {
        (0..count).map(|n| Arc::new(n.into())).collect()
    }

    #[test]
    fn pages_fit_together() {
        let pages = Pages::default();
        let first = pages.first("pods", numbers(5), 7, 2);
        assert_eq!((first.objects.len(), first.left, first.version), (2, 3, 7));
        let second = pages.next("pods", &first.next, 2).unwrap();
        assert_eq!((&*second.objects[0], second.left), (&Value::from(2), 1));
        assert!(
            pages.next("nodes", &second.next, 2).is_err(),
            "another list's token"
        );
        let last = pages.next("pods", &second.next, 2).unwrap();
        assert_eq!((last.objects.len(), last.next.as_str()), (1, ""));
        assert_eq!(pages.next("pods", &second.next, 2).unwrap_err().code, 410);
        assert_eq!(pages.next("pods", "nonsense", 2).unwrap_err().code, 400);
        assert_eq!(pages.first("pods", numbers(2), 7, 2).next, "");
    }

    #[test]
    fn the_oldest_list_goes() {
        let pages = Pages::default();
        let first = pages.first("pods", numbers(3), 1, 1);
        for _ in 0..MOST {
            pages.first("pods", numbers(3), 1, 1);
        }
        assert_eq!(pages.next("pods", &first.next, 1).unwrap_err().code, 410);
    }
}
