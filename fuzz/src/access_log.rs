use arbitrary::{Arbitrary, Unstructured};
use tcplb::proxy::access_log::read_back::{Chosen, check_read_back};

/// Lines of the access log: with any input from clients and administrators, an entry is a single line, and parsers of
/// logfmt and JSON read the same values back.
pub fn access_log(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((listener, name, server_name, subject)) = Arbitrary::arbitrary(&mut u) else { return };
    check_read_back(&Chosen { listener, name, server_name, subject });
}
