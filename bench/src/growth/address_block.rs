//! Loopback addresses and ports that are reserved for one run, so that concurrent runs do not disturb each other.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

use anyhow::{Context, Result};

/// The number of load balancers per third byte of an address.
const PER_BYTE: usize = 250;
const LISTENER_PORT: u16 = 7000;
const LOCK_PORT: u16 = 7001;
const ADMIN_PORT: u16 = 7002;

/// The addresses `127.BLOCK.0.0/16`. They are reserved until this is dropped.
pub struct AddressBlock {
    second_byte: u8,
    _lock: TcpListener,
}

impl AddressBlock {
    pub fn reserve() -> Result<Self> {
        let free = (64..=119).find_map(|second_byte| {
            let lock = TcpListener::bind((Ipv4Addr::new(127, second_byte, 255, 254), LOCK_PORT)).ok()?;
            Some(Self { second_byte, _lock: lock })
        });
        free.context("all blocks of loopback addresses are in use")
    }

    /// The address that clients of a load balancer connect to.
    pub fn listener(&self, load_balancer: usize) -> SocketAddr {
        let [third, fourth] = [load_balancer / PER_BYTE, load_balancer % PER_BYTE + 1].map(|byte| byte as u8);
        (Ipv4Addr::new(127, self.second_byte, third, fourth), LISTENER_PORT).into()
    }

    /// The address of the admin pages.
    pub fn admin(&self) -> SocketAddr {
        (self.own(), ADMIN_PORT).into()
    }

    /// The address of servers of this program.
    pub fn own(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second_byte, 255, 254)
    }

    /// An address of an endpoint, with any number up to 16,000.
    pub fn endpoint(&self, number: usize) -> Ipv4Addr {
        let [third, fourth] = [128 + number / PER_BYTE, number % PER_BYTE + 1].map(|byte| byte as u8);
        Ipv4Addr::new(127, self.second_byte, third, fourth)
    }
}

/// The number of ports that one lock covers.
const STRIDE: u16 = 500;

/// Consecutive ports on all addresses. They are reserved until this is dropped.
pub struct PortBlock {
    pub ports: Range<u16>,
    _locks: Vec<TcpListener>,
}

impl PortBlock {
    /// Reserves at least `count` ports below those of the other benchmarks.
    pub fn reserve(count: usize) -> Result<Self> {
        let locks = count.div_ceil(usize::from(STRIDE) - 1);
        let bases = (10_000..28_000 - STRIDE * locks as u16).step_by(STRIDE.into());
        bases.into_iter().find_map(|base| Self::at(base, locks)).context("no ports are free")
    }

    fn at(base: u16, locks: usize) -> Option<Self> {
        let lock = |index| TcpListener::bind((Ipv4Addr::LOCALHOST, base + STRIDE * index as u16)).ok();
        let held: Vec<TcpListener> = (0..locks).map_while(lock).collect();
        (held.len() == locks).then(|| Self { ports: base..base + STRIDE * locks as u16, _locks: held })
    }

    /// The ports except those of the locks.
    pub fn usable(&self) -> impl Iterator<Item = u16> {
        self.ports.clone().filter(|port| port % STRIDE != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_do_not_overlap() {
        let (one, other) = (PortBlock::reserve(2000).unwrap(), PortBlock::reserve(200).unwrap());
        assert!(one.usable().count() >= 2000);
        assert!(one.usable().all(|port| !other.ports.contains(&port)));
        let (one, other) = (AddressBlock::reserve().unwrap(), AddressBlock::reserve().unwrap());
        assert_ne!(one.admin(), other.admin());
        assert_ne!(one.listener(0), one.listener(250));
    }
}
