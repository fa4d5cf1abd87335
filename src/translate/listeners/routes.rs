//! Routes from TLS server names to backends.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api,
    model::{Route, TlsMode},
    translate::{declaration::Declaration, field_errors::FieldPath, messages::listed, verdict::Reason},
};

/// Translates the routes; there is at least one unless something is refused. An unknown backend costs its route only:
/// clients of that route are not sent to other backends.
pub(super) fn translate(
    declared: &api::Listener,
    tls: &api::ListenerTls,
    declaration: &Declaration,
    path: &mut FieldPath,
) -> Vec<Route> {
    if declared.routes.is_empty() {
        return vec![Route { server_names: Vec::new(), mode: mode(tls.mode), backends: None }];
    }
    let mut declared_names = BTreeSet::new();
    let mut for_all_others = None;
    let mut routes = Vec::with_capacity(declared.routes.len());
    for (index, route) in declared.routes.iter().enumerate() {
        let mut path = path.item(index);
        if route.server_names.is_empty()
            && let Some(first) = for_all_others.replace(index)
        {
            path.at("serverNames").refuse(format!(
                "is empty, like that of routes[{first}], but only one route can be the default: write the server names \
                 of this route"
            ));
        }
        for (number, name) in route.server_names.iter().enumerate() {
            if !declared_names.insert(name) {
                path.at("serverNames")
                    .item(number)
                    .refuse(format!("`{name}` is also a server name of another route: remove it from one of them"));
            }
        }
        routes.push(Route {
            server_names: route.server_names.iter().map(|name| name.0.as_str().into()).collect(),
            mode: mode(route.tls.as_ref().map_or(tls.mode, |tls| tls.mode)),
            backends: leads_to(route, declaration, &mut path.at("backends")),
        });
    }
    routes
}

fn mode(declared: api::TlsMode) -> TlsMode {
    match declared {
        api::TlsMode::Terminate => TlsMode::Terminate,
        api::TlsMode::Passthrough => TlsMode::Passthrough,
    }
}

fn leads_to(route: &api::Route, declaration: &Declaration, path: &mut FieldPath) -> Option<Arc<[Arc<str>]>> {
    if route.backends.is_empty() {
        return None;
    }
    let declared_backends: Vec<_> = declaration.spec.backends.iter().map(api::Backend::name).collect();
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    for (index, name) in route.backends.iter().enumerate() {
        if declared_backends.contains(&name.0.as_str()) {
            names.insert(name.0.as_str().into());
            continue;
        }
        let only = if route.backends.len() == 1 { "; connections of this route are refused" } else { "" };
        path.item(index).drop_item(
            Reason::RefNotFound,
            format!("no backend is named `{name}`: write one of {}; ignored{only}", listed(&declared_backends)),
        );
    }
    Some(names.into_iter().collect())
}
