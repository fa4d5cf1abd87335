//! The changes to listening sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::OrdMap;

use crate::model::{Listener, ListenerKey, covering, overlap};

/// The changes from the open addresses to the configured listeners.
///
/// Sockets belong to addresses: an address that another listener takes over keeps its sockets. So does an address
/// within a wider one that replaces it: the kernel still gives it the connections it matches best, and closing it would
/// reset connections that are being established.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub open: Vec<BindPlan>,
    /// Addresses that stay open, each with its listener.
    pub keep: Vec<(SocketAddr, ListenerKey)>,
    pub close: Vec<SocketAddr>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct BindPlan {
    pub address: SocketAddr,
    pub listener: ListenerKey,
    /// True if another address, open or to be opened, competes for the same connections: the sockets must be able to
    /// coexist.
    pub overlaps: bool,
}

/// Addresses by port, so that one is compared only with those that can overlap it.
#[derive(Debug, Default)]
pub struct AddressesByPort(BTreeMap<u16, BTreeSet<IpAddr>>);

impl AddressesByPort {
    pub fn insert(&mut self, address: SocketAddr) {
        self.0.entry(address.port()).or_default().insert(address.ip());
    }

    /// True if another address competes for the same connections.
    pub fn overlap(&self, address: SocketAddr) -> bool {
        let Some(ips) = self.0.get(&address.port()) else { return false };
        if address.ip().is_unspecified() {
            let mut others = ips.iter().filter(|ip| **ip != address.ip());
            return others.any(|ip| overlap(SocketAddr::new(*ip, address.port()), address));
        }
        covering(address).any(|wide| wide.ip() != address.ip() && ips.contains(&wide.ip()))
    }
}

impl FromIterator<SocketAddr> for AddressesByPort {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let mut by_port = Self::default();
        addresses.into_iter().for_each(|address| by_port.insert(address));
        by_port
    }
}

