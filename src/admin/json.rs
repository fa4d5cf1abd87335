//! Documents of the admin pages.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

use crate::printable::visible_json;

/// A document as JSON. Invisible characters are escaped.
pub fn json(value: &impl serde::Serialize) -> Response {
    ([(CONTENT_TYPE, "application/json")], json_text(value)).into_response()
}

/// A document as text.
pub fn json_text(value: &impl serde::Serialize) -> String {
    // Strings, numbers and maps with string keys: the serialization cannot fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    visible_json(&text).into_owned()
}
