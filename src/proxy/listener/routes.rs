//! Routes: the endpoints of each server name.

use std::{collections::HashMap, sync::Arc};

use crate::{model::TlsMode, upstream::Subset};

/// The TLS mode and the endpoints of a route.
#[derive(Debug)]
pub struct RouteTarget {
    /// The name in the access log: the first server name, or `*` for the default route. `None`: it is the only route,
    /// for all clients.
    pub name: Option<Arc<str>>,
    pub mode: TlsMode,
    pub subset: Arc<Subset>,
}

/// The routes of a listener.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<RouteTarget>,
    /// Indexes into `routes`, by server name.
    exact: HashMap<Arc<str>, usize>,
    /// Indexes into `routes`, by the suffix of a wildcard after the `*.`.
    below: HashMap<Arc<str>, usize>,
    others: Option<usize>,
}

impl Routes {
    /// Takes each route with its server names; a route without names is the default.
    pub fn new<'a>(routes: impl IntoIterator<Item = (&'a [Arc<str>], RouteTarget)>) -> Self {
        let mut all = Self { routes: Vec::new(), exact: HashMap::new(), below: HashMap::new(), others: None };
        for (names, route) in routes {
            let place = all.routes.len();
            all.routes.push(route);
            if names.is_empty() {
                all.others = Some(place);
            }
            for name in names {
                match name.strip_prefix("*.") {
                    Some(suffix) => all.below.insert(suffix.into(), place),
                    None => all.exact.insert(name.clone(), place),
                };
            }
        }
        all
    }

    /// The route for a server name in lower case: the exact name, else the longest wildcard, else the default. `None`:
    /// no route matches.
    pub fn find(&self, server_name: Option<&str>) -> Option<&RouteTarget> {
        let named = server_name.and_then(|name| self.exact.get(name).or_else(|| self.below(name)));
        named.or(self.others.as_ref()).map(|place| &self.routes[*place])
    }

    fn below(&self, name: &str) -> Option<&usize> {
        let mut suffixes = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        suffixes.find_map(|suffix| self.below.get(suffix))
    }

    pub fn all(&self) -> &[RouteTarget] {
        &self.routes
    }
}
