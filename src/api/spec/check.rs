//! The requests of probes, and the responses that pass.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{RefKind, Reference};
use crate::api::{HeaderName, HexBytes, HttpHost, HttpPath, ObjectName, ServerName, StatusRange, Text, rules};

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

/// The transport of probes.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckTransport {
    Plain,
    #[serde(rename = "TLS")]
    Tls,
}

/// Bytes to send, and bytes that the answer must contain.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeCheck {
    /// The bytes to send first. Absent: nothing is sent, the server speaks first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<CheckBytes>,
    /// The bytes that the answer must contain within its first 64 KiB.
    pub expect: CheckBytes,
}

/// Bytes: exactly one of `text` and `hex`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.text) != has(self.hex)")
    .message("write one of text and hex, for example `text: \"PING\\r\\n\"`"))]
pub struct CheckBytes {
    /// The bytes as text, with YAML escapes in double quotes: `"PING\r\n"`. 1 to 1024 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub text: Option<String>,
    /// The bytes as hexadecimal digits, two for each byte: `50494e470d0a`. 1 to 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<HexBytes>,
}

/// A GET request. Redirects are not followed.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// The path, with an optional query. 1 to 256 characters. Default: /.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPath>,
    /// The HTTP statuses that pass: numbers such as 200, and ranges such as 200-299. At most 16. Default: 200-399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new(
            "self.all(s, type(s) == int || size(string(s)) < 7 || \
             string(s).substring(0, 3) <= string(s).substring(4))",
        )
            .message("the range ends before it begins: write for example 200-299")
    )]
    pub statuses: Vec<StatusRange>,
    /// The Host header: a host name or an IP address, with an optional port. 1 to 256 characters. Default: the probed
    /// address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HttpHost>,
    /// Additional headers. At most 8.
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
    /// The name: 1 to 63 letters, digits, dashes, underscores and dots.
    pub name: HeaderName,
    /// The value: 1 to 256 characters. It does not appear in logs or on admin pages.
    pub value: Text,
}

/// A TLS handshake.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsCheck {
    /// The server name to request (SNI). Default: the server name of the backend's `tls`, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('*')")
        .message("a wildcard cannot be requested: write one name, for example db.example.com"),
        validation = rules::requestable_server_name())]
    pub server_name: Option<ServerName>,
}

/// A request to the gRPC health service (`grpc.health.v1.Health/Check`). The answer must be SERVING.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GrpcCheck {
    /// The name of the service to check. Default: the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Text>,
}

/// A PostgreSQL session. Without a user, the check only verifies that PostgreSQL answers.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.role == 'Any' || has(self.user)")
        .message("role requires user, since PostgreSQL reports its role only after a login: set `user`")
        .field_path(".role"),
    validation = rules::password_of_a_user(),
)]
pub struct PostgresCheck {
    /// The required role of the server. `Primary`: not in recovery. `Replica`: in recovery. `Any`: either. Default:
    /// Any.
    #[serde(default)]
    pub role: CheckRole,
    /// The user that logs in. It needs no privilege except to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The password of the user. Absent: the server must not ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<PasswordRef>,
    /// The name of the database. Default: postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<Text>,
}

/// A MySQL or MariaDB session. These servers block hosts that connect repeatedly without a login.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MySqlCheck {
    /// The required role of the server. `Primary`: `read_only` is off. `Replica`: `read_only` is on. `Any`: either.
    /// Default: Any.
    #[serde(default)]
    pub role: CheckRole,
    /// The user that logs in. It needs no privilege except to connect.
    pub user: Text,
    /// The password of the user. Absent: the user has no password.
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
    /// The required role of the server. `Primary`, `Replica`, or `Any`: either. With Any, a server that requires a
    /// password passes without one. Default: Any.
    #[serde(default)]
    pub role: CheckRole,
    /// The ACL user that logs in. It must be allowed to run `PING` and `ROLE`. Default: the default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// The password of the user. Absent: no login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<PasswordRef>,
}

/// The replication role of a database server.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckRole {
    #[default]
    Any,
    Primary,
    Replica,
}

/// A reference to a password: exactly one of `name` and `file`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.file)")
        .message("passwordRef has no name: write the name of a Secret"),
    validation = Rule::new("!has(self.file)")
        .message("files are for standalone mode: write the `name` of a Secret")
        .field_path(".file")
)]
pub struct PasswordRef {
    /// The name of a Secret in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// The key of the Secret that holds the password. Default: password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// A file that contains only the password (standalone only). A trailing line break is ignored. A relative path is
    /// relative to the folder of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
}

impl PasswordRef {
    /// The referenced Secret.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: RefKind::Secret, name: &name.0 })
    }

    pub fn key(&self) -> &str {
        self.key.as_ref().map_or("password", |key| &key.0)
    }
}
