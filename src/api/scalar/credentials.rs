use std::borrow::Cow;

/// A text for a message. Of a URL with a password, only the host and the port are shown.
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{}", rest.split(['/', '?']).next().unwrap_or_default()).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{AddressPort, HttpHost, HttpPath, ServerName};

    #[test]
    fn messages_do_not_quote_passwords_of_urls() {
        let url = "postgres://admin:hunter2@db.example.com:5432/shop?password=hunter2";
        for message in [
            url.parse::<AddressPort>().unwrap_err(),
            url.parse::<HttpHost>().unwrap_err(),
            url.parse::<HttpPath>().unwrap_err(),
            url.parse::<ServerName>().unwrap_err(),
        ] {
            assert!(message.starts_with("`…@db.example.com:5432` is not "), "{message}");
        }
    }
}
