//! What goes wrong.
//!
//! In: failures as people name them. Out: what each pod suffers. Never: a pod that is only named by another's place.

use super::town::Town;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::ServiceName;

/// One failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Of what.
    pub what: What,
    /// Of which kind.
    pub how: How,
}

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A node, by its hostname.
    Node(Arc<str>),
    /// A zone.
    Zone(Arc<str>),
    /// A region.
    Region(Arc<str>),
    /// Every pod behind a Service.
    Service(ServiceName),
    /// One pod.
    Pod(ServiceName),
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// A place is cut off, so that nothing comes back; a pod or Service refuses connections.
    Down,
    /// Every answer takes so much longer.
    Slow(Duration),
    /// So many answers are errors.
    Erring {
        /// Share of answers, 0 to 1.
        share: f64,
        /// Their status.
        status: u16,
    },
}

/// What a pod suffers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trouble {
    /// It is gone; whether it refuses connections (rather than saying nothing).
    pub(super) down: Option<bool>,
    /// Microseconds.
    pub(super) slow: u64,
    pub(super) errors: f64,
    pub(super) status: u16,
}

impl What {
    /// Whether there is such a thing.
    pub fn exists(&self, town: &Town) -> bool {
        !self.pods(town).is_empty()
    }

    /// Places of the pods that are part of it.
    pub fn pods(&self, town: &Town) -> Vec<usize> {
        let where_ = |test: &dyn Fn(&super::Pod) -> bool| -> Vec<usize> {
            (0..town.pods.len()).filter(|at| test(&town.pods[*at])).collect()
        };
        match self {
            Self::Node(name) => where_(&|pod| pod.locality.node == *name),
            Self::Zone(name) => where_(&|pod| pod.locality.zone == *name),
            Self::Region(name) => where_(&|pod| pod.locality.region == *name),
            Self::Pod(name) => where_(&|pod| pod.name == *name),
            Self::Service(name) => town.service(name).map(|at| town.pods_of(at)).unwrap_or_default(),
        }
    }
}

/// What every pod suffers.
pub(super) fn troubles(town: &Town, failures: &[Failure]) -> Vec<Trouble> {
    let mut troubles = vec![Trouble::default(); town.pods.len()];
    for failure in failures {
        let refuses = matches!(failure.what, What::Service(_) | What::Pod(_));
        for at in failure.what.pods(town) {
            let trouble = &mut troubles[at];
            match failure.how {
                // Who is cut off can't refuse any more.
                How::Down => trouble.down = Some(refuses && trouble.down != Some(false)),
                How::Slow(by) => {
                    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
                    trouble.slow = trouble.slow.saturating_add(micros);
                }
                How::Erring { share, status } => {
                    trouble.errors = share.clamp(0.0, 1.0);
                    trouble.status = status;
                }
            }
        }
    }
    troubles
}
