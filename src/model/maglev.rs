//! Sizes of Maglev tables. All processes must agree on them, so that a client has the same endpoint in each.

/// Primes, each for up to a hundredth as many members. There are few sizes because most clients move when the members
/// outgrow one. The first size already keeps the shares of ten members within a tenth of a percent.
const SIZES: [u32; 3] = [65_537, 262_147, 1_048_583];

/// The maximum number of slots of all tables of one load balancer: 16 tables of the smallest size, or one of the
/// largest.
pub const MAX_MAGLEV_SLOTS: u64 = 16 * 65_537;

/// The number of slots of a table for this number of members.
pub fn maglev_slots(members: usize) -> u32 {
    if members == 0 {
        return 0;
    }
    SIZES.into_iter().find(|size| members <= *size as usize / 100).unwrap_or(SIZES[2])
}
