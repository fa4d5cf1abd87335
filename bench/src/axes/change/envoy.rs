//! The configuration of Envoy: a file, and one with the endpoints that change.

use std::fmt::Write;

use super::{
    endpoints::{State, each},
    many::{BACKEND_PORT, FIRST_PORT, Many},
};

/// The changing endpoints are in a watched file of their own. Envoy could not watch 500 files: each needs one of the
/// few inotify instances of a user.
pub fn configuration(many: Many) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for load_balancer in 0..many.load_balancers {
        let (name, port) = (format!("lb-{load_balancer}"), FIRST_PORT + load_balancer);
        write!(
            listeners,
            "  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: lb
          cluster: {name}\n"
        )
        .expect("strings take all");
        if load_balancer == many.changing() {
            write!(
                clusters,
                "  - name: {name}
    type: EDS
    eds_cluster_config: {{eds_config: {{path_config_source: {{path: parts/{name}.yaml}}}}}}\n"
            )
            .expect("strings take all");
        } else {
            let endpoints = endpoint_list(many, load_balancer, State::Before);
            write!(
                clusters,
                "  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints: [{endpoints}]\n"
            )
            .expect("strings take all");
        }
    }
    format!("node: {{id: bench, cluster: bench}}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

pub fn endpoints_file(many: Many, load_balancer: u16, state: State) -> String {
    let endpoints = endpoint_list(many, load_balancer, state);
    format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: \
         lb-{load_balancer}\n  endpoints:\n  - lb_endpoints: [{endpoints}]\n"
    )
}

fn endpoint_list(many: Many, load_balancer: u16, state: State) -> String {
    each(many, load_balancer, state, |_, host| {
        format!("{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {BACKEND_PORT}}}}}}}}}, ")
    })
}
