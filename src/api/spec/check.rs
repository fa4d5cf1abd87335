//! What probes ask, and which answers pass.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{RefKind, Reference};
use crate::api::{HeaderName, HexBytes, HttpPath, ObjectName, ServerName, StatusRange, Text, rules};

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckType {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    None,
    Exchange,
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "TLS")]
    Tls,
    #[serde(rename = "GRPC")]
    Grpc,
    Postgres,
    #[serde(rename = "MySQL")]
    MySql,
    Redis,
}

/// What probes go through.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckTransport {
    Plain,
    #[serde(rename = "TLS")]
    Tls,
}

/// Bytes to send, and bytes that have to be in the answer.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeCheck {
    /// What is said first. Absent: nothing, the server speaks first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<CheckBytes>,
    /// What has to come, anywhere within the first 64 KiB.
    pub expect: CheckBytes,
}

/// Bytes: exactly one of `text` and `hex`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.text) != has(self.hex)")
    .message("write one of text and hex, for example `text: \"PING\\r\\n\"`"))]
pub struct CheckBytes {
    /// As text, with the escapes of YAML between double quotes: `"PING\r\n"`. 1 to 1024 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub text: Option<String>,
    /// As hexadecimal digits, two for each byte: `50494e470d0a`. 1 to 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<HexBytes>,
}

/// A GET request. Redirections are not followed.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// The path, with a query if there is one. Default: /.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPath>,
    /// The statuses that pass: numbers such as 200, and ranges such as 200-299. At most 16. Default: 200-399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new(
            "self.all(s, type(s) == int || size(string(s)) < 7 || \
             string(s).substring(0, 3) <= string(s).substring(4))",
        )
            .message("a range ends before it begins: write for example 200-299")
    )]
    pub statuses: Vec<StatusRange>,
    /// The Host header. Default: the address that is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Text>,
    /// Other headers. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(h, h.name.lowerAscii() != 'host')")
            .message("the Host header is set by `host`: write it there"),
        validation = Rule::new("self.all(h, !(h.name.lowerAscii() in ['content-length', 'transfer-encoding']))")
            .message("probes have no body: remove Content-Length and Transfer-Encoding")
    )]
    pub headers: Vec<HttpHeader>,
}

/// A header of a request.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name, of 1 to 63 letters, digits, dashes, underscores and dots.
    pub name: HeaderName,
    /// Its value. It is in no log and on no page.
    pub value: Text,
}

/// A TLS handshake.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsCheck {
    /// The name to ask for (SNI). Default: none, or that of the backend's `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('*')")
        .message("a wildcard cannot be requested: write one name, for example db.example.com"))]
    pub server_name: Option<ServerName>,
}

/// A question to the gRPC health service (`grpc.health.v1.Health/Check`), which has to answer SERVING.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GrpcCheck {
    /// The service asked about. Default: the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Text>,
}

/// A session with PostgreSQL. Without a user, only whether it is PostgreSQL that answers.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.role == 'Any' || has(self.user)")
        .message("role requires user, since PostgreSQL reports its role only after a login: set `user`")
        .field_path(".role"),
    validation = rules::password_of_a_user(),
)]
pub struct PostgresCheck {
    /// What the server has to be. `Primary`: not in recovery. `Replica`: in recovery. `Any`: either. Default: Any.
    #[serde(default)]
    pub role: CheckRole,
    /// Who logs in. It needs no right but to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The user's password. Absent: the server asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<PasswordRef>,
    /// The database. Default: postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<Text>,
}

/// A session with MySQL or MariaDB, whose hosts are blocked that connect too often without logging in.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MySqlCheck {
    /// What the server has to be. `Primary`: `read_only` is off. `Replica`: it is on. `Any`: either. Default: Any.
    #[serde(default)]
    pub role: CheckRole,
    /// Who logs in. It needs no right but to connect.
    pub user: Text,
    /// The user's password. Absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<PasswordRef>,
}

/// A session with Redis or Valkey.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.user) || has(self.passwordRef)")
    .message("user requires passwordRef: set `passwordRef` or remove `user`")
    .field_path(".user"))]
pub struct RedisCheck {
    /// What the server has to be. `Any`: either. Default: Any, which a server that wants a password passes without one.
    #[serde(default)]
    pub role: CheckRole,
    /// Who logs in (an ACL user, which may `PING` and `ROLE`). Default: the default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The password. Absent: nobody logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<PasswordRef>,
}

/// What a database server is to its others.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckRole {
    #[default]
    Any,
    Primary,
    Replica,
}

/// Where a password is: exactly one of `name` and `file`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.file)")
        .message("passwordRef has no name: write the name of a Secret"),
    validation = Rule::new("!has(self.file)")
        .message("files are for standalone: write the `name` of a Secret")
        .field_path(".file")
)]
pub struct PasswordRef {
    /// A Secret in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// Which of its keys has the password. Default: password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// A file with the password alone (standalone only); a line break at its end is not part of it. A relative path is
    /// relative to the manifest's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
}

impl PasswordRef {
    /// The Secret that it names.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: RefKind::Secret, name: &name.0 })
    }

    pub fn key(&self) -> &str {
        self.key.as_ref().map_or("password", |key| &key.0)
    }
}
