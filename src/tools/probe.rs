//! An HTTP probe for environments without other programs, such as the image.

use std::{fmt, io, str::FromStr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

/// The time limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// The maximum length of an answer.
const LONGEST: usize = 64 * 1024;

/// The requested URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for HttpUrl {
    type Err = String;

    /// Parses `http://HOST:PORT/PATH`. An IPv6 address may lack its brackets, as in environment variables from
    /// Kubernetes.
    fn from_str(text: &str) -> Result<Self, String> {
        // Not quoted, because it may contain a password.
        if text.contains('@') {
            return Err("the URL contains an `@`, and a user or password is not supported: remove it".into());
        }
        let read = || {
            let (authority, path) = text.strip_prefix("http://")?.split_once('/')?;
            let (host, port) = authority.rsplit_once(':')?;
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Self { host: host.into(), port, path: format!("/{path}") })
        };
        read().ok_or_else(|| format!("`{text}` is not a supported URL: write for example http://192.0.2.7:9900/readyz"))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// The reason for a failed probe.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("cannot be requested: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("answers {status}: {body}")]
    Status { status: StatusCode, body: String },
    #[error("does not answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Silent,
}

impl HttpUrl {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Repeats the request until the answer is 200, or until `limit` has passed. Returns the answer's text, or the
    /// last error.
    pub async fn answers_within(&self, limit: Duration) -> Result<String, RequestError> {
        let deadline = Instant::now() + limit;
        loop {
            let outcome = timeout(ATTEMPT_TIMEOUT, self.ask()).await.unwrap_or(Err(RequestError::Silent));
            match outcome {
                Err(error) if Instant::now() + PAUSE < deadline => debug!(target = %self, %error, "retrying"),
                outcome => return outcome,
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self) -> Result<String, RequestError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&self.path).header(HOST, self.authority()).body(Empty::<Bytes>::new())?;
        let answer = async {
            let answer = requests.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned());
            let body = body.unwrap_or_else(|error| error.to_string());
            if status == StatusCode::OK { Ok(body) } else { Err(RequestError::Status { status, body }) }
        };
        // The connection drives the request, and ends with the answer.
        tokio::select! {
            answer = answer => answer,
            Err(error) = connection => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[test]
    fn urls_are_parsed() {
        let read = |text: &str| text.parse::<HttpUrl>().map(|target| target.to_string());
        assert_eq!(read("http://192.0.2.7:9900/readyz").unwrap(), "http://192.0.2.7:9900/readyz");
        assert_eq!(read("http://[2001:db8::7]:9900/").unwrap(), "http://[2001:db8::7]:9900/");
        assert_eq!(read("http://2001:db8::7:9900/").unwrap(), "http://[2001:db8::7]:9900/");
        assert_eq!(read("http://tcplb-admin.tcplb:9900/a/b").unwrap(), "http://tcplb-admin.tcplb:9900/a/b");
        for wrong in ["192.0.2.7:9900/", "http://192.0.2.7:9900", "http://:9900/", "http://a:0/", "https://a:1/", ""] {
            assert!(read(wrong).unwrap_err().contains("write for example"), "{wrong}");
        }
        for wrong in ["http://user:hunter2@192.0.2.7:9900/", "http://user:hunter2@host/", "user:hunter2@host"] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("a user or password is not supported") && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn requests_are_repeated_until_success_or_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target: HttpUrl = format!("http://{}/readyz", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            for answer in [
                "503 Service Unavailable\r\ncontent-length: 9\r\n\r\nnot ready",
                "200 OK\r\ncontent-length: 3\r\n\r\nok\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        });
        let refused = target.answers_within(Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.to_string(), "answers 503 Service Unavailable: not ready");
        assert_eq!(target.answers_within(ATTEMPT_TIMEOUT).await.unwrap(), "ok");
        let gone = target.answers_within(PAUSE / 2).await.unwrap_err();
        assert!(matches!(gone, RequestError::Connect(_)), "{gone}");
    }
}
