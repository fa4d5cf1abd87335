use aws_lc_rs::digest::{Algorithm, Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::packet::{Packet, until_nul};

const NATIVE: &str = "mysql_native_password";
const SHA2: &str = "caching_sha2_password";

/// The greeting of a server.
pub(super) struct Greeting {
    pub offers_tls: bool,
    nonce: Vec<u8>,
    plugin: String,
}

/// Capability flags.
mod capability {
    pub const LONG_PASSWORD: u32 = 1;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const TLS: u32 = 1 << 11;
    pub const TRANSACTIONS: u32 = 1 << 13;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const PLUGINS: u32 = 1 << 19;
}

impl Greeting {
    /// Parses a Protocol::HandshakeV10. `None`: it is malformed.
    pub fn read(packet: &Packet) -> Option<Self> {
        let rest = packet.0.strip_prefix(&[10])?;
        let (_version, rest) = until_nul(rest)?;
        // Thread id, 4 bytes; first part of the nonce, 8 bytes, and a zero; lower half of the capabilities; character
        // set and status, 3 bytes; upper half; length of the nonce; 10 unused bytes.
        let lower = rest.get(13..15)?;
        let upper = rest.get(18..20)?;
        let capabilities = u32::from_le_bytes([lower[0], lower[1], upper[0], upper[1]]);
        let length = usize::from(*rest.get(20)?).saturating_sub(8).max(13);
        let end = rest.get(31..31 + length)?;
        let plugin = until_nul(rest.get(31 + length..)?).map_or(NATIVE.as_bytes(), |(plugin, _)| plugin);
        Some(Self {
            offers_tls: capabilities & capability::TLS != 0,
            nonce: [rest.get(4..12)?, end.strip_suffix(b"\0").unwrap_or(end)].concat(),
            plugin: String::from_utf8_lossy(plugin).into_owned(),
        })
    }
}

const CAPABILITIES: u32 = capability::LONG_PASSWORD
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::PLUGINS;

/// Protocol::SSLRequest.
pub(super) fn tls_request() -> Vec<u8> {
    head(CAPABILITIES | capability::TLS)
}

/// The beginning of login requests.
fn head(capabilities: u32) -> Vec<u8> {
    const LONGEST_PACKET: u32 = 1 << 24;
    const UTF8: u8 = 33;
    const NOTHING: [u8; 23] = [0; 23];
    [&capabilities.to_le_bytes()[..], &LONGEST_PACKET.to_le_bytes(), &[UTF8], &NOTHING].concat()
}

/// Protocol::HandshakeResponse41, with a proof for the server's preferred method, if supported.
pub(super) fn response(greeting: &Greeting, user: &str, password: &[u8], encrypted: bool) -> Vec<u8> {
    let capabilities = if encrypted { CAPABILITIES | capability::TLS } else { CAPABILITIES };
    let plugin = if greeting.plugin == SHA2 { SHA2 } else { NATIVE };
    let proof = prove(plugin, password, &greeting.nonce).unwrap_or_default();
    let length = [proof.len() as u8];
    [&head(capabilities)[..], user.as_bytes(), b"\0", &length, &proof, plugin.as_bytes(), b"\0"].concat()
}

/// Proves knowledge of the password without sending it. `None`: the method is not supported.
pub(super) fn prove(plugin: &str, password: &[u8], nonce: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match plugin {
        NATIVE => &SHA1_FOR_LEGACY_USE_ONLY,
        SHA2 => &SHA256,
        _ => return None,
    };
    if password.is_empty() {
        return Some(Vec::new());
    }
    let once = hash(algorithm, &[password]);
    let twice = hash(algorithm, &[once.as_ref()]);
    // The two methods differ in the order of their inputs.
    let mask = if plugin == NATIVE {
        hash(algorithm, &[nonce, twice.as_ref()])
    } else {
        hash(algorithm, &[twice.as_ref(), nonce])
    };
    Some(once.as_ref().iter().zip(mask.as_ref()).map(|(one, mask)| one ^ mask).collect())
}

fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(algorithm);
    parts.iter().for_each(|part| context.update(part));
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with the proofs of another implementation.
    #[test]
    fn a_proof_is_the_password_hidden_by_the_nonce() {
        let hex = |plugin, password: &str| {
            let proof = prove(plugin, password.as_bytes(), b"01234567890123456789").unwrap();
            proof.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(hex(NATIVE, "sesame"), "f49e428860744fbaccc83d009e61ab2e6c27a2a0");
        assert_eq!(hex(SHA2, "sesame"), "7ec0e6635ea3676ff39852dc2175c320d49bd0796c3f6d6b5fd94700554e716c");
        assert_eq!((hex(NATIVE, ""), hex(SHA2, "")), (String::new(), String::new()));
        assert_eq!(prove("client_ed25519", b"sesame", b""), None);
    }
}
