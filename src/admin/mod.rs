//! The admin pages over HTTP: metrics, health and the applied configuration.

mod access;
mod connections;
mod guard;
mod instance;
mod json;
mod moment;
mod page;
mod rendering;
mod report;
mod shared_pages;
mod snapshot;
mod thread;
mod visitors;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

pub use access::AdminAccess;
use axum::{
    Router, extract,
    http::{
        HeaderMap, Request, StatusCode, Uri,
        header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue},
    },
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::{MethodRouter, get},
};
pub use guard::AllowedHosts;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
pub use instance::Instance;
use socket2::SockRef;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{EndpointSeries, ExpositionFormat, Metrics},
    model::REPORT_CHANGES,
    printable::visible_json,
    proxy::Monitor,
    state::ReadinessState,
    tcp::accept::{Backoff, accept},
};
use access::{ConnectionEnds, TenantPage};
use connections::ConnectionPages;
use json::json_text;
use moment::Moment;
use page::StatusPage;
use rendering::Rendering;
use report::Reports;
use shared_pages::SharedPages;
pub use thread::AdminThread;
use visitors::Visitors;

/// The time without a sign of life after which a worker counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

/// The time for connections that were just accepted to send a request, after the listener has closed.
const LAST_QUESTIONS: Duration = Duration::from_secs(1);
/// The idle time after which a connection is closed.
const SILENCE: Duration = Duration::from_secs(30);
/// The time without a request after which the rates of the page are forgotten.
const RATES_KEPT_FOR: Duration = Duration::from_secs(60);
/// The time after which a client that reads nothing of a response is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum size of the head of a request, in bytes. Requests of browsers have a few KiB, with cookies of other
/// services on the same host.
const MAX_HEAD: usize = 32 << 10;
/// The size of unsent data up to which the kernel takes more of a response, in bytes.
const MAX_UNSENT: u32 = 64 << 10;

/// The server of the admin pages.
pub struct Server {
    pub monitor: Monitor,
    pub state: Arc<ReadinessState>,
    pub instance: Instance,
    pub hosts: AllowedHosts,
    pub access: AdminAccess,
    /// The maximum number of clients at a time.
    pub connections: usize,
    pub endpoint_series: EndpointSeries,
}

impl Server {
    /// Serves until `stop`. Then it closes the listening socket, answers the accepted connections, and returns.
    pub async fn serve(self, listener: AsyncFd<TcpListener>, stop: CancellationToken) {
        let Self { monitor, state, instance, hosts, access, connections, endpoint_series } = self;
        let pages = Arc::new(Pages::new(monitor, state, instance, endpoint_series, stop.clone()));
        let service = TowerToHyperService::new(router(pages, hosts, access));
        let http = http();
        let (visitors, visits) = (Visitors::new(connections), GracefulShutdown::new());
        let mut backoff = Backoff::new("admin pages".into());
        while let Some((stream, address)) = stop.run_until_cancelled(next(&listener, &mut backoff)).await {
            limit_unread(&stream);
            let (service, ends) = (service.clone(), ConnectionEnds::of(&stream, address));
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ends);
                service.call(request)
            });
            let visit = visits.watch(http.serve_connection(TokioIo::new(stream), service));
            visitors.admit(address.ip(), visit).await;
        }
        drop(listener);
        // A graceful shutdown closes connections that have not sent a request yet.
        sleep(LAST_QUESTIONS).await;
        visits.shutdown().await;
    }
}

/// Accepts a connection. Pauses and continues while this is not possible.
async fn next(listener: &AsyncFd<TcpListener>, backoff: &mut Backoff) -> (TcpStream, SocketAddr) {
    loop {
        let accepted = listener.async_io(Interest::READABLE, accept).await;
        match accepted.and_then(|(tcp, peer)| Ok((TcpStream::from_std(tcp)?, peer))) {
            Ok(accepted) => {
                backoff.succeeded();
                return accepted;
            }
            Err(error) => {
                if let Some(pause) = backoff.failed(&error) {
                    sleep(pause).await;
                }
            }
        }
    }
}

