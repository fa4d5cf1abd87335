use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::model::ObjectKey;

const ADDRESSES: [&str; 6] = ["::", "0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"];

fn listener(key: &ListenerKey, address: &str) -> Arc<Listener> {
    let bind = SocketAddr::new(address.parse().unwrap(), key.port);
    Arc::new(Listener::plain(key.object.clone(), bind))
}

/// Requests of the load balancers `a` to `f` for two ports. `None`: they are invalid, and keep their listeners.
fn wanted() -> impl Strategy<Value = BTreeMap<ListenerKey, Option<Arc<Listener>>>> {
    let key = ("[a-f]", 1..=2u16).prop_map(|(name, port)| ListenerKey { object: ObjectKey::new("shop", &name), port });
    let address = prop::option::weighted(0.9, prop::sample::select(&ADDRESSES[..]));
    prop::collection::btree_map(key, address, 0..8).prop_map(|wanted| {
        wanted.into_iter().map(|(key, address)| (key.clone(), address.map(|address| listener(&key, address)))).collect()
    })
}

fn requests(
    wanted: &BTreeMap<ListenerKey, Option<Arc<Listener>>>,
    previous: &Listeners,
) -> BTreeMap<ListenerKey, ListenerRequest> {
    let request = |(key, wanted): (&ListenerKey, &Option<Arc<Listener>>)| {
        let request = match wanted {
            Some(listener) => {
                ListenerRequest::Declared { listener: listener.clone(), index: 0, before: previous.get(key).cloned() }
            }
            None => ListenerRequest::LastGood(previous.get(key)?.clone()),
        };
        Some((key.clone(), request))
    };
    wanted.iter().filter_map(request).collect()
}

fn overlapping(listeners: &Listeners) -> bool {
    let binds: Vec<_> = listeners.values().map(|listener| listener.bind).collect();
    (0..binds.len()).any(|one| (0..one).any(|other| overlap(binds[one], binds[other])))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn addresses_are_never_shared_and_serving_listeners_keep_theirs(history in prop::collection::vec(wanted(), 1..6)) {
        let mut previous = Listeners::new();
        for wanted in history {
            let (served, problems) = settle(requests(&wanted, &previous));
            prop_assert!(!overlapping(&served));

            for (key, wanted) in &wanted {
                if previous.contains_key(key) {
                    prop_assert!(served.contains_key(key), "{key} stopped");
                }
                if let Some(wanted) = wanted {
                    let as_declared = served.get(key) == Some(wanted);
                    prop_assert_eq!(as_declared, !problems.contains_key(key), "{}", key);
                    let in_the_way = served.iter().any(|(other, taken)| other != key && overlap(taken.bind, wanted.bind));
                    prop_assert_eq!(in_the_way, !as_declared, "{}", key);
                }
            }
            let declared: Listeners = wanted.iter().filter_map(|(key, wanted)| Some((key.clone(), wanted.clone()?))).collect();
            if declared.len() == wanted.len() && !overlapping(&declared) {
                prop_assert_eq!(&served, &declared, "there was no conflict");
            }
            prop_assert_eq!(&settle(requests(&wanted, &served)), &(served.clone(), problems), "not at rest");
            previous = served;
        }
    }
}

proptest! {
    #[test]
    fn the_holder_of_an_address_is_the_first_that_overlaps(
        wanted in prop::collection::btree_map("[a-z]{2}", prop::sample::select(&ADDRESSES[..]), 0..12),
        bind in prop::sample::select(&ADDRESSES[..]),
        own in "[a-z]{2}",
    ) {
        let key = |name: &str| ListenerKey { object: ObjectKey::new("shop", name), port: 1 };
        let mut held = PortHolders::default();
        for (name, address) in &wanted {
            // An earlier address of the same listener no longer counts.
            held.insert(key(name), listener(&key(name), bind));
            held.insert(key(name), listener(&key(name), address));
        }
        let bind = SocketAddr::new(bind.parse().unwrap(), 1);
        let of = |(name, address): (&String, &&str)| (key(name), SocketAddr::new(address.parse().unwrap(), 1));
        let first = wanted.iter().map(of).find(|(other, held)| *other != key(&own) && overlap(*held, bind));
        let holder = held.holder(bind, &key(&own)).map(|(key, bind)| (key.clone(), bind));
        prop_assert_eq!(holder, first);
    }
}

#[test]
fn settling_listeners_of_one_port_takes_the_time_of_sorting() {
    let requests = |count: usize| -> BTreeMap<ListenerKey, ListenerRequest> {
        let request = |number: usize| {
            let key = ListenerKey { object: ObjectKey::new("shop", &number.to_string()), port: 1 };
            // Each address is requested twice.
            let listener = listener(&key, &format!("10.{}.{}.1", number / 2 / 250, number / 2 % 250));
            (key, ListenerRequest::Declared { listener, index: 0, before: None })
        };
        (0..count).map(request).collect()
    };
    crate::cost::assert_grows_no_faster_than_n_log_n(500, requests, |requests| {
        let count = requests.len();
        let (served, problems) = settle(std::mem::take(requests));
        assert_eq!((served.len(), problems.len()), (count / 2, count / 2));
    });
}
