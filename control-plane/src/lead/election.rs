//! Who may hold a Lease, decided from what was observed and when, by the local clock.
//!
//! Enters: records as they are read, and local times. Leaves: whether to claim, and whether this replica leads. Never: I/O, a
//! clock, a comparison of another machine's time with this one's.

use std::time::Duration;
use tokio::time::Instant;

/// How long a claim lasts after it was last renewed.
pub const LASTS: Duration = Duration::from_secs(15);
/// How long a replica believes that it leads after its last renewal began: less than others wait.
const BELIEVES: Duration = Duration::from_secs(10);
/// Longest claim of somebody else that is respected.
const LONGEST: Duration = Duration::from_secs(120);

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long it lasts after a renewal.
    pub lasts: Duration,
    /// When it was renewed, by the holder's clock: only ever compared with itself.
    pub renewed: String,
}

/// One replica's view of an election.
#[derive(Debug)]
pub struct Election {
    me: String,
    observed: Option<(Record, Instant)>,
    created: Option<i64>,
    renewed: Option<Instant>,
}

impl Election {
    /// A replica that has seen nothing yet.
    pub fn new(me: String) -> Self {
        Self {
            me,
            observed: None,
            created: None,
            renewed: None,
        }
    }

    /// The Lease was read.
    pub fn observe(&mut self, record: Option<&Record>, now: Instant) {
        match (record, &self.observed) {
            (None, _) => self.observed = None,
            (Some(record), Some((last, _))) if last == record => {}
            (Some(record), _) => self.observed = Some((record.clone(), now)),
        }
        if !record.is_some_and(|record| self.is_me(&record.holder)) {
            self.renewed = None;
        }
    }

    /// When the Lease was made, by the API server's clock.
    pub fn made(&mut self, created: Option<i64>) {
        self.created = created;
    }

    /// See [`Self::made`].
    pub fn created(&self) -> Option<i64> {
        self.created
    }

    /// Whether a holder's name is this replica's.
    pub fn is_me(&self, holder: &str) -> bool {
        holder == self.me
    }

    /// Whether the Lease may be claimed: it is nobody's, this replica's own, or wasn't renewed for as long as it lasts.
    pub fn may_take(&self, now: Instant) -> bool {
        match &self.observed {
            None => true,
            Some((record, _)) if record.holder.is_empty() || self.is_me(&record.holder) => true,
            Some((record, since)) => now >= *since + record.lasts.clamp(Duration::from_secs(1), LONGEST),
        }
    }

    /// What to write.
    pub fn claim(&self) -> Record {
        Record {
            holder: self.me.clone(),
            lasts: LASTS,
            renewed: String::new(),
        }
    }

    /// The claim that began at `began` was written.
    pub fn won(&mut self, began: Instant) {
        self.renewed = Some(began);
        self.observed = Some((self.claim(), began));
    }

    /// Somebody else was faster, or the Lease was given back.
    pub fn lost(&mut self) {
        self.renewed = None;
        self.observed = None;
    }

    /// Until when this replica may believe that it leads.
    pub fn until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + BELIEVES)
    }

    /// Whether this replica leads.
    pub fn leads(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Who leads, as far as is known; empty: nobody.
    pub fn holder(&self) -> &str {
        self.observed.as_ref().map_or("", |(record, _)| &record.holder)
    }
}
