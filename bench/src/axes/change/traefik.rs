//! The configuration of Traefik: entry points in a static file, and a watched file with everything else.

use std::fmt::Write;

use super::{
    endpoints::{State, each},
    many::{BACKEND_PORT, FIRST_PORT, Many},
};

/// The name of the watched file.
pub const WATCHED: &str = "traefik-watched.yaml";

/// The throttle of changes is the shortest, instead of 2 s.
pub fn configuration(many: Many) -> String {
    let mut text = format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}\nlog: {{level: ERROR}}\nproviders:\n  \
         providersThrottleDuration: 1ms\n  file: {{filename: {WATCHED}, watch: true}}\nentryPoints:\n"
    );
    for load_balancer in 0..many.load_balancers {
        let port = FIRST_PORT + load_balancer;
        writeln!(text, "  lb-{load_balancer}: {{address: \"127.0.0.1:{port}\"}}").expect("strings take all");
    }
    text
}

pub fn watched(many: Many, state: State) -> String {
    let (mut routers, mut services) = (String::new(), String::new());
    for load_balancer in 0..many.load_balancers {
        let name = format!("lb-{load_balancer}");
        writeln!(routers, "    {name}: {{entryPoints: [{name}], rule: \"HostSNI(`*`)\", service: {name}}}")
            .expect("strings take all");
        let servers = each(many, load_balancer, state, |_, host| format!("{{address: \"{host}:{BACKEND_PORT}\"}}, "));
        writeln!(services, "    {name}: {{loadBalancer: {{servers: [{servers}]}}}}").expect("strings take all");
    }
    format!("tcp:\n  routers:\n{routers}  services:\n{services}")
}
