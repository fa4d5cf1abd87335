//! Sizes of Maglev tables. All processes must agree on them, or a client would have another endpoint in each.

/// Primes, each enough for a hundredth as many members. Few and far between, because most clients move when members
/// outgrow one; the first already keeps the shares of ten members within a tenth of a percent.
const SIZES: [u32; 3] = [65_537, 262_147, 1_048_583];

/// The most slots that all tables of one load balancer have together: 16 tables of the smallest size, or one of the
/// largest.
pub const MAX_MAGLEV_SLOTS: u64 = 16 * 65_537;

/// The number of slots of a table of so many members.
pub fn maglev_slots(members: usize) -> u32 {
    if members == 0 {
        return 0;
    }
    SIZES.into_iter().find(|size| members <= *size as usize / 100).unwrap_or(SIZES[2])
}
