//! Sessions of rustls without its buffers, for either side.

use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{EncodeError, EncodeTlsData, UnbufferedStatus},
};

/// The TLS session of a connection, in the role of the server or of the client.
pub trait TlsSession: Unpin {
    type SideData;

    /// Processes the next of these records. See [`UnbufferedStatus`] for the duties of the caller.
    fn process_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::SideData>;

    /// The negotiated parameters.
    fn state(&self) -> &CommonState;
}

impl TlsSession for UnbufferedServerConnection {
    type SideData = ServerConnectionData;

    fn process_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl TlsSession for UnbufferedClientConnection {
    type SideData = ClientConnectionData;

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
