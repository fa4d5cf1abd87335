/// Divides `allowed` in proportion to `wanted`. No part exceeds its wanted number.
pub fn parts_of(allowed: usize, wanted: &[usize]) -> Vec<usize> {
    let total: usize = wanted.iter().sum();
    if allowed >= total {
        return wanted.to_vec();
    }
    let mut before = 0;
    let part = |wanted: &usize| {
        // Rounds the boundaries of the parts instead of their sizes, so that the sum is exactly `allowed`.
        let start = (before as u128 * allowed as u128 / total as u128) as usize;
        before += wanted;
        (before as u128 * allowed as u128 / total as u128) as usize - start
    };
    wanted.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_whole_allowance_is_distributed(wanted in prop::collection::vec(0..1000_usize, 1..20), allowed in 0..20_000_usize) {
            let parts = parts_of(allowed, &wanted);
            prop_assert_eq!(parts.iter().sum::<usize>(), allowed.min(wanted.iter().sum()));
            prop_assert!(parts.iter().zip(&wanted).all(|(part, wanted)| part <= wanted));
        }
    }
}
