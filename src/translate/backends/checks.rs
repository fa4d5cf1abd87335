//! Active health checks.

use std::{cmp, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use hyper::http::{
    HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use rustls::pki_types::ServerName;

use crate::{
    api,
    model::{
        ActiveCheck, Backend, EndpointConfig, Exchange, GrpcHealth, Hidden, HttpRequest, MySqlSession, Password,
        PostgresSession, Probe, RedisSession, Role, Transport, covers_locally,
    },
    translate::{
        context::pods::AddressOwner,
        declaration::Declaration,
        defaults,
        field_errors::FieldPath,
        quotas,
        references::{ReferencedText, object_or_files},
        settings::{MILLISECOND, at_most, given, nonzero_u16, requestable},
        verdict::{Part, Reason},
    },
    world::ProcessMode,
};

/// The active check of the load balancer. `None`: no probes. In a cluster, probes are made only if declared: readiness
/// is Kubernetes' task there, and bare connections hurt some databases.
pub fn of_all(declaration: &Declaration, path: &mut FieldPath) -> Option<Arc<ActiveCheck>> {
    let declared = declaration.spec.health_check.as_ref().and_then(|check| check.active.as_ref());
    match declared {
        None if declaration.context.world.mode != ProcessMode::Standalone => None,
        None => active_check(&api::ActiveCheck::default(), declaration, path),
        Some(declared) => active_check(declared, declaration, path),
    }
}

/// Translates an active check. `None`: no probes.
pub(super) fn active_check(
    declared: &api::ActiveCheck,
    declaration: &Declaration,
    path: &mut FieldPath,
) -> Option<Arc<ActiveCheck>> {
    let intervals = Duration::from_millis(100)..=Duration::from_hours(1);
    let interval = given(declared.interval, defaults::CHECK_INTERVAL);
    let unhealthy_interval = match declared.unhealthy_interval {
        Some(declared) => path.at("unhealthyInterval").duration(declared.0, intervals.clone()),
        None => interval,
    };
    let timeout = match declared.timeout {
        Some(timeout) => {
            let mut path = path.at("timeout");
            let timeout = at_most("the interval", interval, timeout.0, &mut path);
            path.duration(timeout, MILLISECOND..)
        }
        None => cmp::min(interval, defaults::CHECK_TIMEOUT),
    };
    let jitter_percent = declared.jitter_percent.unwrap_or(defaults::CHECK_JITTER_PERCENT);
    let healthy_after = declared.healthy_after.unwrap_or(defaults::HEALTHY_AFTER);
    let unhealthy_after = declared.unhealthy_after.unwrap_or(defaults::UNHEALTHY_AFTER);
    let port = declared.port.map(|port| path.at("port").number(port, 1..=u16::MAX));
    refuse_other_blocks(declared, path);
    refuse_transport(declared, path);
    Some(Arc::new(ActiveCheck {
        probe: probe(declared, declaration, path)?,
        port: port.and_then(NonZeroU16::new),
        transport: match declared.transport {
            Some(api::CheckTransport::Plain) => Transport::Plain,
            Some(api::CheckTransport::Tls) => Transport::Tls,
            // An explicit TLS check uses the verification of connections on any port.
            None if port.is_none() || declared.type_ == api::CheckType::Tls => Transport::AsConnections,
            None => Transport::ByPort,
        },
        interval: path.at("interval").duration(interval, intervals),
        unhealthy_interval,
        jitter_percent: path.at("jitterPercent").number(jitter_percent, 0..=50),
        timeout,
        healthy_after: nonzero_u16(path.at("healthyAfter").number(healthy_after, 1..=100)),
        unhealthy_after: nonzero_u16(path.at("unhealthyAfter").number(unhealthy_after, 1..=100)),
    }))
}

/// Refuses a check that conflicts with the backend, and warns of one that says nothing about it.
pub(super) fn refuse_impossible(
    declared: &api::Backend,
    backend: &Backend,
    endpoints: &[EndpointConfig],
    declaration: &Declaration,
    path: &mut FieldPath,
) {
    let Some(check) = &backend.active_check else { return };
    if check.transport == Transport::Tls && declared.tls.is_none() {
        match declared.health_check.as_ref().and_then(|own| own.active.as_ref()) {
            Some(_) => path
                .at("healthCheck")
                .at("active")
                .at("transport")
                .refuse("transport TLS requires the backend's `tls`: set `tls`, or remove `transport`"),
            None => {
                let message = format!(
                    "backend `{}` has neither `tls` nor a check of its own: set `tls` there, or remove `transport`",
                    declared.name()
                );
                path.part(Part::HealthCheck).at("active").at("transport").refuse(message);
            }
        }
    }
    // Another port of the same address may belong to another process.
    let Some(port) = check.port else { return };
    let probed = |endpoint: &EndpointConfig| SocketAddr::new(endpoint.address().ip(), port.get());
    if let Some(address) = endpoints.iter().map(probed).find(|address| is_own_listener(*address, declaration)) {
        let message = format!(
            "the health check probes {address}, which is this load balancer's own listener, so it does not show the \
             state of the server: write a port of the server in healthCheck.active.port"
        );
        path.warn(Reason::Invalid, message);
    }
    let policy = &declaration.context.address_policy;
    let refused = endpoints.iter().find_map(|endpoint| {
        let address = probed(endpoint);
        let target = if endpoint.key.uid.is_some() { AddressOwner::Pod } else { AddressOwner::Unknown };
        Some((address, policy.refusal(address, target)?))
    });
    if let Some((address, refusal)) = refused {
        let message =
            format!("probes would go to {address}, which is {}: write another port to probe", policy.sentence(refusal));
        path.refuse_for(Reason::NotPermitted, message);
    }
}

/// True for an address at which this load balancer certainly listens.
fn is_own_listener(address: SocketAddr, declaration: &Declaration) -> bool {
    let listeners = declaration.spec.listeners.iter();
    let mut binds = listeners.filter_map(|listener| declaration.context.bindings.local_address(listener));
    binds.any(|bind| covers_locally(bind, address))
}

/// Refuses settings of other check types.
fn refuse_other_blocks(declared: &api::ActiveCheck, path: &mut FieldPath) {
    let blocks = [
        ("exchange", declared.exchange.is_some(), "Exchange", api::CheckType::Exchange),
        ("http", declared.http.is_some(), "HTTP", api::CheckType::Http),
        ("tls", declared.tls.is_some(), "TLS", api::CheckType::Tls),
        ("grpc", declared.grpc.is_some(), "GRPC", api::CheckType::Grpc),
        ("postgres", declared.postgres.is_some(), "Postgres", api::CheckType::Postgres),
        ("mysql", declared.mysql.is_some(), "MySQL", api::CheckType::MySql),
        ("redis", declared.redis.is_some(), "Redis", api::CheckType::Redis),
    ];
    for (block, _, name, _) in blocks.into_iter().filter(|(_, is_there, _, of)| *is_there && *of != declared.type_) {
        path.at(block).refuse(format!("requires type {name}: write `type: {name}`, or remove it"));
    }
}

/// Refuses a transport without effect: it would be mistaken for encryption, and on type TLS it would disable
/// verification.
fn refuse_transport(declared: &api::ActiveCheck, path: &mut FieldPath) {
    let has_none = matches!(declared.type_, api::CheckType::Tcp | api::CheckType::Tls | api::CheckType::None);
    if has_none && declared.transport.is_some() {
        path.at("transport")
            .refuse("transport has no effect with types TCP, TLS and None: write another type, or remove `transport`");
    }
}

/// Translates the probe. `None`: there is none, or it is invalid.
fn probe(declared: &api::ActiveCheck, declaration: &Declaration, path: &mut FieldPath) -> Option<Probe> {
    Some(match declared.type_ {
        api::CheckType::None => return None,
        api::CheckType::Tcp => Probe::Tcp,
        api::CheckType::Exchange => exchange(declared.exchange.as_ref(), &mut path.at("exchange"))?,
        api::CheckType::Http => http(&declared.http.clone().unwrap_or_default(), &mut path.at("http"))?,
        api::CheckType::Tls => {
            let name = declared.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
            Probe::Tls(name.and_then(|name| server_name(name, &mut path.at("tls").at("serverName"))))
        }
        api::CheckType::Grpc => {
            let service = declared.grpc.as_ref().and_then(|grpc| grpc.service.as_ref());
            Probe::Grpc(GrpcHealth { service: service.map_or_else(|| "".into(), line) })
        }
        api::CheckType::Postgres => {
            let session = declared.postgres.clone().unwrap_or_default();
            Probe::Postgres(postgres(&session, declaration, &mut path.at("postgres")))
        }
        api::CheckType::MySql => {
            let mut path = path.at("mysql");
            let Some(session) = &declared.mysql else {
                path.refuse(
                    "type MySQL requires an account, since the server counts connections that do not log in as errors: \
                     write for example `mysql: {user: tcplb}`",
                );
                return None;
            };
            let password = password(session.password_ref.as_ref(), declaration, &mut path);
            Probe::MySql(MySqlSession { user: line(&session.user), password, role: role(session.role) })
        }
        api::CheckType::Redis => {
            let session = declared.redis.clone().unwrap_or_default();
            Probe::Redis(redis(&session, declaration, &mut path.at("redis")))
        }
    })
}

fn exchange(declared: Option<&api::ExchangeCheck>, path: &mut FieldPath) -> Option<Probe> {
    let Some(declared) = declared else {
        path.refuse(
            "type Exchange requires `exchange`: write for example \
             `exchange: {send: {text: \"PING\\r\\n\"}, expect: {text: \"+PONG\"}}`",
        );
        return None;
    };
    let send = match &declared.send {
        Some(send) => bytes(send, &mut path.at("send"))?,
        None => Arc::default(),
    };
    let expect = bytes(&declared.expect, &mut path.at("expect"))?;
    Some(Probe::Exchange(Exchange { send: Hidden::new(send), expect }))
}

fn bytes(declared: &api::CheckBytes, path: &mut FieldPath) -> Option<Arc<[u8]>> {
    match (&declared.text, &declared.hex) {
        (Some(text), None) if !text.is_empty() => Some(text.as_bytes().into()),
        (None, Some(hex)) => Some(hex.0.as_slice().into()),
        _ => {
            path.refuse("write one of text and hex, for example `text: \"PING\\r\\n\"`");
            None
        }
    }
}

fn http(declared: &api::HttpCheck, path: &mut FieldPath) -> Option<Probe> {
    let uri = declared.path.as_ref().map_or("/", |path| &path.0);
    let host = declared.host.as_ref().and_then(|host| header(&HOST, &host.0, &mut path.at("host")));
    let mut headers: Vec<_> = host.into_iter().collect();
    let mut path = path.at("headers");
    for (index, declared) in declared.headers.iter().enumerate() {
        let path = &mut path.item(index);
        match HeaderName::try_from(&declared.name.0) {
            Ok(HOST) => path.refuse("the Host header is set by `host`: write it there"),
            Ok(CONTENT_LENGTH | TRANSFER_ENCODING) => {
                path.refuse("probes have no body: remove Content-Length and Transfer-Encoding");
            }
            Ok(name) => headers.extend(header(&name, &declared.value.0, &mut path.at("value"))),
            Err(_) => path.at("name").refuse("not a header name: write for example X-Token"),
        }
    }
    let statuses = match &declared.statuses[..] {
        [] => vec![defaults::CHECK_STATUSES],
        declared => declared.iter().map(|range| range.0.clone()).collect(),
    };
    Some(Probe::Http(HttpRequest { path: PathAndQuery::try_from(uri).ok()?, headers, statuses }))
}

fn header(name: &HeaderName, value: &str, path: &mut FieldPath) -> Option<(HeaderName, HeaderValue)> {
    let Ok(mut value) = HeaderValue::from_bytes(value.as_bytes()) else {
        path.refuse("not a line of text: write 1 to 256 characters, without control characters");
        return None;
    };
    value.set_sensitive(true);
    Some((name.clone(), value))
}

fn server_name(declared: &api::ServerName, path: &mut FieldPath) -> Option<ServerName<'static>> {
    requestable(declared, "a wildcard cannot be requested: write one name, for example db.example.com", path)
}

/// Translates the login of a PostgreSQL check. `None`: the check does not log in.
fn postgres(declared: &api::PostgresCheck, declaration: &Declaration, path: &mut FieldPath) -> Option<PostgresSession> {
    let role = role(declared.role);
    let Some(user) = &declared.user else {
        if role != Role::Any {
            path.at("role")
                .refuse("role requires user, since PostgreSQL reports its role only after a login: set `user`");
        }
        if declared.password_ref.is_some() {
            path.at("passwordRef").refuse("passwordRef requires user: set `user` or remove `passwordRef`");
        }
        return None;
    };
    let password = password(declared.password_ref.as_ref(), declaration, path);
    let database = declared.database.as_ref().map_or_else(|| defaults::CHECK_DATABASE.into(), line);
    Some(PostgresSession { user: line(user), password, database, role })
}

fn redis(declared: &api::RedisCheck, declaration: &Declaration, path: &mut FieldPath) -> RedisSession {
    if declared.user.is_some() && declared.password_ref.is_none() {
        path.at("user").refuse("user requires passwordRef: set `passwordRef` or remove `user`");
    }
    let password = password(declared.password_ref.as_ref(), declaration, path);
    RedisSession { user: declared.user.as_ref().map(line), password, role: role(declared.role) }
}

fn role(declared: api::CheckRole) -> Role {
    match declared {
        api::CheckRole::Any => Role::Any,
        api::CheckRole::Primary => Role::Primary,
        api::CheckRole::Replica => Role::Replica,
    }
}

fn line(declared: &api::Text) -> Arc<str> {
    declared.0.as_str().into()
}

/// Reads the password of a `passwordRef`. Messages never contain any part of it.
fn password(reference: Option<&api::PasswordRef>, declaration: &Declaration, path: &mut FieldPath) -> Option<Password> {
    let reference = reference?;
    let mut path = path.at("passwordRef");
    if let Some(unchecked) = declaration.unchecked(reference.reference()) {
        unchecked.warn(&mut path);
        return None;
    }
    let found = match declaration.beyond_quota(reference.reference()) {
        Some(referred) => Err((Reason::NotPermitted, quotas::beyond(&referred, declaration))),
        None => found(reference, declaration).and_then(readable).map_err(|message| (Reason::RefNotFound, message)),
    };
    found.map_err(|(reason, message)| path.refuse_for(reason, message)).ok()
}

fn found<'a>(reference: &api::PasswordRef, declaration: &Declaration<'a>) -> Result<ReferencedText<'a>, String> {
    let world = declaration.context.world;
    match object_or_files(reference.reference(), ("file", reference.file.as_ref()), "a Secret", declaration)? {
        (Some(secret), _) => ReferencedText::of(&secret, reference.key(), world)?.ok_or_else(|| {
            // The declared key may be the password itself, by mistake.
            let key = if reference.key.is_some() { "that `key`" } else { "the key `password`" };
            format!("{secret} has no password under {key}: set `key` to the key with the password")
        }),
        (None, Some(file)) => ReferencedText::of_file(file, declaration.folder, world),
        (None, None) => Err("neither name nor file is set: write the name of a Secret, or a file".into()),
    }
}

fn readable(ReferencedText { title, bytes }: ReferencedText) -> Result<Password, String> {
    const LONGEST: usize = 1024;

    let wrong = |what: &str| Err(format!("{title} {what}"));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.contains(&0) {
        return wrong("is UTF-16 or not text: save it as UTF-8");
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return wrong("is not text in UTF-8: save it as UTF-8");
    };
    let line = text.strip_suffix('\n').unwrap_or(text);
    let text = line.strip_suffix('\r').unwrap_or(line);
    if text.contains('\u{feff}') {
        return wrong(
            "has a byte order mark, which would be part of the password: save it without one (UTF-8, no BOM)",
        );
    }
    match text {
        "" => wrong("is empty: write a password there"),
        _ if text.len() > LONGEST || text.contains(|c: char| c.is_ascii_control()) => {
            Err(format!("{title} is not a password: write one line of at most {LONGEST} bytes"))
        }
        text => Ok(Hidden::new(text.into())),
    }
}
