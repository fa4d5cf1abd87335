use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::model::{Listener, ListenerKey};

pub type Listeners = BTreeMap<ListenerKey, Arc<Listener>>;

/// Listeners of one port number, by address. Many may have addresses of their own for the same port.
#[derive(Clone, Default)]
pub struct PortHolders {
    listeners: Listeners,
    by_ip: BTreeMap<IpAddr, BTreeSet<ListenerKey>>,
    /// Listeners that accept connections to some IPv4 address.
    v4: BTreeSet<ListenerKey>,
}

const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

impl PortHolders {
    pub fn insert(&mut self, key: ListenerKey, listener: Arc<Listener>) {
        let ip = listener.bind.ip();
        if let Some(before) = self.listeners.get(&key).map(|before| before.bind.ip()) {
            self.by_ip.entry(before).or_default().remove(&key);
            self.v4.remove(&key);
        }
        self.by_ip.entry(ip).or_default().insert(key.clone());
        if takes_v4(ip) {
            self.v4.insert(key.clone());
        }
        self.listeners.insert(key, listener);
    }

    pub fn contains(&self, key: &ListenerKey) -> bool {
        self.listeners.contains_key(key)
    }

    /// The first other listener with this address or a part of it, and its bind address.
    pub fn holder(&self, bind: SocketAddr, own: &ListenerKey) -> Option<(&ListenerKey, SocketAddr)> {
        fn first<'a>(keys: impl Iterator<Item = &'a ListenerKey>, own: &ListenerKey) -> Option<&'a ListenerKey> {
            keys.into_iter().find(|key| *key != own)
        }

        let ip = bind.ip();
        let [any_v4, any] = ANY;
        let key = if ip == any {
            first(self.listeners.keys(), own)
        } else if ip == any_v4 {
            first(self.v4.iter(), own)
        } else {
            let wide = if ip.to_canonical().is_ipv4() { &[ip, any_v4, any][..] } else { &[ip, any][..] };
            wide.iter().filter_map(|ip| first(self.by_ip.get(ip)?.iter(), own)).min()
        };
        key.map(|key| (key, self.listeners[key].bind))
    }

    pub fn into_listeners(self) -> Listeners {
        self.listeners
    }
}

/// True if a listener at this address conflicts with one at all IPv4 addresses.
fn takes_v4(ip: IpAddr) -> bool {
    ip == ANY[1] || ip.to_canonical().is_ipv4()
}