/// `inherited` are the addresses of sockets from the previous process that are not open here yet.
pub fn plan(
    open: &BTreeSet<SocketAddr>,
    inherited: &BTreeSet<SocketAddr>,
    wanted: &OrdMap<ListenerKey, Arc<Listener>>,
) -> Plan {
    let mut owners = BTreeMap::new();
    for (key, listener) in wanted {
        owners.entry(listener.bind).or_insert(key);
    }
    let present: AddressesByPort = open.union(inherited).copied().collect();
    let mut plan = Plan::default();
    for (&address, &listener) in &owners {
        let listener = listener.clone();
        if open.contains(&address) {
            plan.keep.push((address, listener));
        } else {
            plan.open.push(BindPlan { address, listener, overlaps: present.overlap(address) });
        }
    }
    for &address in open.union(inherited).filter(|address| !owners.contains_key(address)) {
        let wider = covering(address).find_map(|wide| owners.get(&wide));
        match (open.contains(&address), wider) {
            (true, Some(&listener)) => plan.keep.push((address, listener.clone())),
            (true, None) => plan.close.push(address),
            (false, Some(&listener)) => {
                plan.open.push(BindPlan { address, listener: listener.clone(), overlaps: true });
            }
            (false, None) => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;

    fn key(name: &str) -> ListenerKey {
        ListenerKey { object: ObjectKey::new("shop", name), port: 1 }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn listener(bind: &str) -> Arc<Listener> {
        Arc::new(Listener::plain(ObjectKey::new("shop", "db"), address(bind)))
    }

    /// The addresses that are opened (`+`, `!` if overlapping), kept (`=`) and closed (`-`).
    fn planned(open: &[&str], wanted: &[(&str, &str)]) -> Vec<String> {
        planned_with(&[], open, wanted)
    }

    fn planned_with(inherited: &[&str], open: &[&str], wanted: &[(&str, &str)]) -> Vec<String> {
        let addresses = |texts: &[&str]| texts.iter().copied().map(address).collect();
        let wanted = wanted.iter().map(|(name, bind)| (key(name), listener(bind))).collect();
        let plan = plan(&addresses(open), &addresses(inherited), &wanted);
        let opened = plan.open.iter().map(|bind| {
            let mark = if bind.overlaps { '!' } else { '+' };
            format!("{mark}{} {}", bind.address, bind.listener.object.name)
        });
        let kept = plan.keep.iter().map(|(address, listener)| format!("={address} {}", listener.object.name));
        opened.chain(kept).chain(plan.close.iter().map(|address| format!("-{address}"))).collect()
    }

    #[test]
    fn addresses_are_opened_kept_and_closed() {
        assert_eq!(planned(&[], &[]), [""; 0]);
        assert_eq!(planned(&[], &[("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]), ["+127.0.0.1:1 a", "+127.0.0.1:2 b"]);
        assert_eq!(planned(&["127.0.0.1:1"], &[("a", "127.0.0.1:2")]), ["+127.0.0.1:2 a", "-127.0.0.1:1"]);
        assert_eq!(planned(&["127.0.0.1:1", "127.0.0.1:2"], &[]), ["-127.0.0.1:1", "-127.0.0.1:2"]);
    }

    #[test]
    fn an_address_that_another_listener_takes_over_keeps_its_sockets() {
        assert_eq!(planned(&["127.0.0.1:1"], &[("b", "127.0.0.1:1")]), ["=127.0.0.1:1 b"]);
    }

    #[test]
    fn an_address_within_a_wider_one_that_replaces_it_keeps_its_sockets() {
        for (narrow, wide) in
            [("127.0.0.1:1", "0.0.0.0:1"), ("127.0.0.1:1", "[::]:1"), ("[::1]:1", "[::]:1"), ("0.0.0.0:1", "[::]:1")]
        {
            let kept = [format!("!{wide} a"), format!("={narrow} a")];
            assert_eq!(planned(&[narrow], &[("a", wide)]), kept);
            assert_eq!(planned(&[narrow, wide], &[("a", wide)]), [format!("={wide} a"), format!("={narrow} a")]);
            // A wider address is not kept for a narrower one.
            assert_eq!(planned(&[wide], &[("a", narrow)]), [format!("!{narrow} a"), format!("-{wide}")]);
        }
        assert_eq!(planned(&["[::1]:1"], &[("a", "0.0.0.0:1")]), ["+0.0.0.0:1 a", "-[::1]:1"]);
        assert_eq!(planned(&["127.0.0.1:1"], &[("a", "[::]:2")]), ["+[::]:2 a", "-127.0.0.1:1"]);
    }

    #[test]
    fn inherited_addresses_are_opened_if_they_are_wanted_or_within_one_that_is() {
        assert_eq!(planned_with(&["127.0.0.1:1"], &[], &[("a", "127.0.0.1:1")]), ["+127.0.0.1:1 a"]);
        let both = ["![::]:1 a", "!127.0.0.1:1 a"];
        assert_eq!(planned_with(&["127.0.0.1:1"], &[], &[("a", "[::]:1")]), both);
        assert_eq!(planned_with(&["127.0.0.1:1", "[::]:1"], &[], &[("a", "[::]:1")]), both);
        assert_eq!(planned_with(&["127.0.0.1:1"], &[], &[("a", "127.0.0.1:2")]), ["+127.0.0.1:2 a"]);
    }

    #[test]
    fn an_address_overlaps_the_same_ones_as_in_a_comparison_with_all() {
        let ips = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "::2", "::ffff:127.0.0.1"];
        let all: Vec<SocketAddr> =
            ips.iter().flat_map(|ip| [1, 2].map(|port| SocketAddr::new(ip.parse().unwrap(), port))).collect();
        for subset in 0..1_u32 << all.len() {
            let present: Vec<SocketAddr> = all
                .iter()
                .enumerate()
                .filter(|(bit, _)| (subset >> bit) & 1 == 1)
                .map(|(_, address)| *address)
                .collect();
            let by_port: AddressesByPort = present.iter().copied().collect();
            for &address in &all {
                let overlaps = present.iter().any(|other| *other != address && overlap(*other, address));
                assert_eq!(by_port.overlap(address), overlaps, "{address} and {present:?}");
            }
        }
    }

    /// Listeners at addresses of their own, of one port or each of its own port.
    fn many(numbers: std::ops::Range<usize>, has_own_ports: bool) -> OrdMap<ListenerKey, Arc<Listener>> {
        let entry = |number: usize| {
            let bind = match has_own_ports {
                true => format!("[::]:{}", number + 1),
                false => format!("127.1.{}.{}:1", number / 256, number % 256),
            };
            (key(&number.to_string()), listener(&bind))
        };
        numbers.map(entry).collect()
    }

    #[test]
    fn the_cost_of_a_plan_is_that_of_sorting_its_addresses() {
        for has_own_ports in [false, true] {
            // Half of the open addresses are closed, and as many others are opened.
            let prepare = |count: usize| {
                let open: BTreeSet<SocketAddr> =
                    many(0..2 * count, has_own_ports).values().map(|listener| listener.bind).collect();
                (open, many(count..3 * count, has_own_ports))
            };
            crate::cost::assert_grows_no_faster_than_n_log_n(500, prepare, |(open, wanted)| {
                let Plan { open: opened, keep, close } = plan(open, &BTreeSet::new(), wanted);
                assert!(opened.len() == keep.len() && keep.len() == close.len());
            });
        }
    }
}
