use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::pending,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::http::{Request, Response, StatusCode};
use futures::future::join_all;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{advance, sleep};

use super::*;

const NAMESPACE: &str = "lb";
const TOKEN: &str = "token-of-the-leader";
const LEADER: &str = "system:serviceaccount:lb:tcplb";
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// An API server with these users and permissions.
#[derive(Default)]
struct FakeApi {
    /// The users and audiences of tokens.
    tokens: Mutex<BTreeMap<String, (String, Vec<&'static str>)>>,
    /// Users and subresources.
    permissions: Mutex<BTreeSet<(String, String)>>,
    condition: Mutex<ApiCondition>,
    token_reviews: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
enum ApiCondition {
    #[default]
    Answering,
    Failing,
    Silent,
    /// Answers only about known tokens, as with a slow webhook for the others.
    SilentAboutOthers,
}

impl FakeApi {
    /// An API server that knows the leader, and its Authorizer.
    fn start() -> (Arc<Self>, Arc<Authorizer>) {
        let api = Arc::new(Self::default());
        api.add_token(TOKEN, LEADER, &[AUDIENCE]);
        api.permissions.lock().unwrap().insert((LEADER.into(), "report".into()));
        let answering = api.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = answering.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        let authorizer = Authorizer::new(Client::new(service, "default"), NAMESPACE);
        (api, authorizer)
    }

    fn add_token(&self, token: &str, user: &str, audiences: &[&'static str]) {
        self.tokens.lock().unwrap().insert(token.into(), (user.into(), audiences.to_vec()));
    }

    fn revoke(&self, token: &str) {
        self.tokens.lock().unwrap().remove(token);
    }

    fn become_(&self, condition: ApiCondition) {
        *self.condition.lock().unwrap() = condition;
    }

    fn token_reviews(&self) -> usize {
        self.token_reviews.load(Ordering::Relaxed)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let review: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
        let reviews_token = head.uri.path() == "/apis/authentication.k8s.io/v1/tokenreviews";
        if reviews_token {
            self.token_reviews.fetch_add(1, Ordering::Relaxed);
        }
        let condition = *self.condition.lock().unwrap();
        match condition {
            ApiCondition::Answering => {}
            ApiCondition::Failing => {
                let status = json!({"kind": "Status", "status": "Failure", "message": "out of order", "code": 500});
                let response = Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR);
                return response.body(Body::from(status.to_string().into_bytes())).unwrap();
            }
            ApiCondition::SilentAboutOthers if reviews_token && !self.knows(&review) => pending().await,
            ApiCondition::SilentAboutOthers => {}
            ApiCondition::Silent => pending().await,
        }
        let status = if reviews_token { self.token_status(&review) } else { self.access_status(&head.uri, &review) };
        let mut review = review;
        review["status"] = status;
        Response::builder().status(StatusCode::CREATED).body(Body::from(review.to_string().into_bytes())).unwrap()
    }

    fn knows(&self, review: &Value) -> bool {
        self.tokens.lock().unwrap().contains_key(review["spec"]["token"].as_str().unwrap())
    }

    fn token_status(&self, review: &Value) -> Value {
        assert_eq!(review["spec"]["audiences"], json!(["tcplb"]), "{review}");
        let tokens = self.tokens.lock().unwrap();
        match tokens.get(review["spec"]["token"].as_str().unwrap()) {
            Some((user, audiences)) => json!({
                "authenticated": true, "audiences": audiences,
                "user": {"username": user, "uid": "7", "groups": ["system:authenticated"], "extra": {"pod": ["a"]}},
            }),
            None => json!({"authenticated": false, "error": "invalid bearer token"}),
        }
    }

    fn access_status(&self, uri: &axum::http::Uri, review: &Value) -> Value {
        assert_eq!(uri.path(), "/apis/authorization.k8s.io/v1/namespaces/lb/localsubjectaccessreviews");
        let spec = &review["spec"];
        let attributes = &spec["resourceAttributes"];
        let subresource = attributes["subresource"].as_str().unwrap();
        let asked = json!({
            "group": "tcplb.io", "resource": "replicas", "subresource": subresource, "verb": "get", "namespace": "lb",
        });
        assert_eq!(*attributes, asked);
        assert_eq!((&spec["uid"], &spec["groups"]), (&json!("7"), &json!(["system:authenticated"])));
        assert_eq!(spec["extra"], json!({"pod": ["a"]}));
        let permission = (spec["user"].as_str().unwrap().to_owned(), subresource.to_owned());
        json!({"allowed": self.permissions.lock().unwrap().contains(&permission)})
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_token_is_authorized_for_the_pages_that_its_user_may_get() {
    let (api, authorizer) = FakeApi::start();
    api.add_token("token-of-a-guest", "guest\u{202e}", &["other", AUDIENCE]);
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    let forbidden = Err(Unauthorized::Forbidden(LEADER.into()));
    assert_eq!(authorizer.authorize(TOKEN, "snapshot", SOURCE).await, forbidden);
    let forbidden = Err(Unauthorized::Forbidden("guest\\u{202e}".into()));
    assert_eq!(authorizer.authorize("token-of-a-guest", "report", SOURCE).await, forbidden);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_other_audiences_and_malformed_ones_are_invalid() {
    let (api, authorizer) = FakeApi::start();
    api.add_token("for the API server", LEADER, &["https://kubernetes.default.svc"]);
    // From an API server or webhook that ignores audiences.
    api.add_token("without audience", LEADER, &[]);
    let invalid = Err(Unauthorized::InvalidToken);
    for token in ["for the API server", "without audience", "garbage", "a.b.c", "\"}{", "😀"] {
        assert_eq!(authorizer.authorize(token, "report", SOURCE).await, invalid, "{token}");
    }
    let before = api.token_reviews();
    for token in ["", &"x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(authorizer.authorize(token, "report", SOURCE).await, invalid);
    }
    assert_eq!(api.token_reviews(), before, "not reviewed");
}

#[tokio::test(start_paused = true)]
async fn decisions_are_reused() {
    let (api, authorizer) = FakeApi::start();
    for _ in 0..100 {
        assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
        assert!(authorizer.authorize("garbage", "report", SOURCE).await.is_err());
    }
    assert_eq!(api.token_reviews(), 2);
    let all = join_all((0..4).map(|_| authorizer.authorize("another", "report", SOURCE))).await;
    assert!(all.iter().all(Result::is_err));
    advance(seconds(10)).await;
    assert!(authorizer.authorize("garbage", "report", SOURCE).await.is_err());
    assert!(authorizer.authorize(TOKEN, "report", SOURCE).await.is_ok());
    let reviews = api.token_reviews();
    assert!(reviews <= 7, "{reviews}: only the refusal is reviewed again");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_within_two_minutes() {
    let (api, authorizer) = FakeApi::start();
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    api.revoke(TOKEN);
    let idle = seconds(121);
    advance(idle).await;
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Err(Unauthorized::InvalidToken));

    api.add_token(TOKEN, LEADER, &[AUDIENCE]);
    advance(seconds(10)).await;
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    api.revoke(TOKEN);
    advance(seconds(60)).await;
    // This request begins the renewal in the background.
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    sleep(seconds(1)).await;
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Err(Unauthorized::InvalidToken));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_known_stays_allowed_without_waiting() {
    let (api, authorizer) = FakeApi::start();
    for _ in 0..100 {
        let begun = Instant::now();
        assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sleep(seconds(10)).await;
    }
    let reviews = api.token_reviews();
    assert!((10..=18).contains(&reviews), "{reviews} in 1000 s");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_api_server_ends_allowances_after_five_minutes() {
    for condition in [ApiCondition::Failing, ApiCondition::Silent] {
        let (api, authorizer) = FakeApi::start();
        assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
        api.become_(condition);
        let begun = Instant::now();
        let unknown = authorizer.authorize("unknown", "report", SOURCE).await;
        assert!(matches!(unknown, Err(Unauthorized::ReviewFailed(_))), "{unknown:?}");
        assert!(begun.elapsed() <= REVIEW_TIMEOUT + Duration::from_millis(10));
        let mut waited = Duration::ZERO;
        while begun.elapsed() < seconds(295) {
            let asked = Instant::now();
            assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()), "{:?}", begun.elapsed());
            waited += asked.elapsed();
            sleep(seconds(1)).await;
        }
        assert!(waited < seconds(40), "{waited:?} in 175 s: requests do not wait for each review");
        advance(seconds(10)).await;
        let expired = authorizer.authorize(TOKEN, "report", SOURCE).await;
        assert!(matches!(expired, Err(Unauthorized::ReviewFailed(_))), "{expired:?}");
        api.become_(ApiCondition::Answering);
        assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()), "refusals for this are not remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_neither_loads_the_api_server_nor_excludes_others() {
    let (api, authorizer) = FakeApi::start();
    api.add_token("token-of-a-guest", LEADER, &[AUDIENCE]);
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    let begun = Instant::now();
    let flood = |source: u8| {
        let authorizer = authorizer.clone();
        tokio::spawn(async move {
            for number in 0..10_000 {
                let authorize = |part| {
                    let (authorizer, token) = (authorizer.clone(), format!("{source}-{number}-{part}"));
                    async move { authorizer.authorize(&token, "report", [10, 1, 0, source].into()).await }
                };
                let refused = join_all((0..20).map(authorize)).await;
                assert!(refused.iter().all(Result::is_err));
                sleep(Duration::from_millis(500)).await;
            }
        })
    };
    let floods: Vec<_> = (0..4).map(flood).collect();
    for _ in 0..70 {
        sleep(seconds(1)).await;
        let asked = Instant::now();
        assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
        assert_eq!(asked.elapsed(), Duration::ZERO, "a known client does not wait");
    }
    let reviews = api.token_reviews();
    assert!(reviews <= 20 * 71 + 10, "{reviews} reviews in {:?}", begun.elapsed());
    assert!(reviews > 100, "{reviews}: the flood is one");
    assert_eq!(authorizer.authorize("token-of-a-guest", "report", [10, 2, 0, 1].into()).await, Ok(()));
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn slow_reviews_of_some_sources_do_not_delay_others() {
    let (api, authorizer) = FakeApi::start();
    api.become_(ApiCondition::SilentAboutOthers);
    let begin = |source: u8, number: u8| {
        let authorizer = authorizer.clone();
        tokio::spawn(async move {
            authorizer.authorize(&format!("{source}-{number}"), "report", [10, 1, 0, source].into()).await
        })
    };
    let all = (0..3).flat_map(|source| (0..20).map(move |number| (source, number)));
    let slow: Vec<_> = all.map(|(source, number)| begin(source, number)).collect();
    sleep(seconds(1)).await;
    assert_eq!(api.token_reviews(), 6, "two of each source");
    let asked = Instant::now();
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    for refused in join_all(slow).await {
        assert!(refused.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_one_ipv6_network_are_one_source() {
    let (api, authorizer) = FakeApi::start();
    api.become_(ApiCondition::SilentAboutOthers);
    let begin = |number: u16| {
        let authorizer = authorizer.clone();
        let source = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
        tokio::spawn(async move { authorizer.authorize(&format!("of {number}"), "report", source).await })
    };
    let slow: Vec<_> = (0..20).map(begin).collect();
    sleep(seconds(1)).await;
    assert_eq!(api.token_reviews(), 2, "as many as of one address");
    assert_eq!(authorizer.authorize(TOKEN, "report", SOURCE).await, Ok(()));
    for refused in join_all(slow).await {
        assert!(refused.unwrap().is_err());
    }
}
