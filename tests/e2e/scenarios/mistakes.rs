//! Mistakes in one object affect no other object, and nothing that is already served.

use crate::{
    backends::{load_balancer, load_balancer_with},
    load::Guests,
    scenario::{is, scenario, sentence},
    scenarios::{churn::under_load, traffic::served},
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_object_is_reported_and_its_neighbour_serves() {
    scenario("neighbours", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("lost", 5432, "nowhere")).await;
        scenario.apply(&load_balancer("right", 5433, "echo")).await;
        let lost = |status: &_| is(status, "ResolvedRefs", "False");
        let status = scenario.status("what is missing is named", "lost", lost).await;
        assert!(sentence(&status, "ResolvedRefs").contains("nowhere"), "{status:?}");
        let address = scenario.programmed("right").await;
        served(address).await;

        // The missing object is created, and the load balancer recovers without a change.
        scenario.backends("nowhere", 1).await;
        let address = scenario.programmed("lost").await;
        served(address).await;
        scenario.status("all is well", "lost", |status| is(status, "ResolvedRefs", "True")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_becomes_wrong_serves_on_as_it_was() {
    under_load("spoilt", 2, async |scenario, load| {
        let guests = Guests::arrive(load.address, 10).await;

        let tls = "listeners: [{port: 5432, tls: {certificateRefs: [{name: missing}]}}]";
        scenario.apply(&load_balancer_with("spoilt", tls, "echo", "")).await;
        let wrong = |status: &_| is(status, "ResolvedRefs", "False");
        let status = scenario.status("the mistake is told", "spoilt", wrong).await;
        assert!(sentence(&status, "ResolvedRefs").contains("missing"), "{status:?}");
        load.goes_on_for(100).await;

        scenario.apply(&load_balancer("spoilt", 5432, "echo")).await;
        scenario.status("all is well", "spoilt", |status| is(status, "ResolvedRefs", "True")).await;
        load.goes_on_for(100).await;
        assert!(guests.leave().await.is_empty());
    })
    .await;
}
