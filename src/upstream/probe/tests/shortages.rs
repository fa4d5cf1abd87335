//! Shortages of this host during probes.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// A connection to a peer whose answer ends in a shortage of this host. Writes may fail as well.
#[derive(Clone, Copy, Debug)]
struct ExhaustedStream {
    answer: &'static [u8],
    accepts: bool,
    shortage: Errno,
}

impl AsyncRead for ExhaustedStream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answer.is_empty() {
            return Poll::Ready(Err(self.shortage.into()));
        }
        buffer.put_slice(mem::take(&mut self.answer));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExhaustedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.accepts { Ok(bytes.len()) } else { Err(self.shortage.into()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_shortage_of_this_host_is_no_failure_of_the_endpoint_for_any_protocol() {
    let http = || Probe::Http(HttpRequest { path: PATH, headers: Vec::new(), statuses: vec![200..=200] });
    let grpc = || Probe::Grpc(GrpcHealth { service: "".into() });
    let session = || PostgresSession { user: "u".into(), password: None, database: "d".into(), role: Role::Any };
    let tls = || Some(ProbeTlsClient::accepting_any_certificate(None));
    let mut cases = Vec::new();
    for (probe, tls, answer) in [
        (expect(b"PING", b"+PONG"), None, &b"+PO"[..]),
        // The library refuses an answer before its request.
        (http(), None, b""),
        (http(), tls(), b""),
        // The preface of a server.
        (grpc(), None, b"\0\0\0\x04\0\0\0\0\0"),
        (grpc(), tls().map(|tls| tls.speaking(grpc::PROTOCOL)), b""),
        (Probe::Postgres(None), None, b"S"),
        (Probe::Postgres(Some(session())), None, b"R"),
        (Probe::MySql(MySqlSession { user: "u".into(), password: None, role: Role::Any }), None, b"\x4a\0"),
        (redis(None, Role::Any), None, b"+PO"),
        (redis(None, Role::Any), tls(), b""),
        (Probe::Tls(None), tls(), b"\x16\x03"),
    ] {
        let of_probe = ProbeTarget { tls, ..target("192.0.2.1:80".parse().unwrap(), probe) };
        for shortage in [Errno::NOBUFS, Errno::NOMEM] {
            cases.push((of_probe.clone(), ExhaustedStream { answer: b"", accepts: true, shortage }));
            cases.push((of_probe.clone(), ExhaustedStream { answer: b"", accepts: false, shortage }));
            cases.push((of_probe.clone(), ExhaustedStream { answer, accepts: true, shortage }));
        }
    }
    for (target, stream) in cases {
        let failure = target.ask_over(stream, Instant::now() + PROBE_TIMEOUT).await.err();
        let is_shortage = matches!(&failure, Some(ProbeError::Io(error)) if is_local(error));
        assert!(is_shortage, "{} over {stream:?}: {failure:?}", target.check.probe.name());
    }
}

#[tokio::test]
async fn a_failure_without_a_shortage_is_one_of_the_endpoint() {
    let stream = ExhaustedStream { answer: b"", accepts: true, shortage: Errno::CONNRESET };
    let http = Probe::Http(HttpRequest { path: PATH, headers: Vec::new(), statuses: vec![200..=200] });
    for probe in [http, Probe::Grpc(GrpcHealth { service: "".into() }), redis(None, Role::Any)] {
        let target = target("192.0.2.1:80".parse().unwrap(), probe);
        let asked = target.ask_over(stream, Instant::now() + PROBE_TIMEOUT).await;
        assert!(!matches!(asked, Err(ProbeError::Io(error)) if is_local(&error)), "{}", target.check.probe.name());
    }
}
