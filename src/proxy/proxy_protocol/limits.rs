/// The longest version 1 header, its CRLF included.
pub const MAX_V1: usize = 107;
/// The length of the fixed part of a version 2 header: signature, version and command, family and protocol, length.
pub const V2_FIXED: usize = 16;
