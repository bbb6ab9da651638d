//! How much of the traffic each distance gets.
//!
//! In: healthy and expected weight of each tier. Out: shares that sum to the whole. Never: traffic to a farther tier
//! while a nearer one can take it.
//!
//! A tier takes traffic in proportion to its healthy part, with a margin: one that has lost up to 28% of its endpoints
//! still takes all of it (Envoy's overprovisioning factor of 1.4). The rest goes to the next tier.

/// Tiers: zone, region, remote.
pub const TIERS: usize = 3;
/// The whole of the traffic.
pub const WHOLE: u64 = 10_000;
/// Tenths by which a tier is assumed to be overprovisioned.
const OVERPROVISIONED_TENTHS: u64 = 14;

/// What part of the traffic goes to each tier, in ten-thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shares(pub [u64; TIERS]);

/// Weights of one tier's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Of those that are open, in thousandths, so that a restored one can count in part.
    pub healthy: u64,
    /// Of all that should serve, in thousandths.
    pub expected: u64,
}

impl Shares {
    /// Divides the traffic. `None`: no tier has a healthy endpoint.
    pub fn of(tiers: &[Weights; TIERS]) -> Option<Self> {
        let strength = tiers.map(|tier| match tier.expected {
            0 => 0,
            _ if tier.healthy == 0 => 0,
            expected => {
                (tier.healthy.saturating_mul(OVERPROVISIONED_TENTHS * WHOLE / 10) / expected).clamp(1, WHOLE)
            }
        });
        let sum: u64 = strength.iter().sum();
        if sum == 0 {
            return None;
        }
        // Together too weak for the whole: each in proportion.
        let strength = if sum < WHOLE {
            strength.map(|s| s * WHOLE / sum)
        } else {
            strength
        };
        let mut left = WHOLE;
        let mut shares = strength.map(|s| {
            let share = s.min(left);
            left -= share;
            share
        });
        // What rounding left goes to the nearest that has any.
        if let Some(share) = shares.iter_mut().find(|share| **share > 0) {
            *share += left;
        }
        Some(Self(shares))
    }

    /// The tier of a point in `0..WHOLE`.
    pub fn tier(self, point: u64) -> usize {
        let [zone, region, _] = self.0;
        if point < zone {
            0
        } else if point < zone + region {
            1
        } else {
            2
        }
    }

    /// The farthest tier that has a share.
    pub fn farthest(self) -> usize {
        self.0.iter().rposition(|share| *share > 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(tiers: [(u64, u64); TIERS]) -> Option<[u64; TIERS]> {
        Shares::of(&tiers.map(|(healthy, expected)| Weights { healthy, expected })).map(|shares| shares.0)
    }

    #[test]
    fn nearest_first_and_the_rest_in_proportion() {
        for (tiers, wanted) in [
            ([(4, 4), (4, 4), (4, 4)], [10_000, 0, 0]),
            ([(3, 4), (4, 4), (4, 4)], [10_000, 0, 0]),
            ([(1, 2), (4, 4), (4, 4)], [7_000, 3_000, 0]),
            ([(0, 2), (4, 4), (4, 4)], [0, 10_000, 0]),
            ([(0, 2), (0, 0), (4, 4)], [0, 0, 10_000]),
            ([(1, 4), (1, 4), (4, 4)], [3_500, 3_500, 3_000]),
            ([(1, 4), (0, 0), (1, 4)], [5_000, 0, 5_000]),
            ([(1, 1_000_000), (0, 0), (0, 0)], [10_000, 0, 0]),
        ] {
            assert_eq!(shares(tiers), Some(wanted), "{tiers:?}");
        }
        assert_eq!(shares([(0, 1), (0, 1), (0, 0)]), None);
    }

    proptest! {
        #[test]
        fn shares_are_whole_and_monotone(
            expected in prop::array::uniform3(0u64..50),
            part in prop::array::uniform3(0u64..=100),
            tier in 0usize..TIERS,
        ) {
            let weights = |part: [u64; TIERS]| -> [(u64, u64); TIERS] {
                std::array::from_fn(|i| (expected[i] * 1_000 * part[i] / 100, expected[i] * 1_000))
            };
            let Some(before) = shares(weights(part)) else { return Ok(()) };
            prop_assert_eq!(before.iter().sum::<u64>(), WHOLE);
            for (share, (healthy, _)) in before.iter().zip(weights(part)) {
                prop_assert!(healthy > 0 || *share == 0);
            }
            // A tier that gets healthier never loses traffic, and no farther one wins any.
            let mut better = part;
            better[tier] = 100;
            let after = shares(weights(better)).unwrap();
            prop_assert!(after[tier] + 1 >= before[tier], "{:?} -> {:?}", before, after);
            for far in tier + 1..TIERS {
                prop_assert!(after[far] <= before[far] + 2, "{:?} -> {:?}", before, after);
            }
        }
    }
}
