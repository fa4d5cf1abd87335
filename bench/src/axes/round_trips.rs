//! 64 bytes back and forth on open connections.

use anyhow::Result;

use super::{Round, Stage};
use crate::load::{
    Load, Progress,
    client::{Stream, echo},
};

pub async fn round(stage: &Stage<'_>, connections: usize) -> Result<Round> {
    let mut load = Load::default();
    for stream in stage.open(connections).await? {
        load.add(async move |progress| again_and_again(stream, &progress).await);
    }
    let window = stage.watch(|| load.progress.operations()).await;
    let round = Round::of(load.end().await);
    let window = round.explain(window)?;
    Ok(round.with_operations(window))
}

async fn again_and_again(mut stream: Stream, progress: &Progress) {
    while !progress.is_ending() {
        match echo(&mut stream).await {
            Ok(()) => progress.done(),
            Err(error) => return progress.failed("a round trip", &error),
        }
    }
}
