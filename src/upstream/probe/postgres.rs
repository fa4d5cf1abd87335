//! PostgreSQL: <https://www.postgresql.org/docs/current/protocol.html>.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{ErrorResponseBody, Header, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::spawn_blocking,
};

use super::{
    connection::ProbeConnection, failure::ProbeError, role::expect_role, start_tls::offer_tls, tls::ProbeTlsClient,
    words::printable,
};
use crate::model::{Password, PostgresSession, Role};

/// The maximum length of a message; expected messages are shorter.
const LONGEST_MESSAGE: i32 = 16 << 10;
/// Five times the servers' default. Bounded, because the server chooses the number of hashes that are computed here.
const MOST_ITERATIONS: u32 = 20_000;
/// Bounds the concurrent hashes of all probes together.
pub(super) static HASHES: Semaphore = Semaphore::const_new(MOST_HASHES);
pub(super) const MOST_HASHES: usize = 2;

/// Logs in with `session` and checks the role. Without an account, it only checks that PostgreSQL answers, to avoid
/// failed logins.
pub(super) async fn ask(
    connection: ProbeConnection,
    session: Option<&PostgresSession>,
    encryption: SessionEncryption,
) -> Result<ProbeConnection, ProbeError> {
    let Some(session) = session else { return recognise(connection, encryption).await };
    let mut conversation = Conversation { connection, unread: BytesMut::new(), encryption };
    conversation.log_in(session).await?;
    let has_role = match session.role {
        Role::Any => Ok(()),
        role @ (Role::Primary | Role::Replica) => expect_role(conversation.is_in_recovery().await?, role),
    };
    conversation
        .say(|text| {
            frontend::terminate(text);
            Ok(())
        })
        .await?;
    has_role?;
    Ok(conversation.connection)
}

/// The encryption of the connection so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionEncryption {
    None,
    Tls,
}

async fn recognise(
    mut connection: ProbeConnection,
    encryption: SessionEncryption,
) -> Result<ProbeConnection, ProbeError> {
    // A server would log an error for a connection that ends after TLS was accepted.
    match encryption == SessionEncryption::None && offer_tls(&mut connection).await? {
        true => ProbeTlsClient::accepting_any_certificate(None).shake_hands(connection).await,
        false => Ok(connection),
    }
}

struct Conversation {
    connection: ProbeConnection,
    unread: BytesMut,
    encryption: SessionEncryption,
}

impl Conversation {
    async fn log_in(&mut self, session: &PostgresSession) -> Result<(), ProbeError> {
        let parameters = [("user", &*session.user), ("database", &*session.database), ("application_name", "tcplb")];
        self.say(|text| frontend::startup_message(parameters, text)).await?;
        loop {
            match self.next().await? {
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    let password = password(session)?;
                    if self.encryption == SessionEncryption::None {
                        return Err(ProbeError::unexpected(
                            "the server requests the plaintext password, expected TLS or SCRAM",
                        ));
                    }
                    self.say(|text| frontend::password_message(password.reveal().as_bytes(), text)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = password(session)?.reveal().as_bytes();
                    let hash = md5_hash(session.user.as_bytes(), password, body.salt());
                    self.say(|text| frontend::password_message(hash.as_bytes(), text)).await?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256)).unwrap_or(false) {
                        return Err(ProbeError::unexpected("the server requests an unsupported login method"));
                    }
                    self.prove(password(session)?).await?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Proves knowledge of the password, and verifies that the server knows it too.
    async fn prove(&mut self, password: &Password) -> Result<(), ProbeError> {
        let mut proof = ScramSha256::new(password.reveal().as_bytes(), ChannelBinding::unsupported());
        self.say(|text| frontend::sasl_initial_response(SCRAM_SHA_256, proof.message(), text)).await?;
        match self.next().await? {
            Message::AuthenticationSaslContinue(body) => {
                proof = answer(proof, body.data()).await?;
            }
            other => return Err(unexpected(&other)),
        }
        self.say(|text| frontend::sasl_response(proof.message(), text)).await?;
        match self.next().await? {
            Message::AuthenticationSaslFinal(body) => proof
                .finish(body.data())
                .map_err(|_| ProbeError::unexpected("the server did not prove that it knows the password")),
            other => Err(unexpected(&other)),
        }
    }

    async fn is_in_recovery(&mut self) -> Result<bool, ProbeError> {
        self.say(|text| frontend::query("SELECT pg_catalog.pg_is_in_recovery()", text)).await?;
        let mut answer = None;
        loop {
            match self.next().await? {
                Message::DataRow(row) => answer = row.buffer().last().map(|last| *last == b't'),
                Message::ReadyForQuery(_) => return answer.ok_or_else(not_understood),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::ParameterStatus(_)
                | Message::NoticeResponse(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    async fn say(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), ProbeError> {
        let mut text = BytesMut::new();
        write(&mut text)?;
        self.connection.write_all(&text).await?;
        Ok(self.connection.flush().await?)
    }

    async fn next(&mut self) -> Result<Message, ProbeError> {
        loop {
            // The library would allocate for a message of any length.
            let header = Header::parse(&self.unread).map_err(|_| not_understood())?;
            if header.is_some_and(|header| header.len() > LONGEST_MESSAGE) {
                return Err(not_understood());
            }
            if let Some(message) = Message::parse(&mut self.unread).map_err(|_| not_understood())? {
                return Ok(message);
            }
            if self.connection.read_buf(&mut self.unread).await? == 0 {
                return Err(ProbeError::unexpected("closed the connection instead of an answer"));
            }
        }
    }
}

/// Hashes the password as often as `challenge` requests, on a blocking thread.
async fn answer(mut proof: ScramSha256, challenge: &[u8]) -> Result<ScramSha256, ProbeError> {
    if let Some(count) = iterations(challenge).filter(|count| *count > MOST_ITERATIONS) {
        return Err(ProbeError::unexpected(format!(
            "the server requests {count} iterations of SCRAM, expected at most {MOST_ITERATIONS}: lower \
             scram_iterations, and set the password again"
        )));
    }
    let challenge = challenge.to_vec();
    let turn = HASHES.acquire().await.expect("it is never closed");
    let hash = spawn_blocking(move || {
        let _turn = turn;
        proof.update(&challenge).map(|()| proof)
    });
    hash.await.ok().and_then(Result::ok).ok_or_else(not_understood)
}

/// The iteration count at the end of a challenge: <https://www.rfc-editor.org/rfc/rfc5802#section-7>.
fn iterations(challenge: &[u8]) -> Option<u32> {
    let last = challenge.rsplit(|byte| *byte == b',').next()?;
    str::from_utf8(last.strip_prefix(b"i=")?).ok()?.parse().ok()
}

fn password(session: &PostgresSession) -> Result<&Password, ProbeError> {
    let asked = || {
        ProbeError::unexpected(format!("the server requests a password for {}, but the check has none", session.user))
    };
    session.password.as_ref().ok_or_else(asked)
}

fn not_understood() -> ProbeError {
    ProbeError::unexpected("unexpected answer, expected PostgreSQL")
}

fn unexpected(message: &Message) -> ProbeError {
    match message {
        Message::ErrorResponse(body) => server_error(body).unwrap_or_else(not_understood),
        _ => not_understood(),
    }
}

/// The error message of the server.
fn server_error(body: &ErrorResponseBody) -> Option<ProbeError> {
    const MESSAGE: u8 = b'M';
    let message = body.fields().find(|field| Ok(field.type_() == MESSAGE)).ok()??;
    Some(ProbeError::unexpected(format!("it says: {}", printable(message.value_bytes()))))
}
