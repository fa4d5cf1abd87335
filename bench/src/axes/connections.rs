//! Opens a connection, echoes 64 bytes, and closes it.

use std::io;

use anyhow::Result;
use tokio::time::{Duration, sleep};

use super::{Round, Stage};
use crate::load::{
    Load, Progress,
    client::{self, Client, close, is_resumed},
};

/// The pause after a failure. Failures usually persist for a moment, and they are not measured.
const PAUSE: Duration = Duration::from_millis(10);

pub async fn round(stage: &Stage<'_>, clients: usize) -> Result<Round> {
    let mut load = Load::default();
    for _ in 0..clients {
        let (client, resumes) = (stage.client()?, stage.door.resumes());
        load.add(async move |progress| again_and_again(&client, resumes, &progress).await);
    }
    let window = stage.watch(|| load.progress.operations()).await;
    let round = Round::of(load.end().await);
    let window = round.explain(window)?;
    Ok(round.with_operations(window))
}

async fn again_and_again(client: &Client, resumes: bool, progress: &Progress) {
    let mut is_first = true;
    while !progress.is_ending() {
        match once(client, resumes && !is_first).await {
            Ok(()) => progress.done(),
            Err(error) => {
                progress.failed("a connection", &error);
                sleep(PAUSE).await;
            }
        }
        is_first = false;
    }
}

pub async fn once(client: &Client, must_resume: bool) -> io::Result<()> {
    let mut stream = client.connect().await?;
    if must_resume && !is_resumed(&stream) {
        return Err(io::Error::other("the session was not resumed"));
    }
    client::echo(&mut stream).await?;
    close(stream).await
}
