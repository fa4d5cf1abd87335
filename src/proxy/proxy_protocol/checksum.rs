//! The checksum in version 2 headers: section 2.2.3 of the specification.

use std::ops::Range;

use super::limits::V2_FIXED;

/// The type of the field with the checksum: PP2_TYPE_CRC32C.
const CRC32C: u8 = 0x03;

/// True if the checksum of a complete header does not match. A header without a checksum is valid.
pub(super) fn is_wrong(header: &[u8]) -> bool {
    let Some(checksum) = position(header) else { return false };
    let Some(sent) = header.get(checksum.clone()) else { return true };
    // The checksum is computed over the header with zeros in its own place.
    let mut summed = header.to_vec();
    summed[checksum].fill(0);
    sent != crc32c(&summed).to_be_bytes()
}

/// The position of the checksum among the additional fields. `None`: there is none.
fn position(header: &[u8]) -> Option<Range<usize>> {
    let addresses = match header.get(13)? >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return None,
    };
    let mut at = V2_FIXED + addresses;
    loop {
        let [kind, high, low] = *header.get(at..)?.first_chunk::<3>()?;
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        if kind == CRC32C {
            return Some(value..at);
        }
    }
}

/// CRC-32C (Castagnoli). One bit at a time, because headers are short and few have a checksum.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let shift = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)))
}