/// Limits the duration and the memory of responses that the client does not read.
fn limit_unread(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Without the timeout, a client that reads nothing would be disconnected only to make room for another one.
    let _ = socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT));
    let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(MAX_HEAD);
    http
}

struct Pages {
    monitor: Monitor,
    state: Arc<ReadinessState>,
    instance: Instance,
    page: StatusPage,
    metrics: Metrics,
    metrics_pages: SharedPages<ExpositionFormat>,
    tenant_pages: SharedPages<TenantDocument>,
    reports: Reports,
    /// By the tag of the version.
    report_pages: SharedPages<Arc<str>>,
    traffic: Rendering,
    open_connections: ConnectionPages,
}

/// The content of a page with tenant data.
#[derive(Debug, PartialEq, Eq)]
enum TenantDocument {
    Overview { query: String },
    Snapshot,
}

impl Pages {
    fn new(
        monitor: Monitor,
        state: Arc<ReadinessState>,
        instance: Instance,
        endpoint_series: EndpointSeries,
        stop: CancellationToken,
    ) -> Self {
        // The leader waits for reports and traffic only briefly, so they do not wait for other pages.
        let reports = Reports::new(monitor.clone(), state.clone(), stop.clone());
        Self {
            page: StatusPage::new(instance.clone()),
            metrics: Metrics::new(monitor.clone(), state.clone(), endpoint_series),
            metrics_pages: SharedPages::default(),
            tenant_pages: SharedPages::default(),
            report_pages: SharedPages::new(reports.rendering.clone()),
            reports,
            traffic: Rendering::default(),
            open_connections: ConnectionPages::new(monitor.clone(), stop),
            monitor,
            state,
            instance,
        }
    }

    async fn metrics(&self, format: ExpositionFormat) -> Response {
        let page = self.metrics_pages.page(format, || self.metrics.text(format)).await;
        ([(CONTENT_TYPE, format.content_type())], page).into_response()
    }

    async fn overview(&self, query: &str) -> Response {
        let traffic = self.state.instruments().replica_traffic().await;
        let document = TenantDocument::Overview { query: query.to_owned() };
        let render = || self.page.render(&self.monitor, &self.state, query, traffic);
        Html(self.tenant_pages.page(document, render).await).into_response()
    }

    async fn traffic(&self) -> Response {
        let render = || report_text(&Moment::now(&self.monitor, &self.state).traffic());
        ([(CONTENT_TYPE, "application/json")], self.traffic.run(render).await).into_response()
    }

    async fn snapshot(&self) -> Response {
        let render = || json_text(&snapshot::of(&self.monitor, &self.state, &self.instance));
        let page = self.tenant_pages.page(TenantDocument::Snapshot, render).await;
        ([(CONTENT_TYPE, "application/json")], page).into_response()
    }
}

type PagesState = extract::State<Arc<Pages>>;

fn router(pages: Arc<Pages>, hosts: AllowedHosts, access: AdminAccess) -> Router {
    open_pages().merge(tenant_pages(&access)).with_state(pages).layer(from_fn_with_state(hosts, guard::guard))
}

/// The pages for everyone who can connect.
fn open_pages() -> Router<Arc<Pages>> {
    Router::new()
        .route("/style.css", get(|| async { ([(CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE) }))
        .route("/script.js", get(|| async { ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], page::SCRIPT) }))
        .route("/icon.svg", get(|| async { ([(CONTENT_TYPE, "image/svg+xml")], page::ICON) }))
        .route("/livez", get(|pages: PagesState| async move { live(&pages.monitor) }))
        .route("/readyz", get(|pages: PagesState| async move { answer(pages.state.is_ready(), "not ready\n") }))
        .route(
            "/lb-ready",
            get(|pages: PagesState| async move {
                answer(pages.state.takes_new_connections(), "not accepting new connections\n")
            }),
        )
        .route(
            "/metrics",
            get(|pages: PagesState, headers: HeaderMap| async move { pages.metrics(accepted_format(&headers)).await }),
        )
}

