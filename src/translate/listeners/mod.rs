//! Listener settings: everything that applies to a connection before an endpoint is picked.

pub(super) mod client_address;
pub(super) mod ports;
mod routes;
pub(super) mod service;

use std::{sync::Arc, time::Duration};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    declaration::Declaration,
    field_errors::FieldPath,
    settings::{nonzero_u32, start_tls},
    tls::certificates::CertificateLoader,
    verdict::{Part, Reason},
};
use crate::{
    api,
    model::{
        Access, AccessLogMode, AccessLogSettings, Keepalive, Limits, Listener, ListenerDrain, ProxyMode, ProxyProtocol,
        Rate, Timeouts, Tls, TlsMode, TlsVersion, UpstreamKey,
    },
};

/// Settings shared by all listeners of a load balancer. `None`: the declared value is invalid.
pub(super) struct CommonSettings {
    pub timeouts: Option<Timeouts>,
    pub keepalive: Option<Option<Keepalive>>,
    pub drain: Option<ListenerDrain>,
}

/// Translates a listener; the result is valid only if nothing was refused. `None`: something in `shared` is invalid, or
/// the listener has no address yet.
pub(super) fn translate(
    declared: &api::Listener,
    shared: &CommonSettings,
    declaration: &Declaration,
    certificates: &mut CertificateLoader,
    path: &mut FieldPath,
) -> Option<Listener> {
    let Declaration { object, uid, context, .. } = *declaration;
    let bind = context.bindings.address(object, uid, declared, path);
    client_address::check(declared, declaration.spec, context.world, path);
    let tls = tls(declared, declaration, certificates, path);
    if declared.tls.is_none() && !declared.routes.is_empty() {
        path.at("routes").refuse(
            "routes require tls, since they match TLS server names: write for example `tls: {mode: Passthrough}`, or \
             remove `routes`",
        );
    }
    let proxy_protocol =
        declared.proxy_protocol.as_ref().map(|declared| proxy_protocol(declared, &mut path.at("proxyProtocol")));
    let access = access(declared.access.as_ref(), &mut path.at("access").with_part(Part::ClientRule));
    let limits = limits(declared.limits.as_ref(), &mut path.at("limits"));
    let access_log = access_log(declared.access_log.as_ref(), &mut path.at("accessLog"));
    Some(Listener {
        name: declared.name.as_ref().map_or_else(|| declared.port.to_string().into(), |name| name.0.as_str().into()),
        bind: bind?,
        upstream: UpstreamKey { object: object.clone() },
        owner: uid.map(Into::into),
        tls,
        proxy_protocol,
        access,
        limits,
        timeouts: shared.timeouts?,
        keepalive: shared.keepalive?,
        drain: shared.drain?,
        access_log,
    })
}

fn tls(
    listener: &api::Listener,
    declaration: &Declaration,
    certificates: &mut CertificateLoader,
    path: &mut FieldPath,
) -> Option<Tls> {
    let tls = listener.tls.as_ref()?;
    let before = declaration.last_good_listener(listener).and_then(|before| before.tls.as_ref());
    let routes = routes::translate(listener, tls, declaration, &mut path.at("routes"));
    let mut path = path.at("tls").with_part(Part::ListenerTls);
    let terminates = routes.iter().any(|route| route.mode == TlsMode::Terminate);
    let presented = before.map_or(&[][..], |tls| &tls.certificates);
    if !terminates {
        let declared = [
            ("certificateRefs", !tls.certificate_refs.is_empty()),
            ("minVersion", tls.min_version == api::TlsVersion::V1_3),
            ("alpn", !tls.alpn.is_empty()),
            ("clientValidation", tls.client_validation.is_some()),
        ];
        for (field, is_set) in declared {
            if is_set {
                let message = "has no effect, since TLS of all connections is passed through: remove it";
                path.at(field).warn(Reason::Invalid, message);
            }
        }
    }
    Some(Tls {
        certificates: match terminates {
            true => certificates.translate(tls, declaration, presented, &mut path),
            false => Vec::new(),
        },
        min_version: match tls.min_version {
            api::TlsVersion::V1_2 => TlsVersion::V1_2,
            api::TlsVersion::V1_3 => TlsVersion::V1_3,
        },
        alpn: match tls.start_tls {
            // PostgreSQL 17 clients require it for direct TLS.
            Some(api::StartTls::Postgres) if tls.alpn.is_empty() => vec!["postgresql".into()],
            Some(api::StartTls::Postgres) | None => application_protocols(&tls.alpn, &mut path.at("alpn")),
        },
        start_tls: start_tls(tls.start_tls),
        client_validation: tls.client_validation.as_ref().filter(|_| terminates).and_then(|declared| {
            let before = before.and_then(|tls| tls.client_validation.as_ref());
            certificates.client_validation(declared, declaration, before, &mut path.at("clientValidation"))
        }),
        routes,
    })
}

