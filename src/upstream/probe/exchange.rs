use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{connection::ProbeConnection, failure::ProbeError, words::printable};
use crate::model::Exchange;

/// Sends the bytes, and reads until the expected bytes have arrived.
pub(super) async fn ask(
    connection: &mut ProbeConnection,
    exchange: &Exchange,
    deadline: Instant,
) -> Result<(), ProbeError> {
    let mut answer = Vec::new();
    let wrong = |answer: &[u8], how: &str| {
        let expected = printable(&exchange.expect);
        let came = match answer.len() {
            0 => "nothing".into(),
            _ if exchange.send.reveal().is_empty() => format!("`{}` and no more", printable(answer)),
            // The sent bytes may be a password, which the server may repeat.
            count => format!("{count} other bytes and no more"),
        };
        Err(ProbeError::unexpected(format!("answered {came}{how}, expected `{expected}`")))
    };
    let send = async {
        connection.write_all(exchange.send.reveal()).await?;
        connection.flush().await
    };
    let Ok(sent) = timeout_at(deadline, send).await else { return wrong(&answer, IN_TIME) };
    sent?;
    let mut searched = 0;
    while !contains(&answer[searched..], &exchange.expect) {
        // The expected bytes may begin with the last received ones.
        searched = answer.len().saturating_sub(exchange.expect.len());
        match timeout_at(deadline, connection.read_buf(&mut answer)).await {
            Ok(Ok(0)) => return wrong(&answer, ", then closed the connection"),
            Ok(Ok(_)) => {}
            // The server closed without reading everything.
            Ok(Err(_)) if !answer.is_empty() => return wrong(&answer, ""),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return wrong(&answer, IN_TIME),
        }
    }
    Ok(())
}

const IN_TIME: &str = " in time";

fn contains(answer: &[u8], expected: &[u8]) -> bool {
    answer.windows(expected.len()).any(|part| part == expected)
}
