//! Work with a fixed number of sequential operations. Each ends before the next one begins, so that the result does not
//! depend on their timing.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    backend::{ASK, CHUNK, FILLING},
    load::client::{Client, Stream, echo},
};

#[derive(Clone, Copy)]
enum Kind {
    Connections,
    RoundTrips,
    Chunks,
}

pub struct CountedWork {
    pub name: &'static str,
    pub operations: u32,
    kind: Kind,
}

pub const WORKS: [CountedWork; 3] = [
    CountedWork { name: "connection", operations: 600, kind: Kind::Connections },
    CountedWork { name: "round trip", operations: 1000, kind: Kind::RoundTrips },
    CountedWork { name: "64 KiB to the client", operations: 600, kind: Kind::Chunks },
];

/// The wait until a contender has noticed the end of the last connection, even if it runs slowly.
const LAST: Duration = Duration::from_millis(500);

impl CountedWork {
    pub async fn run(&self, client: &Client, operations: u32) -> io::Result<()> {
        match self.kind {
            Kind::Connections => {
                for _ in 0..operations {
                    end(client.connect_and_echo().await?).await?;
                }
            }
            Kind::RoundTrips => {
                let mut stream = client.connect().await?;
                for _ in 0..operations {
                    echo(&mut stream).await?;
                }
                end(stream).await?;
            }
            Kind::Chunks => chunks(client, operations).await?,
        }
        sleep(LAST).await;
        Ok(())
    }
}

async fn chunks(client: &Client, operations: u32) -> io::Result<()> {
    let mut stream = client.connect().await?;
    let mut chunk = vec![0; CHUNK];
    for _ in 0..operations {
        stream.write_all(&[ASK]).await?;
        stream.read_exact(&mut chunk).await?;
        if chunk.iter().any(|byte| *byte != FILLING) {
            return Err(io::Error::other("other bytes came than were sent"));
        }
    }
    end(stream).await
}

/// Waits until the peer closes, so that no connection ends while the next one begins.
async fn end(mut stream: Stream) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came than was sent")),
    }
}
