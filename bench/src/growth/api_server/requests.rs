//! Answers to requests.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    path::{ResourcePath, parameter},
    store::{ObjectCollections, ObjectStore},
};

/// The duration of a watch without a parameter.
const WATCH_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_BODY: usize = 16 << 20;

/// An object, or the status code and reason of a failure.
type ObjectResult = Result<Arc<Value>, (StatusCode, &'static str)>;

const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "NotFound");

pub async fn answer(State(objects): State<Arc<ObjectStore>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(resource) = ResourcePath::of(head.uri.path()) else { return failure(NOT_FOUND) };
    if resource.name.is_none() && head.method == Method::GET {
        return match parameter(&head.uri, "watch").as_deref() {
            Some("1" | "true") => watch(objects, &resource, &head.uri),
            _ => list(&objects, &resource, &head.uri),
        };
    }
    let Ok(body) = to_bytes(body, MAX_BODY).await else { return failure((StatusCode::BAD_REQUEST, "BadRequest")) };
    let body = serde_json::from_slice(&body).unwrap_or_default();
    if resource.plural == "leases" {
        objects.renew_lease(&resource);
    }
    match access(&mut objects.collections(), &head.method, &resource, body) {
        Ok(object) => json_response(object.to_string()),
        Err(reason) => failure(reason),
    }
}

/// Reads or writes one object.
fn access(
    collections: &mut ObjectCollections,
    method: &Method,
    resource: &ResourcePath,
    mut body: Value,
) -> ObjectResult {
    let plural = resource.plural.as_str();
    let namespace = resource.namespace.as_deref().unwrap_or_default();
    let name = resource.name.as_deref().or_else(|| body["metadata"]["name"].as_str()).unwrap_or_default().to_owned();
    let stored = collections.of(plural).get(namespace, &name).cloned();
    if *method != Method::GET {
        collections.count_write(resource, &body);
    }
    // Events are published and never read.
    if plural == "events" {
        return Ok(Arc::new(body));
    }
    match (method.as_str(), stored) {
        ("GET", stored) => stored.ok_or(NOT_FOUND),
        ("POST", Some(_)) => Err((StatusCode::CONFLICT, "AlreadyExists")),
        ("PUT", Some(stored)) => {
            let version = &body["metadata"]["resourceVersion"];
            if !version.is_null() && *version != stored["metadata"]["resourceVersion"] {
                return Err((StatusCode::CONFLICT, "Conflict"));
            }
            Ok(collections.put(plural, body))
        }
        ("PATCH", Some(stored)) => Ok(patch(collections, resource, &stored, body)),
        ("POST", None) => {
            body["metadata"]["namespace"] = namespace.into();
            Ok(collections.put(plural, body))
        }
        ("PATCH", None) if resource.subresource.is_none() => {
            if plural == "services" {
                let number = collections.version;
                body["spec"]["clusterIP"] = format!("10.96.{}.{}", number / 250 % 250, number % 250 + 1).into();
                body["spec"]["clusterIPs"] = json!([body["spec"]["clusterIP"]]);
            }
            Ok(collections.put(plural, body))
        }
        ("DELETE", Some(_)) => collections.remove(plural, namespace, &name).ok_or(NOT_FOUND),
        _ => Err(NOT_FOUND),
    }
}

/// Replaces the fields of `stored` that the patch has. Without a difference, the object keeps its version.
fn patch(collections: &mut ObjectCollections, resource: &ResourcePath, stored: &Arc<Value>, body: Value) -> Arc<Value> {
    let mut patched = Value::clone(stored);
    match &resource.subresource {
        Some(part) => patched[part] = body[part].clone(),
        None => merge(&mut patched, body),
    }
    if patched == **stored { stored.clone() } else { collections.put(&resource.plural, patched) }
}

fn merge(stored: &mut Value, patch: Value) {
    match (stored, patch) {
        (Value::Object(stored), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(stored.entry(key).or_insert(Value::Null), value);
            }
        }
        (stored, patch) => *stored = patch,
    }
}

fn list(objects: &ObjectStore, resource: &ResourcePath, uri: &Uri) -> Response {
    let mut collections = objects.collections();
    let limit = parameter(uri, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    // The version of the first page, and the last object of the previous page.
    let token = parameter(uri, "continue");
    let mut token = token.iter().flat_map(|token| token.splitn(3, '/'));
    let version = token.next().map_or_else(|| collections.version.to_string(), str::to_owned);
    let after = token.next().zip(token.next()).map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let name = selected_name(uri);
    let page = collections.of(&resource.plural).page(resource.namespace.as_deref(), name.as_deref(), after, limit);
    let next = page.last.map(|(namespace, name)| format!("{version}/{namespace}/{name}"));
    let metadata = json!({"resourceVersion": version, "continue": next});
    let items: Vec<&Value> = page.objects.iter().map(|object| &**object).collect();
    json_response(
        json!({"apiVersion": resource.api_version, "kind": "List", "metadata": metadata, "items": items}).to_string(),
    )
}

fn selected_name(uri: &Uri) -> Option<String> {
    parameter(uri, "fieldSelector")?.strip_prefix("metadata.name=").map(str::to_owned)
}

fn watch(objects: Arc<ObjectStore>, resource: &ResourcePath, uri: &Uri) -> Response {
    let version = parameter(uri, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let seconds = parameter(uri, "timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    let deadline = Instant::now() + seconds.map_or(WATCH_TIMEOUT, Duration::from_secs);
    let (plural, namespace, name) = (resource.plural.clone(), resource.namespace.clone(), selected_name(uri));
    let (start, changed) = {
        let mut collections = objects.collections();
        (collections.of(&plural).index_after(version), collections.subscribe(&plural))
    };
    let events = stream::unfold((start, changed), move |(next, mut changed)| {
        let (objects, plural, namespace, name) = (objects.clone(), plural.clone(), namespace.clone(), name.clone());
        async move {
            timeout_at(deadline, changed.wait_for(|count| *count > next)).await.ok()?.ok()?;
            let mut collections = objects.collections();
            let events = collections.of(&plural).events_from(next);
            let selected = events.iter().filter(|event| {
                namespace.as_ref().is_none_or(|namespace| *namespace == event.namespace)
                    && name.as_ref().is_none_or(|name| *name == event.name)
            });
            let lines: Vec<u8> = selected.flat_map(|event| event.line.iter().copied()).collect();
            Some((Ok::<_, Infallible>(Bytes::from(lines)), (next + events.len(), changed)))
        }
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(events)).into_response()
}

fn json_response(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

fn failure((code, reason): (StatusCode, &str)) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": reason, "message": reason,
        "code": code.as_u16(),
    });
    (code, [(CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}