/// The pages with tenant data.
fn tenant_pages(access: &AdminAccess) -> Router<Arc<Pages>> {
    let protected = |page: TenantPage, handler: MethodRouter<Arc<Pages>>| {
        let authorized = from_fn_with_state((access.clone(), page), access::authorize);
        Router::new().route(page.path(), handler.layer(authorized))
    };
    let overview = get(|pages: PagesState, uri: Uri| async move {
        let response = pages.overview(uri.query().unwrap_or_default()).await;
        tokio::spawn(forget_rates_later(pages.0));
        response
    });
    let snapshot = get(|pages: PagesState| async move { pages.snapshot().await });
    let report =
        get(|pages: PagesState, uri: Uri, headers: HeaderMap| async move { report(&pages, &uri, &headers).await });
    let traffic = get(|pages: PagesState| async move { pages.traffic().await });
    let connections =
        get(|pages: PagesState, uri: Uri| async move { pages.open_connections.answer(uri.query()).await });
    protected(TenantPage::Overview, overview)
        .merge(protected(TenantPage::Snapshot, snapshot))
        .merge(protected(TenantPage::Report, report))
        .merge(protected(TenantPage::Traffic, traffic))
        .merge(protected(TenantPage::Connections, connections))
}

/// Forgets the rates of the page once no browser shows it.
async fn forget_rates_later(pages: Arc<Pages>) {
    let rendered = pages.page.rendered();
    sleep(RATES_KEPT_FOR).await;
    pages.page.forget_rates(rendered);
}

fn live(monitor: &Monitor) -> Response {
    let stuck = monitor.workers_silent_for().position(|silent| silent > STUCK);
    match stuck {
        Some(worker) => answer(false, &format!("worker {worker} is stuck\n")),
        None => answer(true, ""),
    }
}

/// The report at once, or with `?unless=TAG` as soon as it has another tag. Responds with 304 if it stays the same for
/// a while, and with 226 and only the changed load balancers if the client accepts that.
async fn report(pages: &Pages, uri: &Uri, headers: &HeaderMap) -> Response {
    let unless = uri.query().and_then(|query| query.strip_prefix("unless="));
    let Some(version) = pages.reports.next(unless).await else { return StatusCode::NOT_MODIFIED.into_response() };
    let accepts_changes = headers.get("a-im").is_some_and(|accepted| accepted == REPORT_CHANGES);
    let headers = [(CONTENT_TYPE, "application/json"), (ETAG, &format!("\"{}\"", version.tag))];
    let base = unless.filter(|_| accepts_changes);
    let changes = pages.reports.rendering.run(|| {
        let changes = base.and_then(|base| pages.reports.changes(base, &version));
        changes.map(|changes| report_text(&changes))
    });
    match changes.await {
        Some(text) => (StatusCode::IM_USED, headers, [("im", REPORT_CHANGES)], text).into_response(),
        None => {
            let render = || report_text(&version.report);
            (headers, pages.report_pages.page(version.tag.clone(), render).await).into_response()
        }
    }
}

fn report_text(report: &impl serde::Serialize) -> String {
    // Strings, numbers and maps with simple keys: the serialization cannot fail.
    visible_json(&serde_json::to_string(report).unwrap_or_default()).into_owned()
}

fn answer(good: bool, otherwise: &str) -> Response {
    if good { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise.to_owned()).into_response() }
}

