//! `tcplb check` and the API server agree on every object. `tests/rules` has the same test without an API server.

use crate::{
    cases::{assert_check_agrees, cases},
    crd::{Server, told_by},
    source::alone::{ADMINISTRATOR, Alone},
};

#[tokio::test]
async fn check_and_the_api_server_agree_on_every_object_and_on_mutations_of_it() {
    let Some(alone) = Alone::start() else { return };
    let api = alone.api();
    api.ready().await;
    let server = Server::with(api.client(ADMINISTRATOR)).await;
    let cases = cases();
    let mut answers = Vec::new();
    for case in &cases {
        answers.push(server.create(&case.object).await.map_err(|told| told_by(&told)));
    }
    assert_check_agrees(&cases, &answers, "the API server");
}
