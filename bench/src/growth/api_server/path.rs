//! Paths and parameters of requests.

use axum::http::Uri;

/// The resource that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// The group and version: `v1` or `apps/v1`.
    pub api_version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl ResourcePath {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub fn of(path: &str) -> Option<Self> {
        let mut words = path.trim_matches('/').split('/').map(decoded);
        let api_version = match &*words.next()? {
            "api" => words.next()?,
            "apis" => format!("{}/{}", words.next()?, words.next()?),
            _ => return None,
        };
        let mut rest: Vec<String> = words.collect();
        let is_namespaced = rest.first().is_some_and(|first| first == "namespaces") && rest.len() > 2;
        let namespace = is_namespaced.then(|| rest.drain(..2).nth(1)).flatten();
        let mut rest = rest.into_iter();
        Some(Self { api_version, namespace, plural: rest.next()?, name: rest.next(), subresource: rest.next() })
    }
}

/// The value of a query parameter.
pub fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
}

/// Replaces `%XX`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let code = others.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let of = |path| {
            let ResourcePath { api_version, plural, namespace, name, subresource } = ResourcePath::of(path).unwrap();
            [Some(api_version), Some(plural), namespace, name, subresource].map(Option::unwrap_or_default)
        };
        assert_eq!(of("/api/v1/services"), ["v1", "services", "", "", ""]);
        assert_eq!(of("/api/v1/namespaces/a/secrets/b"), ["v1", "secrets", "a", "b", ""]);
        assert_eq!(
            of("/apis/tcplb.io/v1alpha1/namespaces/a/tcploadbalancers/b/status"),
            ["tcplb.io/v1alpha1", "tcploadbalancers", "a", "b", "status"]
        );
    }

    #[test]
    fn parameters_are_decoded() {
        let uri: Uri = "/api/v1/secrets?limit=500&fieldSelector=metadata.name%3Dlb-1".parse().unwrap();
        assert_eq!(parameter(&uri, "fieldSelector").as_deref(), Some("metadata.name=lb-1"));
        assert_eq!(parameter(&uri, "watch"), None);
    }
}
