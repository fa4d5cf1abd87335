//! Bulk transfer on a few connections.

use std::io;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::{Round, Stage};
use crate::{
    backend::{BOTH, FILLING, STREAM},
    load::{Load, Progress, client::Client},
};

const CONNECTIONS: usize = 4;

const GIB: f64 = (1_u64 << 30) as f64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToClient,
    Both,
}

pub async fn round(stage: &Stage<'_>, direction: Direction) -> Result<Round> {
    let mut load = Load::default();
    for _ in 0..CONNECTIONS {
        let client = stage.client()?;
        load.add(async move |progress| {
            if let Err(error) = transfer(&client, direction, &progress).await {
                progress.failed("a transfer", &error);
            }
        });
    }
    // The bytes received at both ends count.
    let window = stage.watch(|| load.progress.bytes() + stage.backends.received()).await;
    let round = Round::of(load.end().await);
    let window = round.explain(window)?;
    let gib = window.count as f64 / GIB;
    Ok(round
        .with("cpu", window.cpu.as_secs_f64() / gib)
        .with("rate", gib / window.elapsed.as_secs_f64())
        .with("utilisation", window.utilisation()))
}

async fn transfer(client: &Client, direction: Direction, progress: &Progress) -> io::Result<()> {
    let (reading, mut writing) = split(client.connect().await?);
    match direction {
        Direction::ToClient => {
            writing.write_all(&[STREAM]).await?;
            writing.flush().await?;
            read(reading, progress).await
        }
        Direction::Both => {
            writing.write_all(&[BOTH]).await?;
            tokio::try_join!(read(reading, progress), write(writing, progress)).map(|_| ())
        }
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, progress: &Progress) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while !progress.is_ending() {
        let count = stream.read(&mut buffer).await?;
        // Comparing all bytes would cost more than reading them.
        match &buffer[..count] {
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            [FILLING, .., FILLING] | [FILLING] => progress.moved(count),
            _ => return Err(io::Error::other("other bytes came than were sent")),
        }
    }
    Ok(())
}

async fn write(mut stream: impl AsyncWrite + Unpin, progress: &Progress) -> io::Result<()> {
    let filling = vec![FILLING; 256 << 10];
    while !progress.is_ending() {
        stream.write_all(&filling).await?;
    }
    Ok(())
}
