//! How much of the traffic each tier gets.
//!
//! In: healthy and expected weight of each tier. Out: shares that sum to the whole. Never: traffic to a farther tier
//! while a nearer one can take it.
//!
//! A tier takes traffic in proportion to its healthy part, with a margin: one that has lost up to 28% of its endpoints
//! still takes all of it (Envoy's overprovisioning factor of 1.4). The rest goes to the next tier. Tiers that have explicit parts stand side
//! by side: what one of them can't take goes to the others in proportion.

/// Most tiers.
pub const TIERS: usize = 16;
/// The whole of the traffic.
pub const WHOLE: u64 = 10_000;
/// Tenths by which a tier is assumed to be overprovisioned.
const OVERPROVISIONED_TENTHS: u64 = 14;

/// What part of the traffic goes to each tier, in ten-thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Shares(pub [u64; TIERS]);

/// Weights of one tier's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Of those that are open, in thousandths, so that a restored one can count in part.
    pub healthy: u64,
    /// Of all that should serve, in thousandths.
    pub expected: u64,
}

impl Weights {
    /// What part of the traffic the tier can take, in ten-thousandths.
    fn strength(self) -> u64 {
        match self.expected {
            0 => 0,
            _ if self.healthy == 0 => 0,
            expected => {
                (self.healthy.saturating_mul(OVERPROVISIONED_TENTHS * WHOLE / 10) / expected).clamp(1, WHOLE)
            }
        }
    }
}

/// Whether so few endpoints are healthy, and nobody else can take the traffic, that it is better to use all: below `percent`.
pub fn panics(tiers: &[Weights], percent: u8) -> bool {
    let strength: u64 = tiers.iter().map(|tier| tier.strength()).sum();
    let sum = |of: fn(&Weights) -> u64| tiers.iter().map(of).fold(0, u64::saturating_add);
    let (healthy, expected) = (sum(|tier| tier.healthy), sum(|tier| tier.expected));
    strength < WHOLE && healthy.saturating_mul(100) < expected.saturating_mul(percent.into())
}

impl Shares {
    /// Divides the traffic among tiers, nearest first, of which only the first [`TIERS`] count. `None`: none has a healthy endpoint.
    pub fn of(tiers: &[Weights]) -> Option<Self> {
        let mut strength = [0; TIERS];
        for (strength, tier) in strength.iter_mut().zip(tiers) {
            *strength = tier.strength();
        }
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

    /// Divides the traffic by parts, each as far as its tier can take it. `None`: no tier with a part has a healthy endpoint.
    pub fn side_by_side(tiers: &[Weights], parts: &[u32]) -> Option<Self> {
        let mut taken = [0; TIERS];
        for (taken, (tier, part)) in taken.iter_mut().zip(tiers.iter().zip(parts)) {
            *taken = tier.strength().saturating_mul((*part).into());
        }
        let sum = taken.iter().copied().fold(0, u64::saturating_add);
        if sum == 0 {
            return None;
        }
        let mut before = 0;
        // By running sums, so that nothing is lost by rounding.
        Some(Self(taken.map(|taken| {
            let from = before * WHOLE / sum;
            before += taken;
            before * WHOLE / sum - from
        })))
    }

    /// The tier of a point in `0..WHOLE`.
    pub fn tier(&self, point: u64) -> usize {
        let mut left = point;
        let found = self.0.iter().position(|share| match left.checked_sub(*share) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        found.unwrap_or_default()
    }

    /// The farthest tier that has a share.
    pub fn farthest(&self) -> usize {
        self.0.iter().rposition(|share| *share > 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(tiers: [(u64, u64); 3]) -> [Weights; 3] {
        tiers.map(|(healthy, expected)| Weights { healthy, expected })
    }

    fn first(shares: Option<Shares>) -> Option<[u64; 3]> {
        shares.map(|shares| {
            assert!(shares.0[3..].iter().all(|share| *share == 0));
            [shares.0[0], shares.0[1], shares.0[2]]
        })
    }

    fn shares(tiers: [(u64, u64); 3]) -> Option<[u64; 3]> {
        first(Shares::of(&weights(tiers)))
    }

    #[test]
    fn parts_are_kept_and_what_one_cannot_take_goes_to_the_others() {
        for (tiers, parts, wanted) in [
            ([(4, 4), (1, 1), (9, 9)], [60, 30, 10], [6_000, 3_000, 1_000]),
            ([(3, 4), (1, 1), (9, 9)], [60, 30, 10], [6_000, 3_000, 1_000]),
            ([(0, 4), (1, 1), (9, 9)], [60, 30, 10], [0, 7_500, 2_500]),
            ([(1, 2), (1, 1), (0, 0)], [50, 50, 0], [4_117, 5_883, 0]),
            ([(1, 1), (1, 1), (9, 9)], [100, 0, 0], [10_000, 0, 0]),
        ] {
            assert_eq!(
                first(Shares::side_by_side(&weights(tiers), &parts)),
                Some(wanted),
                "{tiers:?}"
            );
        }
        assert_eq!(
            Shares::side_by_side(&weights([(0, 1), (1, 1), (1, 1)]), &[100, 0, 0]),
            None
        );
    }

    #[test]
    fn panic_is_when_few_are_left_and_nobody_else_can_take_it() {
        for (tiers, percent, wanted) in [
            ([(4, 10), (0, 0), (0, 0)], 50, true),
            ([(5, 10), (0, 0), (0, 0)], 50, false),
            ([(0, 10), (10, 10), (0, 0)], 50, false),
            ([(1, 10), (1, 10), (1, 10)], 50, true),
            ([(8, 10), (0, 0), (0, 0)], 100, false),
            ([(7, 10), (0, 0), (0, 0)], 100, true),
            ([(0, 0), (0, 0), (0, 0)], 50, false),
        ] {
            assert_eq!(panics(&weights(tiers), percent), wanted, "{tiers:?} {percent}");
        }
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
        fn shares_side_by_side_are_whole(
            expected in prop::collection::vec(0u64..50, TIERS),
            health in prop::collection::vec(0u64..=100, TIERS),
            parts in prop::collection::vec(0u32..=100, TIERS),
        ) {
            let weights: Vec<_> = std::iter::zip(&expected, &health)
                .map(|(expected, health)| Weights { healthy: expected * 10 * health, expected: expected * 1_000 })
                .collect();
            let Some(shares) = Shares::side_by_side(&weights, &parts) else { return Ok(()) };
            prop_assert_eq!(shares.0.iter().sum::<u64>(), WHOLE);
            for ((share, part), weights) in shares.0.iter().zip(&parts).zip(&weights) {
                prop_assert!(*share == 0 || *part > 0 && weights.healthy > 0);
            }
            for point in [0, 1, WHOLE / 2, WHOLE - 1] {
                prop_assert!(shares.0[shares.tier(point)] > 0);
            }
        }

        #[test]
        fn shares_are_whole_and_monotone(
            expected in prop::array::uniform3(0u64..50),
            part in prop::array::uniform3(0u64..=100),
            tier in 0usize..3,
        ) {
            let weights = |part: [u64; 3]| -> [(u64, u64); 3] {
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
            for far in tier + 1..3 {
                prop_assert!(after[far] <= before[far] + 2, "{:?} -> {:?}", before, after);
            }
        }
    }
}
