use arbitrary::{Arbitrary, Unstructured};
use tcplb::proxy::access_log::read_back::{Chosen, check_read_back};

/// Lines of the access log: whatever clients and administrators choose, a line is one line, and readers of logfmt and JSON
/// read the same values back.
pub fn access_log(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((listener, name, server_name, subject)) = Arbitrary::arbitrary(&mut u) else { return };
    check_read_back(&Chosen { listener, name, server_name, subject });
}
