//! MySQL and MariaDB: <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>.

mod login;
mod packet;

use self::{
    login::{Greeting, prove},
    packet::{Packet, PacketStream},
};
use super::{
    connection::ProbeConnection, failure::ProbeError, role::expect_role, tls::ProbeTlsClient, words::printable,
};
use crate::model::{MySqlSession, Role};

/// Logs in and checks the role: a read-only server is a replica. The server counts an aborted login as an error of the
/// client's host, so there is no check without an account.
pub(super) async fn ask(
    connection: ProbeConnection,
    session: &MySqlSession,
    tls: Option<&ProbeTlsClient>,
) -> Result<ProbeConnection, ProbeError> {
    let mut packets = PacketStream::new(connection);
    let greeting = match packets.next().await?.answer()? {
        Answer::Other(packet) => Greeting::read(&packet).ok_or_else(not_understood)?,
        Answer::Ok | Answer::Switch(..) => return Err(not_understood()),
    };
    if let Some(tls) = tls {
        if !greeting.offers_tls {
            return Err(ProbeError::unexpected("the server does not accept TLS, expected TLS"));
        }
        packets.answer(&login::tls_request()).await?;
        packets.connection = tls.shake_hands(packets.connection).await?;
    }
    log_in(&mut packets, &greeting, session, tls.is_some()).await?;
    let has_role = match session.role {
        Role::Any => Ok(()),
        role @ (Role::Primary | Role::Replica) => expect_role(is_read_only(&mut packets).await?, role),
    };
    // The server counts connections that end without QUIT.
    packets.say(&[packet::QUIT]).await?;
    has_role?;
    Ok(packets.connection)
}

async fn log_in(
    packets: &mut PacketStream,
    greeting: &Greeting,
    session: &MySqlSession,
    encrypted: bool,
) -> Result<(), ProbeError> {
    const FAST_ENOUGH: &[u8] = &[1, 3];
    const IN_FULL: &[u8] = &[1, 4];

    let password = session.password.as_ref().map(|password| password.reveal().as_bytes()).unwrap_or_default();
    let with_first_guess = login::response(greeting, &session.user, password, encrypted);
    packets.answer(&with_first_guess).await?;
    loop {
        match packets.next().await?.answer()? {
            Answer::Ok => return Ok(()),
            Answer::Switch(plugin, nonce) => {
                let proof = prove(&plugin, password, &nonce);
                packets.answer(&proof.ok_or_else(|| unknown_login(&plugin))?).await?;
            }
            Answer::Other(packet) => match &packet.0[..] {
                FAST_ENOUGH => {}
                IN_FULL if encrypted => packets.answer(&[password, b"\0"].concat()).await?,
                IN_FULL => {
                    return Err(ProbeError::unexpected(
                        "the server requests the plaintext password, which is sent over TLS only",
                    ));
                }
                _ => return Err(not_understood()),
            },
        }
    }
}

async fn is_read_only(packets: &mut PacketStream) -> Result<bool, ProbeError> {
    const ONE_COLUMN: &[u8] = &[1];

    packets.say(&[&[packet::QUERY], &b"SELECT @@global.read_only"[..]].concat()).await?;
    match packets.next().await?.answer()? {
        Answer::Other(packet) if packet.0 == ONE_COLUMN => {}
        Answer::Ok | Answer::Switch(..) | Answer::Other(_) => return Err(not_understood()),
    }
    // The column's definition, and the end of all definitions.
    packets.next().await?;
    packets.next().await?;
    let row = packets.next().await?;
    let value = row.0.get(1..).ok_or_else(not_understood)?;
    packets.next().await?;
    Ok(!matches!(value, b"0" | b"OFF"))
}

/// The answers of a server.
enum Answer {
    Ok,
    /// A switch to another authentication method, with its nonce.
    Switch(String, Vec<u8>),
    Other(Packet),
}

impl Packet {
    fn answer(self) -> Result<Answer, ProbeError> {
        match self.0.split_first() {
            Some((0, _)) => Ok(Answer::Ok),
            Some((0xfe, rest)) => {
                let (plugin, nonce) = packet::until_nul(rest).ok_or_else(|| unknown_login("mysql_old_password"))?;
                let nonce = nonce.strip_suffix(b"\0").unwrap_or(nonce);
                Ok(Answer::Switch(printable(plugin), nonce.to_vec()))
            }
            Some((0xff, rest)) => Err(server_error(rest)),
            _ => Ok(Answer::Other(self)),
        }
    }
}

/// An error of the server: a number, an optional SQL state, and a message.
fn server_error(error: &[u8]) -> ProbeError {
    let words = error.get(2..).unwrap_or_default();
    let words = words.strip_prefix(b"#").and_then(|words| words.get(5..)).unwrap_or(words);
    ProbeError::unexpected(format!("it says: {}", printable(words)))
}

fn unknown_login(plugin: &str) -> ProbeError {
    ProbeError::unexpected(format!(
        "the server requests a login by {plugin}, expected mysql_native_password or caching_sha2_password"
    ))
}

fn not_understood() -> ProbeError {
    ProbeError::unexpected("unexpected answer, expected MySQL")
}
