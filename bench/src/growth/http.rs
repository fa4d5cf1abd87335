//! Requests to admin pages.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A response.
pub struct HttpResponse {
    pub status: u16,
    /// The entity tag without quotes.
    pub tag: Option<String>,
    pub body: String,
}

/// Requests a page on a new connection.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<HttpResponse> {
    get_with(server, path, "").await
}

/// Requests a page on a new connection, with more headers, each of which ends with a line break.
pub async fn get_with(server: SocketAddr, path: &str, headers: &str) -> io::Result<HttpResponse> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::other("the response is incomplete"))
}

fn parse(text: &str) -> Option<HttpResponse> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let tag = head.lines().filter_map(|line| line.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("etag"));
    let tag = tag.map(|(_, tag)| tag.trim_matches('"').to_owned());
    Some(HttpResponse { status, tag, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_split_into_status_and_body() {
        let response =
            parse("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\netag: \"a1\"\r\n\r\nno\n").unwrap();
        assert_eq!((response.status, response.tag.as_deref(), &*response.body), (503, Some("a1"), "no\n"));
        assert!(parse("HTTP/1.1 200").is_none());
    }
}
