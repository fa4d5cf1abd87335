/// Parts of `allowed`, none larger than what it is for, in proportion to these.
pub fn parts_of(allowed: usize, wanted: &[usize]) -> Vec<usize> {
    let total: usize = wanted.iter().sum();
    if allowed >= total {
        return wanted.to_vec();
    }
    let mut before = 0;
    let part = |wanted: &usize| {
        // The ends of the parts are rounded, not the parts, so that these are as many as allowed in all.
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
        fn what_is_allowed_is_shared_out_whole(wanted in prop::collection::vec(0..1000_usize, 1..20), allowed in 0..20_000_usize) {
            let parts = parts_of(allowed, &wanted);
            prop_assert_eq!(parts.iter().sum::<usize>(), allowed.min(wanted.iter().sum()));
            prop_assert!(parts.iter().zip(&wanted).all(|(part, wanted)| part <= wanted));
        }
    }
}
