//! Why: the same decisions as for live traffic, with everything that was looked at and what spoke against it.
//!
//! In: what the deciding code gets (tables, policies, endpoints, a request, a random source). Out: [`Step`]s, each with what was
//! chosen, the object that caused it, and what was not chosen and why. Never: a decision of its own. What is chosen comes from
//! the code that chooses for live traffic, with the same draws; each reason comes from asking that code about one part alone.

/// What is asked: a request that somebody might send.
pub mod request;
/// Why this rule and this backend.
pub mod route;
/// Why allowed or denied.
pub mod policy;
/// Why this locality and this endpoint.
pub mod endpoint;
/// For people.
pub mod text;
/// Why a rule of a policy does or doesn't match.
mod objection;
/// Values that must match, in words.
mod words;

pub use request::{Arrival, BadRequest, Request, SOMEBODY};

use serde::{Deserialize, Serialize};
use weft_proto::model::Origin;

/// Most options of one step that are listed; of more it is said how many.
pub const MOST_OPTIONS: usize = 100;

/// The way of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was decided, in this order.
    pub steps: Vec<Step>,
    /// Where it ends.
    pub end: End,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which one.
    pub stage: Stage,
    /// What was decided.
    pub chosen: String,
    /// The object that caused it; `None`: a default of Weft's, or a fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Origin>,
    /// What else follows from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Everything that was looked at, in the order of looking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Considered>,
}

/// Which decision a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// At a gateway: by which port, and which listener's the request is.
    Listener,
    /// Who is meant.
    Name,
    /// Which rule.
    Route,
    /// Which of the rule's backends.
    Backend,
    /// How far.
    Locality,
    /// Which endpoint.
    Endpoint,
    /// Who must be there.
    Tls,
    /// At the other side: whether the connection is taken.
    Admission,
    /// At the other side, and before it at a gateway: whether the request is allowed.
    Policy,
    /// At the other side: how many requests there may be.
    Limit,
    /// At the other side: what the sidecar hands it to.
    Application,
}

/// Something that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// What.
    pub what: String,
    /// It is what was chosen.
    pub chosen: bool,
    /// Why, or why not.
    pub why: String,
    /// The object it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Origin>,
    /// What is known of it, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<(String, String)>,
}

/// Where a request ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum End {
    /// At the application.
    Reaches {
        /// Which one.
        what: String,
    },
    /// Outside the mesh, which passes it on as it is.
    Leaves {
        /// Where to.
        what: String,
    },
    /// The caller's own sidecar, or the gateway, answers, as a rule says.
    Answered {
        /// The status.
        status: u16,
        /// What it is.
        why: String,
        /// The rule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<Origin>,
    },
    /// Somewhere before the application.
    Refused {
        /// Where.
        stage: Stage,
        /// The status that the caller gets; `None`: its connection fails.
        status: Option<u16>,
        /// Why.
        why: String,
        /// The object that caused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<Origin>,
        /// What would change it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remedies: Vec<String>,
    },
}

impl Default for End {
    fn default() -> Self {
        Self::Leaves { what: String::new() }
    }
}

impl Explanation {
    /// Whether it is about a client outside the mesh.
    pub fn by_gateway(&self) -> bool {
        self.steps
            .first()
            .is_some_and(|step| step.stage == Stage::Listener)
    }
}

impl End {
    /// Whether it is where the caller wanted it: at an application, or outside the mesh.
    pub fn arrives(&self) -> bool {
        matches!(self, Self::Reaches { .. } | Self::Leaves { .. })
    }
}

impl Step {
    /// A decision without options.
    pub fn new(stage: Stage, chosen: impl Into<String>) -> Self {
        Self {
            stage,
            chosen: chosen.into(),
            because: None,
            notes: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Names the object that caused it; an empty origin is none.
    #[must_use]
    pub fn because(mut self, origin: &Origin) -> Self {
        self.because = named(origin);
        self
    }

    /// Adds what else follows.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds options, as many as are listed; what is chosen always is.
    #[must_use]
    pub fn with(mut self, options: impl IntoIterator<Item = Considered>) -> Self {
        let mut left_out = 0;
        for option in options {
            if self.options.len() < MOST_OPTIONS || option.chosen {
                self.options.push(option);
            } else {
                left_out += 1;
            }
        }
        match left_out {
            0 => self,
            more => self.note(format!("and {more} more that are not listed")),
        }
    }
}

impl Considered {
    /// What was chosen.
    pub fn chosen(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            chosen: true,
            ..Self::rejected(what, why)
        }
    }

    /// What was not chosen.
    pub fn rejected(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            ..Self::default()
        }
    }

    /// Names the object it came from; an empty origin is none.
    #[must_use]
    pub fn because(mut self, origin: &Origin) -> Self {
        self.because = named(origin);
        self
    }

    /// Adds what is known of it.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Self {
        self.facts.push((name.to_owned(), value.to_string()));
        self
    }
}

fn named(origin: &Origin) -> Option<Origin> {
    (!origin.kind.is_empty()).then(|| origin.clone())
}

#[cfg(test)]
mod tests;
