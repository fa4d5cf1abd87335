//! Imitates the part of an API server that watches use, with injectable faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::stream;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    sync::watch,
};

/// An API server with scripted answers.
pub struct ApiServer {
    contents: Arc<Contents>,
    address: String,
    /// A separate runtime, so that its connections end with it.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Contents {
    state: Mutex<ScriptedState>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub struct ScriptedState {
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    /// The events for watches, in order. Its length is the resource version.
    log: Vec<WatchResponse>,
    /// The ends of refused paths.
    refused: BTreeSet<String>,
    unwatchable: BTreeSet<String>,
    silent: BTreeSet<String>,
    failing: BTreeSet<String>,
}

#[derive(Clone)]
enum WatchResponse {
    Event {
        plural: String,
        event: Value,
    },
    /// Watches get an error that their resource version is too old.
    Expired,
    /// Connections break.
    Broken,
}

impl ApiServer {
    pub fn start() -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let contents = Arc::<Contents>::default();
        let router = Router::new().fallback(answer).with_state(contents.clone());
        runtime.spawn(async { axum::serve(TcpListener::from_std(listener).unwrap(), router).await.unwrap() });
        Self { contents, address, runtime: Some(runtime) }
    }

    pub fn client(&self) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::try_from(Config::new(self.address.parse().unwrap())).unwrap()
    }

    pub fn put(&self, plural: &str, object: Value) {
        self.change(|state| state.put(plural, object));
    }

    pub fn delete(&self, plural: &str, name: &str) {
        self.change(|state| state.delete(plural, name));
    }

    /// Changes objects without events. All watches then end with the error that their resource version is too old.
    pub fn compact_after(&self, change: impl FnOnce(&mut ScriptedState)) {
        self.change(|state| state.unseen(change, WatchResponse::Expired));
    }

    /// Changes objects without events. All connections then break.
    pub fn break_after(&self, change: impl FnOnce(&mut ScriptedState)) {
        self.change(|state| state.unseen(change, WatchResponse::Broken));
    }

    pub fn refuse(&self, plural: &str) {
        self.change(|state| _ = state.refused.insert(format!("/{plural}")));
    }

    pub fn refuse_in(&self, namespace: &str, plural: &str) {
        self.change(|state| _ = state.refused.insert(format!("/{namespace}/{plural}")));
    }

    pub fn refuse_to_watch(&self, plural: &str) {
        self.change(|state| _ = state.unwatchable.insert(plural.into()));
    }

    pub fn allow(&self, plural: &str) {
        self.change(|state| {
            state.refused.retain(|end| !end.ends_with(&format!("/{plural}")));
            state.unwatchable.remove(plural);
        });
    }

    /// Answers all requests for these objects with an error from now on.
    pub fn fail(&self, plural: &str) {
        self.change(|state| _ = state.failing.insert(plural.into()));
    }

    /// Answers no request for these objects from now on.
    pub fn fall_silent(&self, plural: &str) {
        self.change(|state| _ = state.silent.insert(plural.into()));
    }

    pub fn speak(&self, plural: &str) {
        self.change(|state| _ = state.silent.remove(plural));
    }

    fn change(&self, change: impl FnOnce(&mut ScriptedState)) {
        change(&mut self.contents.state());
        self.contents.changed.send_replace(());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

fn key(plural: &str, object: &Value) -> (String, String) {
    (plural.to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned())
}

impl Contents {
    fn state(&self) -> MutexGuard<'_, ScriptedState> {
        self.state.lock().unwrap()
    }
}

impl ScriptedState {
    pub fn put(&mut self, plural: &str, object: Value) {
        let before = self.objects.insert(key(plural, &object), object.clone());
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(plural, what, object);
    }

    pub fn delete(&mut self, plural: &str, name: &str) {
        if let Some(object) = self.objects.remove(&(plural.to_owned(), name.to_owned())) {
            self.tell(plural, "DELETED", object);
        }
    }

    fn refuses(&self, path: &str, plural: &str, watch: bool) -> bool {
        self.refused.iter().any(|end| path.ends_with(end)) || watch && self.unwatchable.contains(plural)
    }

    fn unseen(&mut self, change: impl FnOnce(&mut Self), ending: WatchResponse) {
        let version = self.log.len();
        change(self);
        for entry in &mut self.log[version..] {
            *entry = WatchResponse::Event { plural: String::new(), event: Value::Null };
        }
        self.log.push(ending);
    }

    fn tell(&mut self, plural: &str, what: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = (self.log.len() + 1).to_string().into();
        self.log.push(WatchResponse::Event { plural: plural.into(), event: json!({"type": what, "object": object}) });
    }
}

async fn answer(State(contents): State<Arc<Contents>>, request: Request) -> Response {
    let plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let mut changes = contents.changed.subscribe();
    changes.wait_for(|()| !contents.state().silent.contains(&plural)).await.unwrap();
    let watch = asked(request.uri(), "watch").is_some();
    if contents.state().failing.contains(&plural) {
        let status = json!({"kind": "Status", "status": "Failure", "message": "out of order", "code": 500});
        return (StatusCode::INTERNAL_SERVER_ERROR, status.to_string()).into_response();
    }
    if contents.state().refuses(request.uri().path(), &plural, watch) {
        let message = format!("{plural} is forbidden");
        let status =
            json!({"kind": "Status", "status": "Failure", "message": message, "reason": "Forbidden", "code": 403});
        return (StatusCode::FORBIDDEN, status.to_string()).into_response();
    }
    let name = asked(request.uri(), "fieldSelector").map(|selector| selector.replace("metadata.name%3D", ""));
    match watch {
        true => {
            let version = asked(request.uri(), "resourceVersion").unwrap().parse().unwrap();
            Body::from_stream(events(contents, plural, name, version)).into_response()
        }
        false => listing(&contents.state(), &plural, name.as_deref()).to_string().into_response(),
    }
}

fn asked(uri: &Uri, parameter: &str) -> Option<String> {
    let mut parameters = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    parameters.find(|(name, _)| *name == parameter).map(|(_, value)| value.to_owned())
}

fn listing(state: &ScriptedState, plural: &str, name: Option<&str>) -> Value {
    let asked = |key: &(String, String)| key.0 == plural && name.is_none_or(|name| name == key.1);
    let items: Vec<_> = state.objects.iter().filter(|(key, _)| asked(key)).map(|(_, object)| object).collect();
    json!({"metadata": {"resourceVersion": state.log.len().to_string()}, "items": items})
}

fn events(
    contents: Arc<Contents>,
    plural: String,
    name: Option<String>,
    version: usize,
) -> impl futures::Stream<Item = io::Result<String>> {
    let changes = contents.changed.subscribe();
    stream::unfold((contents, changes, version), move |(contents, mut changes, version)| {
        let (plural, name) = (plural.clone(), name.clone());
        async move {
            changes.wait_for(|()| contents.state().log.len() > version).await.ok()?;
            let entry = contents.state().log[version].clone();
            let line = match entry {
                WatchResponse::Event { plural: of, event } => {
                    let asked = name.is_none_or(|name| event["object"]["metadata"]["name"] == *name);
                    if of == plural && asked { format!("{event}\n") } else { String::new() }
                }
                WatchResponse::Expired => {
                    let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
                    format!("{}\n", json!({"type": "ERROR", "object": status}))
                }
                WatchResponse::Broken => {
                    return Some((Err(io::Error::other("broken")), (contents, changes, usize::MAX)));
                }
            };
            Some((Ok::<_, Infallible>(line).map_err(io::Error::other), (contents, changes, version + 1)))
        }
    })
}
