//! Sessions of rustls without its buffers, for either side.

use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{EncodeError, EncodeTlsData, UnbufferedStatus},
};

/// The largest incomplete record or handshake message of a handshake, in bytes. rustls accepts handshake messages of up
/// to 64 KiB.
pub const MAX_INCOMPLETE: usize = 64 * 1024;

/// The TLS session of a connection, in the role of the server or of the client.
pub trait TlsSession: Unpin {
    type SideData;
    /// The largest incomplete record or handshake message after the handshake, in bytes.
    const MAX_INCOMPLETE: usize;

    /// Processes the next of these records. See [`UnbufferedStatus`] for the duties of the caller.
    fn process_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::SideData>;

    /// The negotiated parameters.
    fn state(&self) -> &CommonState;
}

impl TlsSession for UnbufferedServerConnection {
    type SideData = ServerConnectionData;
    /// A record of TLS 1.2 (RFC 5246, section 6.2.3). The only handshake messages of clients are requests for new keys.
    const MAX_INCOMPLETE: usize = 5 + 16 * 1024 + 2048;

    fn process_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl TlsSession for UnbufferedClientConnection {
    type SideData = ClientConnectionData;
    /// Servers may send large session tickets.
    const MAX_INCOMPLETE: usize = MAX_INCOMPLETE;

    fn process_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(records)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// Appends a message of the session to the bytes to be sent.
pub fn encode<D>(mut message: EncodeTlsData<'_, D>, unsent: &mut Vec<u8>) {
    let behind = unsent.len();
    while let Err(EncodeError::InsufficientSize(size)) = message.encode(&mut unsent[behind..]) {
        unsent.resize(behind + size.required_size, 0);
    }
}
