/// The longest version 1 header, its CRLF included.
pub const MAX_V1: usize = 107;