fn application_protocols(declared: &[String], path: &mut FieldPath) -> Vec<Arc<str>> {
    for (index, protocol) in declared.iter().enumerate() {
        // Same limit as the schema. RFC 7301 counts bytes, of which a character has up to four, in one byte.
        if !(1..=63).contains(&protocol.chars().count()) {
            path.item(index)
                .refuse("not an application protocol: write at most 63 characters, for example h2 or postgresql");
        }
    }
    declared.iter().map(|protocol| protocol.as_str().into()).collect()
}

fn proxy_protocol(declared: &api::ProxyProtocol, path: &mut FieldPath) -> ProxyProtocol {
    let mut path = path.at("trustedNetworks");
    if declared.trusted_networks.is_empty() {
        path.refuse(
            "must not be empty, since no peer could send the header: write the addresses of the load balancers in \
             front, or remove `proxyProtocol`",
        );
    }
    let aggregated = aggregated(&declared.trusted_networks);
    if let Some(everyone) = aggregated.iter().find(|network| network.prefix_len() == 0) {
        path.warn(
            Reason::Invalid,
            format!(
                "{everyone} trusts all peers, so every client can forge its address: write the addresses of the load \
                 balancers in front"
            ),
        );
    }
    ProxyProtocol {
        mode: match declared.mode {
            api::ProxyProtocolMode::Optional => ProxyMode::Optional,
            api::ProxyProtocolMode::Required => ProxyMode::Required,
        },
        trusted: aggregated.into_iter().collect(),
    }
}

fn access(declared: Option<&api::Access>, path: &mut FieldPath) -> Access {
    let Some(declared) = declared else { return Access::default() };
    let (allow, deny) = (aggregated(&declared.allow), aggregated(&declared.deny));
    if allow.is_empty() && deny.is_empty() {
        path.warn(
            Reason::Invalid,
            "has no networks, so all clients may connect: write some in `allow` or `deny`, or remove the field",
        );
    }
    let everyone = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let allowed = if allow.is_empty() { &everyone[..] } else { &allow };
    if allowed.iter().all(|allowed| deny.iter().any(|denied| denied.contains(allowed))) {
        path.at("deny").warn(
            Reason::Invalid,
            "covers all allowed clients, so none can connect: write fewer networks, or remove the listener",
        );
    }
    Access { allow: allow.into_iter().collect(), deny: deny.into_iter().collect() }
}

/// Merges networks where possible, so that overlaps and coverage can be compared.
fn aggregated(networks: &[api::Network]) -> Vec<IpNet> {
    IpNet::aggregate(&networks.iter().map(|network| network.0).collect())
}

fn limits(declared: Option<&api::Limits>, path: &mut FieldPath) -> Limits {
    let Some(declared) = declared else { return Limits::default() };
    let connections =
        |limit: Option<u32>, mut path: FieldPath| limit.map(|limit| nonzero_u32(path.number(limit, 1..=MAX_COUNT)));
    let rate = |declared: Option<&api::Rate>, mut path: FieldPath| declared.map(|declared| rate(declared, &mut path));
    Limits {
        max_connections: connections(declared.max_connections, path.at("maxConnections")),
        max_connections_per_source: connections(
            declared.max_connections_per_source,
            path.at("maxConnectionsPerSource").with_part(Part::ClientRule),
        ),
        new_connections: rate(declared.new_connections.as_ref(), path.at("newConnections")),
        new_connections_per_source: rate(
            declared.new_connections_per_source.as_ref(),
            path.at("newConnectionsPerSource").with_part(Part::ClientRule),
        ),
    }
}

/// Same limit as the schema.
const MAX_COUNT: u32 = 10_000_000;

fn rate(declared: &api::Rate, path: &mut FieldPath) -> Rate {
    let count = path.at("count").number(declared.count, 1..=MAX_COUNT);
    let burst = declared.burst.map(|burst| path.at("burst").number(burst, 1..=MAX_COUNT));
    let per = path.at("per").duration(declared.per.0, Duration::from_secs(1)..=Duration::from_hours(1));
    Rate { count: nonzero_u32(count), per, burst: nonzero_u32(burst.unwrap_or(count)) }
}

fn access_log(declared: Option<&api::AccessLogSettings>, path: &mut FieldPath) -> AccessLogSettings {
    let Some(declared) = declared else { return AccessLogSettings::default() };
    let mode = match declared.mode.unwrap_or_default() {
        api::AccessLogMode::All => AccessLogMode::All,
        api::AccessLogMode::Failures => AccessLogMode::Failures,
        api::AccessLogMode::Off => AccessLogMode::Off,
    };
    // Same limit as the schema.
    let sample = declared.sample.map_or(1, |sample| path.at("sample").number(sample, 1..=1_000_000));
    if mode != AccessLogMode::All && declared.sample.is_some() {
        path.at("sample").warn(Reason::Invalid, "has an effect only with `mode: All`: remove it, or write `mode: All`");
    }
    AccessLogSettings { mode, sample: nonzero_u32(sample) }
}
