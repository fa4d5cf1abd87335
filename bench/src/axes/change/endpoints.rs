//! The endpoints of the load balancers, before and after a change.

use super::many::Many;

/// The endpoints of the changing load balancer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Before,
    After,
}

/// The hosts of the endpoints of a load balancer.
pub fn endpoints(many: Many, load_balancer: u16, state: State) -> Vec<[u8; 4]> {
    let changed = load_balancer == many.changing() && state == State::After;
    let last = if changed { many.endpoints + 1 } else { many.endpoints };
    (1..many.endpoints).chain([last]).map(Many::host).collect()
}

/// The text for each endpoint, numbered from 1.
pub fn each(many: Many, load_balancer: u16, state: State, text: impl Fn(usize, String) -> String) -> String {
    let hosts = endpoints(many, load_balancer, state);
    hosts.iter().enumerate().map(|(index, [a, b, c, d])| text(index + 1, format!("{a}.{b}.{c}.{d}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_of_one_load_balancer_changes() {
        let many = Many { load_balancers: 4, endpoints: 3 };
        let hosts = |load_balancer, state| endpoints(many, load_balancer, state);
        assert_eq!(hosts(1, State::After), hosts(1, State::Before));
        assert_eq!(hosts(2, State::Before), [[127, 10, 0, 1], [127, 10, 0, 2], [127, 10, 0, 3]]);
        assert_eq!(hosts(2, State::After), [[127, 10, 0, 1], [127, 10, 0, 2], [127, 10, 0, 4]]);
    }
}
