//! Answers that are given again: a ReplicaSet's pods are the same but for a name, and are judged once.
//!
//! In: the bytes of a review, and the answer that judging it led to. Out: that answer, to the next review of a pod that is the same in everything
//! that is judged, from the third on. Such pods come by the hundred at a moment when it matters: a Deployment is scaled, or a zone's pods are made anew elsewhere.
//! Never: an answer to a pod that differs in anything else than what [`Asked`] leaves out, or more memory than [`BYTES`].

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeSeed};
use serde_json::value::RawValue;

use crate::admit::{self, Reply};

/// Most bytes of all answers and their keys.
pub const BYTES: usize = 4 * 1024 * 1024;
/// A longer review, in bytes, is judged each time: there are few such pods.
pub const LONGEST: usize = 64 * 1024;
/// Hashes of what was asked that are remembered.
const SEEN: usize = 4096;

/// API servers mount a token into every pod, by a volume of this name and five random characters.
const TOKEN_VOLUME: &[u8] = b"kube-api-access-";
/// How many characters are random.
const RANDOM: usize = 5;
/// Stands between texts, and for what is left out: it is in no JSON text, nor in a name without escapes.
const GAP: u8 = 0;

/// What was answered, and what it is counted as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    fields: Vec<u8>,
    /// Outcome, as metrics have it.
    pub outcome: &'static str,
    /// Its reason.
    pub reason: &'static str,
}

/// A review that may have been answered before.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Echoed in the answer.
    pub uid: &'a str,
    /// Everything of the review that is judged, as it was written: namespace, metadata without `managedFields` (which have times), and everything
    /// else of the pod. The random characters of the token's volume are left out: they are the same wherever the pod names that volume.
    text: Vec<u8>,
}

/// What is known of a review.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Its answer.
    Known(Arc<Known>),
    /// It was asked before, not long ago: the answer is worth keeping, by this hash.
    Again(u64),
    /// Nothing.
    New,
}

/// Answers of two ages: where the younger have taken half of the room, they become the older ones, and the older are forgotten.
#[derive(Debug)]
pub struct Cache {
    /// Its hashes can't be foretold, so that nobody makes pods that collide.
    hasher: RandomState,
    /// Hashes of reviews that were asked; each has one place only. A pod that is like no other costs no more than this.
    seen: Box<[AtomicU64]>,
    ages: Mutex<Ages>,
}

#[derive(Debug, Default)]
struct Ages {
    young: Answers,
    old: Answers,
    /// Of the young.
    bytes: usize,
}

/// By hash: what was asked, and its answer.
type Answers = HashMap<u64, (Box<[u8]>, Arc<Known>)>;

impl Default for Cache {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            seen: (0..SEEN).map(|_| AtomicU64::new(0)).collect(),
            ages: Mutex::default(),
        }
    }
}

impl Cache {
    /// Looks for the answer to a pod like this one.
    #[must_use]
    pub fn find(&self, asked: &Asked<'_>) -> Found {
        let hash = self.hasher.hash_one(&asked.text);
        {
            let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = ages.get(hash, &asked.text) {
                return Found::Known(known);
            }
        }
        let place = usize::try_from(hash).unwrap_or_default() % SEEN;
        match self.seen.get(place).map(|seen| seen.swap(hash, Relaxed)) {
            Some(before) if before == hash => Found::Again(hash),
            _ => Found::New,
        }
    }

    /// Keeps an answer. One that names what is left out of the question is that pod's alone, and is not kept.
    pub fn put(
        &self,
        asked: Asked<'_>,
        hash: u64,
        reply: Reply,
        outcome: &'static str,
        reason: &'static str,
    ) {
        if reply.patch_has(TOKEN_VOLUME) {
            return;
        }
        let known = Known {
            fields: reply.into_fields(),
            outcome,
            reason,
        };
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = ages.put(hash, asked.text.into(), Arc::new(known));
        drop(ages);
        drop(forgotten);
    }
}

impl Known {
    /// The body of the answer to the review of this uid.
    #[must_use]
    pub fn to(&self, uid: &str) -> Vec<u8> {
        admit::body(uid, &self.fields)
    }
}

