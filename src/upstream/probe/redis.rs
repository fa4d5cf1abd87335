//! The Redis serialization protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{connection::ProbeConnection, failure::ProbeError, role::expect_role, words::printable};
use crate::model::{RedisSession, Role};

type Answers<'a> = BufReader<&'a mut ProbeConnection>;

/// Logs in if a password is configured, and checks the role.
pub(super) async fn ask(connection: &mut ProbeConnection, session: &RedisSession) -> Result<(), ProbeError> {
    let mut answers = BufReader::new(connection);
    if let Some(password) = &session.password {
        let user = session.user.iter().map(|user| &**user);
        let words: Vec<_> = ["AUTH"].into_iter().chain(user).chain([&**password.reveal()]).collect();
        match command(&mut answers, &words).await?.as_str() {
            "+OK" => {}
            // Only the first word is quoted: some servers repeat the command, which contains the password.
            wrong => {
                let code = wrong.split(' ').next().unwrap_or_default();
                return Err(ProbeError::unexpected(format!("the login was answered `{code}`, expected `+OK`")));
            }
        }
    }
    match command(&mut answers, &["PING"]).await?.as_str() {
        "+PONG" => {}
        // The server is available, and requires authentication for other commands.
        answer if answer.starts_with("-NOAUTH") && session.password.is_none() && session.role == Role::Any => {
            return Ok(());
        }
        wrong => return Err(ProbeError::unexpected(format!("answered `{wrong}`, expected `+PONG`"))),
    }
    if session.role == Role::Any {
        return Ok(());
    }
    let first = command(&mut answers, &["ROLE"]).await?;
    if !first.starts_with('*') {
        return Err(ProbeError::unexpected(format!("answered `{first}`, expected its role")));
    }
    line(&mut answers).await?;
    match line(&mut answers).await?.as_str() {
        "master" => expect_role(false, session.role),
        "slave" => expect_role(true, session.role),
        other => {
            let expected = if session.role == Role::Replica { "a replica" } else { "a primary" };
            Err(ProbeError::unexpected(format!("is a `{other}`, expected {expected}")))
        }
    }
}

/// The first line of the answer to a command.
async fn command(answers: &mut Answers<'_>, words: &[&str]) -> Result<String, ProbeError> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    answers.write_all(text.as_bytes()).await?;
    answers.flush().await?;
    line(answers).await
}

async fn line(answers: &mut Answers<'_>) -> Result<String, ProbeError> {
    let mut line = Vec::new();
    answers.read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(printable(line)),
        None => Err(ProbeError::unexpected(format!("closed the connection after `{}`", printable(&line)))),
    }
}
