//! What the process tells about itself over HTTP: metrics, health, and what is applied.

mod page;
mod snapshot;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router, extract,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    metrics::Metrics,
    proxy::Monitor,
    translate::{Severity, Verdicts},
};

/// A worker that was not seen alive for this long counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

/// What the rest of the process tells its admin pages.
#[derive(Debug, Default)]
pub struct State {
    ready: AtomicBool,
    leaving: AtomicBool,
    configuration: ArcSwap<Configuration>,
}

/// What came of the manifests when they were last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub verdicts: Verdicts,
    /// What is wrong with no load balancer in particular.
    pub problems: Vec<String>,
}

impl Configuration {
    /// How many problems of this kind there are; those of no load balancer in particular count as refusals.
    pub fn problems_of(&self, severity: Severity) -> usize {
        let of_objects = self.verdicts.values().flat_map(|verdict| &verdict.problems);
        let general = if severity == Severity::Refused { self.problems.len() } else { 0 };
        general + of_objects.filter(|problem| problem.severity == severity).count()
    }
}

impl State {
    /// Whether connections are served: true from the first applied snapshot until the listeners close.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// From now on `/lb-ready` fails: new connections had better go elsewhere.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub fn set_configuration(&self, configuration: Configuration) {
        self.configuration.store(Arc::new(configuration));
    }

    pub fn configuration(&self) -> Arc<Configuration> {
        self.configuration.load_full()
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    fn takes_new_connections(&self) -> bool {
        self.is_ready() && !self.leaving.load(Relaxed)
    }
}

/// Serves the admin pages until `stop` is ready.
pub async fn serve(listener: TcpListener, monitor: Monitor, state: Arc<State>, stop: impl Future<Output = ()>) {
    let metrics = Metrics::new(monitor.clone(), state.clone());
    let router = router(Arc::new(Pages { monitor, state, metrics }));
    tokio::select! {
        served = axum::serve(listener, router) => if let Err(error) = served {
            tracing::error!(%error, "the admin pages are no longer served");
        },
        () = stop => {}
    }
}

struct Pages {
    monitor: Monitor,
    state: Arc<State>,
    metrics: Metrics,
}

fn router(pages: Arc<Pages>) -> Router {
    type Pages = extract::State<Arc<self::Pages>>;

    Router::new()
        .route("/", get(|pages: Pages| async move { Html(page::render(&pages.monitor, &pages.state)) }))
        .route("/livez", get(|pages: Pages| async move { live(&pages.monitor) }))
        .route("/readyz", get(|pages: Pages| async move { answer(pages.state.is_ready(), "not ready\n") }))
        .route(
            "/lb-ready",
            get(
                |pages: Pages| async move { answer(pages.state.takes_new_connections(), "takes no new connections\n") },
            ),
        )
        .route("/snapshot", get(|pages: Pages| async move { json(&snapshot::of(&pages.monitor, &pages.state)) }))
        .route("/metrics", get(|pages: Pages| async move { text(&pages.metrics) }))
        .with_state(pages)
}

fn live(monitor: &Monitor) -> Response {
    let stuck = monitor.workers_silent_for().position(|silent| silent > STUCK);
    match stuck {
        Some(worker) => answer(false, &format!("worker {worker} is stuck\n")),
        None => answer(true, ""),
    }
}

fn answer(good: bool, otherwise: &str) -> Response {
    if good { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise.to_owned()).into_response() }
}

fn json(value: &impl serde::Serialize) -> Response {
    // Strings, numbers and maps with string keys: nothing in it can fail to be JSON.
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

fn text(metrics: &Metrics) -> Response {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text()).into_response()
}
