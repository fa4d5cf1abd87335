//! Detection of endpoints that are listeners of the same process, where the world shows it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    model::{EndpointKey, Listener, ListenerKey, ObjectKey, UpstreamConfig, UpstreamKey, loops},
    translate::verdict::{Part, Problem, Reason, Severity, Verdict},
    world::World,
};

/// Drops endpoints through which connections would return to their listener, and reports them.
pub fn drop_loops(
    listeners: &BTreeMap<ListenerKey, Arc<Listener>>,
    upstreams: &mut BTreeMap<UpstreamKey, Arc<UpstreamConfig>>,
    world: &World,
    verdicts: &mut BTreeMap<ObjectKey, Verdict>,
) {
    // Only the serving process knows other addresses of this host.
    for (key, endpoints) in loops(listeners, &*upstreams, |ip: IpAddr| ip.is_loopback()) {
        let object = &key.object;
        let problems = &mut verdicts.entry(object.clone()).or_default().problems;
        problems.extend(endpoints.iter().map(|(endpoint, target)| problem(object, world, endpoint, target)));
        if let Some(upstream) = upstreams.get_mut(&key) {
            Arc::make_mut(upstream).endpoints.retain(|endpoint| !endpoints.contains_key(&endpoint.key));
        }
    }
}

fn problem(object: &ObjectKey, world: &World, endpoint: &EndpointKey, target: &ListenerKey) -> Problem {
    let spec = world.load_balancers.get(object).and_then(|declared| declared.spec.as_ref());
    let backends = spec.map_or(&[][..], |spec| &spec.backends);
    let index = backends.iter().position(|backend| backend.name() == &*endpoint.backend);
    let part = index.map_or(Part::Object, Part::Backend);
    let ListenerKey { object: other, port } = target;
    let what = if other == object {
        format!("this load balancer's own listener {port}")
    } else {
        format!("the listener {port} of {other}, which forwards back to this load balancer")
    };
    Problem {
        severity: Severity::Refused,
        reason: Reason::Invalid,
        part,
        field: part.to_string(),
        message: format!("{} is {what}: write the address of a server; it is ignored", endpoint.address),
    }
}