impl Ages {
    fn get(&mut self, hash: u64, text: &[u8]) -> Option<Arc<Known>> {
        if let Some((known, answer)) = self.young.get(&hash) {
            return (**known == *text).then(|| Arc::clone(answer));
        }
        let (known, answer) = self.old.get(&hash).filter(|(known, _)| **known == *text)?;
        let (known, answer) = (known.clone(), Arc::clone(answer));
        self.put(hash, known, Arc::clone(&answer));
        Some(answer)
    }

    /// Keeps one; returns what is forgotten for it.
    fn put(&mut self, hash: u64, text: Box<[u8]>, answer: Arc<Known>) -> Answers {
        let size = text.len() + answer.fields.len() + 256;
        let mut forgotten = Answers::new();
        if self.bytes + size > BYTES / 2 {
            forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.bytes = 0;
        }
        if self.young.insert(hash, (text, answer)).is_none() {
            self.bytes += size;
        }
        forgotten
    }
}

impl<'a> Asked<'a> {
    /// Reads no more of a review than it is known by. None where it isn't the creation of a pod as API servers ask about it: it is judged, and
    /// refused where it must be.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Option<Self> {
        if body.len() > LONGEST {
            return None;
        }
        let review: Review<'a> = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
        let Review {
            api_version,
            kind,
            request,
        } = review;
        let pod = request.kind.group.is_empty() && request.kind.version == "v1" && request.kind.kind == "Pod";
        let whole = request.sub_resource.is_none_or(str::is_empty);
        let uid = !request.uid.is_empty() && request.uid.len() <= admit::MAX_UID;
        let asked = pod && whole && uid && request.operation == "CREATE";
        if !asked || api_version != admit::API_VERSION || kind != admit::KIND {
            return None;
        }
        let mut text = request.object.0;
        text.push(GAP);
        text.extend_from_slice(request.namespace.unwrap_or_default().as_bytes());
        Some(Self {
            uid: request.uid,
            text: without_random(text)?,
        })
    }
}

/// The text without the random characters of the token's volume; none if there are several such volumes.
fn without_random(mut text: Vec<u8>) -> Option<Vec<u8>> {
    let mut random: Option<[u8; RANDOM]> = None;
    let mut from = 0;
    while let Some(found) = memchr::memmem::find(text.get(from..)?, TOKEN_VOLUME) {
        let start = from + found + TOKEN_VOLUME.len();
        let here: [u8; RANDOM] = text.get(start..start + RANDOM)?.try_into().ok()?;
        let ends = text.get(start + RANDOM) == Some(&b'"');
        if !ends || !here.iter().all(u8::is_ascii_alphanumeric) || random.is_some_and(|known| known != here) {
            return None;
        }
        text.get_mut(start..start + RANDOM)?.fill(GAP);
        random = Some(here);
        from = start + RANDOM;
    }
    Some(text)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'a str,
    kind: &'a str,
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    #[serde(borrow)]
    kind: Kind<'a>,
    sub_resource: Option<&'a str>,
    namespace: Option<&'a str>,
    operation: &'a str,
    object: Object,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(default)]
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

/// The fields of a pod, one behind the other, as they were written.
struct Object(Vec<u8>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let mut text = Vec::with_capacity(8 * 1024);
        let object = Level {
            text: &mut text,
            is_metadata: false,
        };
        object.deserialize(source)?;
        Ok(Self(text))
    }
}

/// The pod, or its metadata.
struct Level<'t> {
    text: &'t mut Vec<u8>,
    is_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut managed = false;
        while let Some(name) = map.next_key::<&'de str>()? {
            match name {
                "managedFields" if self.is_metadata => {
                    if std::mem::replace(&mut managed, true) {
                        return Err(A::Error::custom("a field that is there twice"));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => self.text.extend_from_slice(name.as_bytes()),
            }
            self.text.push(GAP);
            if name == "metadata" && !self.is_metadata {
                map.next_value_seed(Level {
                    text: self.text,
                    is_metadata: true,
                })?;
            } else {
                self.text
                    .extend_from_slice(map.next_value::<&'de RawValue>()?.get().as_bytes());
            }
            self.text.push(GAP);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
