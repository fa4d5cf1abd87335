use std::borrow::Cow;

/// A text for a message. Of a URL or of a text with `@`, only the host and the port are shown: the other parts may have
/// a password.
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    let without_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    if without_scheme == text && !text.contains('@') {
        return text.into();
    }
    let authority = without_scheme.rsplit('@').next().unwrap_or_default();
    format!("…{}…", authority.split(['/', '?', '#']).next().unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use crate::api::{AddressPort, HttpHost, HttpPath, Name, Network, ObjectName, ServerName};

    fn wrong<T: std::str::FromStr<Err = String>>(text: &str) -> String {
        text.parse::<T>().err().unwrap()
    }

    #[test]
    fn messages_do_not_quote_passwords_of_urls() {
        for url in [
            "postgres://admin:hunter2@db.example.com:5432/shop?password=hunter2",
            "postgres://db.example.com:5432/shop?password=hunter2",
            "admin:hunter2@db.example.com:5432",
        ] {
            for message in [
                wrong::<AddressPort>(url),
                wrong::<HttpHost>(url),
                wrong::<HttpPath>(url),
                wrong::<ServerName>(url),
                wrong::<Name>(url),
                wrong::<ObjectName>(url),
                wrong::<Network>(url),
            ] {
                assert!(message.starts_with("`…db.example.com:5432…` is not "), "{message}");
            }
        }
    }
}
