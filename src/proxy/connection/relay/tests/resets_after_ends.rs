//! Sides that end and then reset the connection, as a close with unread bytes does. All that they sent, and their end,
//! arrives, regardless of whether the relay notices the end or the reset first.

use super::*;
use crate::proxy::stream::{prefixed_io::PrefixedIo, with_preamble::WithPreamble};

/// Makes a close of the far end a reset, because it has not read everything.
async fn leave_unread(near: &OwnedFd) {
    assert_eq!(rustix::io::write(near, b"unread").unwrap(), 6);
    falls_to(near, 0).await;
}

/// Waits for the reason of the end, while the clock runs.
async fn ended(reason: &Cell<Option<CloseReason>>) -> CloseReason {
    loop {
        settled().await;
        match reason.get() {
            Some(reason) => return reason,
            None => advance(DELIVERY_TICK).await,
        }
    }
}

/// Relays from a backend that answers and closes, to a client that is sending. The relay begins when all of that has
/// happened, and so writes to the backend before it reads from it; `header` is written first, as a PROXY header. Returns
/// the far end of the client.
async fn relayed_from_closed_backend(
    backend_ends: bool,
    header: Option<&[u8]>,
) -> (TcpStream, Rc<Cell<Option<CloseReason>>>) {
    let (mut client, near_client, _) = pair().await;
    let (mut backend, near_backend, backend_fd) = pair().await;
    leave_unread(&backend_fd).await;
    backend.write_all(b"no, thanks").await.unwrap();
    if backend_ends {
        backend.shutdown().await.unwrap();
    }
    drop((backend, backend_fd));
    while !near_backend.has_failed() {
        yield_now().await;
    }
    client.write_all(b"upload").await.unwrap();
    falls_to(&client, 0).await;
    let near_backend = WithPreamble::new(header.map(Into::into), near_backend);
    (client, relay(PrefixedIo::new(Vec::new(), near_client), near_backend, Deadlines::default()).0)
}

/// PROXY headers to the backend: none, or a short one.
const HEADERS: [Option<&[u8]>; 2] = [None, Some(b"PROXY UNKNOWN\r\n")];

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_backend_that_closes_during_an_upload_ends_cleanly() {
    with_still_clock(async {
        for header in HEADERS {
            let (mut client, reason) = relayed_from_closed_backend(true, header).await;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "no, thanks");
            client.write_all(b"the rest").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(ended(&reason).await, CloseReason::BackendReset);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_backend_that_resets_without_an_end_does_not_look_complete() {
    with_still_clock(async {
        for header in HEADERS {
            let (mut client, reason) = relayed_from_closed_backend(false, header).await;
            assert_eq!(ended(&reason).await, CloseReason::BackendReset, "{header:?}");
            let mut answer = [0; 10];
            client.read_exact(&mut answer).await.unwrap();
            let end = client.read(&mut [0]).await;
            assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset), "{header:?}");
        }
    })
    .await;
}

/// Ends a client that has sent this many bytes, and resets it. The relay notices the reset when it passes an answer on.
/// Checks that the backend, which has not read yet, gets everything and a clean end.
async fn all_arrives_from_a_client_that_closes(ends: Ends, sent: usize) {
    let Ends { mut client, mut backend, ended: reason, near, .. } = ends;
    leave_unread(&near.client).await;
    falls_to(&client, 0).await;
    client.shutdown().await.unwrap();
    settled().await;
    drop((client, near));
    backend.write_all(b"answer").await.unwrap();
    settled().await;
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    while received < sent {
        received += backend.read(&mut buffer).await.unwrap();
        settled().await;
        advance(DELIVERY_TICK).await;
    }
    assert_eq!(ended(&reason).await, CloseReason::ClientReset);
    assert_eq!(backend.read(&mut [0]).await.unwrap(), 0, "after {received} bytes");
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_a_client_that_closes_arrives_after_its_end_was_passed_on() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines::default()).await;
        ends.client.write_all(&vec![b'x'; UNREAD]).await.unwrap();
        while ends.moved.to_backend.get() < UNREAD {
            yield_now().await;
        }
        all_arrives_from_a_client_that_closes(ends, UNREAD).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_a_client_that_closes_arrives_although_its_end_was_not_passed_on() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines::default()).await;
        let (mut sent, mut passed_on) = (0, None);
        while passed_on != Some(ends.moved.to_backend.get()) {
            passed_on = Some(ends.moved.to_backend.get());
            ends.client.write_all(&[b'x'; 64 << 10]).await.unwrap();
            sent += 64 << 10;
            settled().await;
        }
        all_arrives_from_a_client_that_closes(ends, sent).await;
    })
    .await;
}
