use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{EndpointKey, ListenerKey, Loops, ObjectKey, UpstreamKey};

/// The maximum number of dropped endpoints that are named for each load balancer.
const MAX_NAMED: usize = 10;

/// The result of applying a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The generation of the applied snapshot.
    pub generation: u64,
    pub listeners: Arc<BTreeMap<ListenerKey, BindState>>,
    /// Endpoints that are dropped because their connections would return to their listener.
    pub loops: Loops,
    /// A counter that increases when endpoints may have become usable or unusable, so that views are refreshed.
    pub usable_changes: u64,
}

impl Report {
    /// The listeners that could not be bound, with the reason.
    pub fn unbound(&self) -> impl Iterator<Item = (&ListenerKey, &Arc<str>)> {
        self.listeners.iter().filter_map(|(key, state)| match state {
            BindState::Bound(_) => None,
            BindState::Failed(sentence) => Some((key, sentence)),
        })
    }

    /// A sentence for each dropped endpoint of a load balancer. The last one counts those beyond the limit.
    pub fn left_out_of(&self, object: &ObjectKey) -> Vec<String> {
        let Some(endpoints) = self.loops.get(&UpstreamKey { object: object.clone() }) else { return Vec::new() };
        let sentence = |(endpoint, listener): (&EndpointKey, &ListenerKey)| {
            let EndpointKey { address, backend, .. } = endpoint;
            format!(
                "backend `{backend}`: {address} is an address of this host and leads to the listener {} of {}, which \
                 forwards back to this load balancer: write the address of a server; it is ignored",
                listener.port, listener.object
            )
        };
        let mut sentences: Vec<String> = endpoints.iter().take(MAX_NAMED).map(sentence).collect();
        if let more @ 1.. = endpoints.len() - sentences.len() {
            sentences.push(format!("and {more} more endpoints are ignored for the same reason"));
        }
        sentences
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindState {
    /// Accepts connections on this address.
    Bound(SocketAddr),
    /// Not bound; retried with growing pauses. A sentence with the reason.
    Failed(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_are_left_out_are_named_up_to_a_limit_and_counted_beyond() {
        let object = ObjectKey::new("shop", "a");
        let listener = ListenerKey { object: object.clone(), port: 4000 };
        let endpoint = |last: u8| {
            let address = SocketAddr::from(([10, 0, 0, last], 4000));
            (EndpointKey { backend: "db".into(), address, uid: None }, listener.clone())
        };
        for (count, expected) in [(1, 1), (10, 10), (11, 11), (200, 11)] {
            let endpoints = (0..count).map(endpoint).collect();
            let loops = Loops::from([(UpstreamKey { object: object.clone() }, endpoints)]);
            let sentences = Report { loops, ..Report::default() }.left_out_of(&object);
            assert_eq!(sentences.len(), expected);
            let more = sentences.last().unwrap().contains(&format!("and {} more", count.saturating_sub(10)));
            assert_eq!(more, count > 10, "{sentences:?}");
        }
        assert!(Report::default().left_out_of(&object).is_empty());
    }
}
