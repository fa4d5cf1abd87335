//! Endpoint weights that give each backend its share, however many endpoints it has.

use std::num::NonZeroU32;

use crate::model::Weight;

/// A backend's declared weight and its number of endpoints, neither zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendShare {
    pub weight: u16,
    pub endpoints: usize,
}

/// Weights up to this limit are exact. Larger ones are scaled down to it and rounded, with an error of at most a
/// millionth of the largest.
const LARGEST: u128 = 1_000_000;

/// The weight of each endpoint, by share: `weight / endpoints`, in the smallest whole numbers.
pub(super) fn endpoint_weights(shares: &[BackendShare]) -> Vec<Weight> {
    let exact = exact(shares).unwrap_or_else(|| rounded(shares));
    let divisor = exact.iter().copied().fold(0, gcd).max(1);
    exact.into_iter().map(|weight| to_weight(weight / divisor)).collect()
}

fn exact(shares: &[BackendShare]) -> Option<Vec<u128>> {
    let multiple = shares.iter().try_fold(1, |multiple: u128, share| {
        let endpoints = share.endpoints as u128;
        (multiple / gcd(multiple, endpoints).max(1))
            .checked_mul(endpoints)
            .filter(|multiple| *multiple <= LARGEST_MULTIPLE)
    })?;
    let weights: Vec<u128> =
        shares.iter().map(|share| u128::from(share.weight) * multiple / (share.endpoints as u128).max(1)).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().all(|weight| weight / divisor <= LARGEST).then_some(weights)
}

/// Keeps the products below within 128 bits.
const LARGEST_MULTIPLE: u128 = 1 << 100;

fn rounded(shares: &[BackendShare]) -> Vec<u128> {
    let Some(largest) = shares.iter().max_by(|a, b| {
        // a.weight / a.endpoints against b.weight / b.endpoints
        (u128::from(a.weight) * b.endpoints as u128).cmp(&(u128::from(b.weight) * a.endpoints as u128))
    }) else {
        return Vec::new();
    };
    shares
        .iter()
        .map(|share| {
            let dividend = u128::from(share.weight) * largest.endpoints as u128 * LARGEST;
            let divisor = (u128::from(largest.weight) * share.endpoints as u128).max(1);
            (dividend + divisor / 2) / divisor
        })
        .collect()
}

/// At least 1: an endpoint with the smallest share still serves.
fn to_weight(weight: u128) -> Weight {
    let weight = u32::try_from(weight).unwrap_or(u32::MAX);
    Weight::new(NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN))
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(shares: &[(u16, usize)]) -> Vec<u32> {
        let shares: Vec<_> = shares.iter().map(|&(weight, endpoints)| BackendShare { weight, endpoints }).collect();
        endpoint_weights(&shares).into_iter().map(Weight::value).collect()
    }

    #[test]
    fn a_backends_share_does_not_depend_on_its_number_of_endpoints() {
        for (shares, expected) in [
            (&[][..], &[][..]),
            (&[(1, 7)], &[1]),
            (&[(1000, 3)], &[1]),
            (&[(1, 3), (1, 3)], &[1, 1]),
            (&[(1, 1), (1, 3)], &[3, 1]),
            (&[(3, 2), (1, 2)], &[3, 1]),
            (&[(3, 6), (1, 2)], &[1, 1]),
            (&[(90, 4), (10, 1)], &[9, 4]),
            (&[(1000, 1), (1, 1000)], &[1_000_000, 1]),
            (&[(1000, 1), (1, 1001)], &[1_000_000, 1]),
        ] {
            assert_eq!(weights(shares), expected, "{shares:?}");
        }
    }

    proptest! {
        #[test]
        fn every_backend_gets_its_share(shares in prop::collection::vec((1..=1000u16, 1..=2000usize), 1..=64)) {
            let weights: Vec<f64> = weights(&shares).into_iter().map(f64::from).collect();
            let ideal: Vec<f64> = shares.iter().map(|(weight, endpoints)| f64::from(*weight) / *endpoints as f64).collect();
            let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
            for (weight, wanted) in weights.iter().zip(&ideal) {
                let error = weight / largest(&weights) - wanted / largest(&ideal);
                prop_assert!(error.abs() <= 1e-6, "{weights:?} for {ideal:?}");
            }
        }

        #[test]
        fn any_numbers_give_weights(shares in prop::collection::vec((any::<u16>(), any::<usize>()), 0..8)) {
            prop_assert_eq!(weights(&shares).len(), shares.len());
        }
    }
}
