use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::shares::{Shares, gcd, golden_part};
use crate::upstream::endpoint::{Endpoint, TriedEndpoints};

/// Picks endpoints in turn, each as often as its weight.
///
/// The number of turns in a round is the length of the line of shares. Turn `n` is that of the endpoint that covers the
/// point `n × stride`, wrapped at the end of the line. The stride is coprime to the length, so a round visits every
/// point once and the shares are exact, with any weights and without a table. The multiples of the stride are spread
/// evenly, so that the turns of a heavy endpoint do not come in a burst.
#[derive(Debug)]
pub struct RoundRobin {
    shares: Shares,
    stride: u64,
}

impl RoundRobin {
    pub fn new(shares: Shares) -> Self {
        let stride = if shares.are_equal() { 1 } else { even_stride(shares.total()) };
        Self { shares, stride }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn pick(&self, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        let total = self.shares.total();
        if total == 0 {
            return None;
        }
        if !tried.is_empty() {
            // A retry takes no turn. Otherwise, if one of two endpoints is dead, retries would take all the turns of
            // the other, and every client would try the dead one first.
            let other = self.shares.random(|index| !tried.contains(&self.shares.endpoints()[index]))?;
            return Some(&self.shares.endpoints()[other]);
        }
        let turn = turn.fetch_add(1, Relaxed) % total;
        let point = u128::from(turn) * u128::from(self.stride) % u128::from(total);
        Some(&self.shares.endpoints()[self.shares.covering(point as u64)])
    }
}

/// A stride near the golden section of the length, whose multiples would spread best if lengths were not whole numbers
/// (Knuth, The Art of Computer Programming 3, section 6.4, theorem S). Of several candidates, the stride with the
/// smallest quotients in its continued fraction is used: the quotients bound the unevenness (Niederreiter, Random
/// Number Generation and Quasi-Monte Carlo Methods, theorem 3.4).
fn even_stride(length: u64) -> u64 {
    let section = golden_part(1, length).max(1);
    let strides = (section..length).take(64).filter(|stride| gcd(*stride, length) == 1);
    strides.min_by_key(|stride| sum_of_quotients(length, *stride)).unwrap_or(1)
}

fn sum_of_quotients(mut a: u64, mut b: u64) -> u64 {
    let mut sum = 0;
    while b != 0 {
        sum += a / b;
        (a, b) = (b, a % b);
    }
    sum
}