fn accepted_format(headers: &HeaderMap) -> ExpositionFormat {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| HeaderValue::to_str(accept).ok());
    ExpositionFormat::accepted(&accepted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        iter,
        sync::{
            atomic::{AtomicUsize, Ordering::Relaxed},
            mpsc,
        },
    };

    use axum::body::{Body, Bytes, to_bytes};
    use futures::stream;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::TcpListener,
        sync::oneshot,
        time::{Instant, timeout},
    };

    use super::{
        report::tests::rig::{Rig, instance},
        shared_pages::CHUNK,
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn idle_admin_connections_time_out_in_every_phase() {
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let (mut client, server) = duplex(1000);
            let service = tower::service_fn(async |_| Ok::<_, Infallible>(Response::new(axum::body::Body::empty())));
            let serving = http().serve_connection(TokioIo::new(server), TowerToHyperService::new(service));
            let begun = Instant::now();
            let serving = async {
                let _ = serving.await;
                assert_eq!(begun.elapsed().as_secs(), SILENCE.as_secs(), "{said}");
            };
            let asking = async {
                client.write_all(said.as_bytes()).await.unwrap();
                client.read_to_end(&mut Vec::new()).await.unwrap();
            };
            tokio::join!(serving, asking);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_holds_at_most_two_chunks_of_a_page_that_its_client_does_not_read() {
        let taken = Arc::new(AtomicUsize::new(0));
        let chunks = taken.clone();
        let service = tower::service_fn(move |_| {
            let chunks = chunks.clone();
            let page = iter::repeat_with(move || {
                chunks.fetch_add(1, Relaxed);
                Ok::<_, Infallible>(Bytes::from_static(&[b'x'; CHUNK]))
            });
            async move { Ok::<_, Infallible>(Response::new(Body::from_stream(stream::iter(page)))) }
        });
        let (mut client, server) = duplex(1000);
        let serving = tokio::spawn(http().serve_connection(TokioIo::new(server), TowerToHyperService::new(service)));
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
        // The clock advances when the server waits for the client.
        sleep(Duration::from_secs(1)).await;
        assert!((1..=2).contains(&taken.load(Relaxed)), "{taken:?}");
        serving.abort();
    }

    #[tokio::test]
    async fn the_kernel_takes_only_a_part_of_a_page_that_the_client_does_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        limit_unread(&stream);
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), MAX_UNSENT);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reports_and_traffic_do_not_wait_for_other_pages() {
        let rig = Rig::start();
        let pages =
            Pages::new(rig.proxy.monitor(), rig.state.clone(), instance(), EndpointSeries::All, rig.stop.clone());
        let pages = Arc::new(pages);
        let mut held = Vec::new();
        for is_public in [true, false] {
            let (begin, begun) = oneshot::channel();
            let (finish, may_finish) = mpsc::channel::<()>();
            let pages = pages.clone();
            let render = move || {
                begin.send(()).unwrap();
                let _ = may_finish.recv();
                String::new()
            };
            let rendering = tokio::spawn(async move {
                match is_public {
                    true => pages.metrics_pages.page(ExpositionFormat::OpenMetrics, render).await,
                    false => pages.tenant_pages.page(TenantDocument::Snapshot, render).await,
                }
            });
            begun.await.unwrap();
            held.push((finish, rendering));
        }
        let mut others = Box::pin(async {
            let (metrics, overview) = (pages.metrics(ExpositionFormat::Classic), pages.overview(""));
            tokio::join!(metrics, overview)
        });
        let answers = async {
            let reported = report(&pages, &Uri::from_static("/report"), &HeaderMap::new()).await;
            [reported, pages.traffic().await]
        };
        let answers = tokio::select! {
            biased;
            _ = &mut others => panic!("the first pages are still being rendered"),
            answers = timeout(Duration::from_secs(60), answers) => answers.unwrap(),
        };
        for response in answers {
            assert_eq!(response.status(), StatusCode::OK);
        }
        for (finish, rendering) in held {
            drop(finish);
            drop(rendering.await.unwrap());
        }
        let (metrics, overview) = others.await;
        let metrics = to_bytes(metrics.into_body(), usize::MAX).await.unwrap();
        assert!(metrics.starts_with(b"# HELP tcplb_"), "{metrics:?}");
        assert_eq!(overview.status(), StatusCode::OK);
    }
}
