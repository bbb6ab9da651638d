//! The events of the scenario `multi-region`, when they happen, and what is promised for each.
//!
//! Enters: how long the demo may take. Leaves: a schedule. Never: anything that acts.

use std::time::Duration;

/// What is done to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Nothing: the figures to compare with.
    Steady,
    /// SIGKILL to one endpoint that serves the load.
    KillEndpoint,
    /// The nodes that run cart and catalog in the load's region drop every packet.
    CutRegion,
    /// The nodes are reachable again.
    Heal,
    /// Every pod of cart is replaced.
    Roll,
    /// The control plane is replaced.
    RestartControlPlane,
    /// Every sidecar gets a new key and certificate.
    RotateCertificates,
}

/// An event, its share of the time, and its promise.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// Share of the whole time, in percent.
    share: u32,
}

/// What must hold for an event to count as kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// No request of any class may fail; otherwise only those that may run twice may not.
    pub nothing_fails: bool,
    /// Traffic leaves the dead place within this time.
    pub leaves_within: Option<Duration>,
    /// Traffic is local again within this time.
    pub local_within: Option<Duration>,
}

/// The schedule, in order.
pub const STEPS: [Step; 7] = [
    Step {
        event: Event::Steady,
        share: 8,
    },
    Step {
        event: Event::KillEndpoint,
        share: 14,
    },
    Step {
        event: Event::CutRegion,
        share: 18,
    },
    Step {
        event: Event::Heal,
        share: 14,
    },
    Step {
        event: Event::Roll,
        share: 24,
    },
    Step {
        event: Event::RestartControlPlane,
        share: 12,
    },
    Step {
        event: Event::RotateCertificates,
        share: 10,
    },
];

impl Step {
    /// How long the step lasts when the whole demo lasts `whole`.
    pub fn lasts(&self, whole: Duration) -> Duration {
        whole * self.share / 100
    }
}

impl Event {
    /// What people read.
    pub fn title(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::KillEndpoint => "kill one endpoint",
            Self::CutRegion => "cut off us-east",
            Self::Heal => "heal us-east",
            Self::Roll => "roll every cart pod",
            Self::RestartControlPlane => "restart control plane",
            Self::RotateCertificates => "rotate certificates",
        }
    }

    /// What is promised. A crash may lose unsafe requests and streams that were in flight; nothing planned may lose anything.
    pub fn promise(self) -> Promise {
        let second = Duration::from_secs(1);
        match self {
            Self::KillEndpoint | Self::CutRegion => Promise {
                leaves_within: Some(second),
                ..Promise::default()
            },
            Self::Heal => Promise {
                nothing_fails: true,
                local_within: Some(10 * second),
                ..Promise::default()
            },
            Self::Steady | Self::Roll | Self::RestartControlPlane | Self::RotateCertificates => Promise {
                nothing_fails: true,
                ..Promise::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_the_whole() {
        assert_eq!(STEPS.iter().map(|step| step.share).sum::<u32>(), 100);
    }
}
