use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Uri;

use crate::api;

/// The flags of the live table.
#[derive(Args, Clone, Debug)]
pub struct TopFlags {
    /// Show load balancers and endpoints whose name or address contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// The column to sort by.
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = TopSort::New)]
    pub sort: TopSort,
    /// The time between two readings, over which rates are averaged.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    pub interval: api::Duration,
    /// Print the table once, after one interval. Default without a terminal: text.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<TopOutput>,
}

#[derive(Args, Clone, Debug)]
pub struct TopUrl {
    /// The admin address: http://HOST:PORT.
    #[arg(default_value = "http://127.0.0.1:9900", value_parser = admin_url)]
    pub url: Uri,
    #[command(flatten)]
    pub flags: TopFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopSort {
    Name,
    /// Most unusable endpoints first.
    Usable,
    Open,
    New,
    Bytes,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopOutput {
    /// A line for each load balancer and endpoint.
    Text,
    /// Also a line for each endpoint in each replica.
    Wide,
    Json,
    Yaml,
}

/// The shortest interval. Rates over less are noise.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

pub fn interval(text: &str) -> Result<api::Duration, String> {
    let interval: api::Duration = text.parse()?;
    if interval.0 < MIN_INTERVAL {
        return Err(format!("`{text}` is too short: write at least 1s"));
    }
    Ok(interval)
}

fn admin_url(text: &str) -> Result<Uri, String> {
    let wrong = || format!("`{text}` is not an admin address: write for example http://127.0.0.1:9900");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let is_admin = uri.scheme_str() == Some("http") && uri.host().is_some() && ["", "/"].contains(&uri.path());
    if is_admin { Ok(uri) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_a_url_without_a_path() {
        for text in ["http://127.0.0.1:9900", "http://[::1]:9900/", "http://lb.example.com"] {
            assert!(admin_url(text).is_ok(), "{text}");
        }
        for text in ["https://127.0.0.1:9900", "127.0.0.1:9900", "http://a/snapshot", ""] {
            assert!(admin_url(text).unwrap_err().contains("write for example"), "{text}");
        }
        assert!(interval("500ms").unwrap_err().contains("at least 1s"));
    }
}
