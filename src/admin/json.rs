//! Documents of the admin pages.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

use crate::printable::visible_json;

/// A document as JSON. Invisible characters are escaped.
pub fn json(value: &impl serde::Serialize) -> Response {
    // Strings, numbers and maps with string keys: the serialization cannot fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    ([(CONTENT_TYPE, "application/json")], visible_json(&text).into_owned()).into_response()
}
