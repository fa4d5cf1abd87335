use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::upstream::probe::connection::ProbeConnection;

/// The first byte of a command.
pub(super) const QUIT: u8 = 1;
pub(super) const QUERY: u8 = 3;

/// A packet, without its header.
#[derive(Debug)]
pub(super) struct Packet(pub Vec<u8>);

/// A connection of packets, each with its length and sequence number.
pub(super) struct PacketStream {
    pub connection: ProbeConnection,
    /// The next sequence number.
    number: u8,
}

impl PacketStream {
    pub fn new(connection: ProbeConnection) -> Self {
        Self { connection, number: 0 }
    }

    /// Reads exactly one packet: the following bytes may be encrypted.
    pub async fn next(&mut self) -> io::Result<Packet> {
        let mut header = [0; 4];
        self.connection.read_exact(&mut header).await?;
        let [low, middle, high, number] = header;
        self.number = number.wrapping_add(1);
        let length = u32::from_le_bytes([low, middle, high, 0]);
        let mut packet = Vec::new();
        // Allocate as bytes arrive: the length may be false.
        (&mut self.connection).take(length.into()).read_to_end(&mut packet).await?;
        if packet.len() as u64 == u64::from(length) {
            Ok(Packet(packet))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Sends a packet within a conversation.
    pub async fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        let length = u32::try_from(packet.len()).expect("what is said is short").to_le_bytes();
        let text = [&length[..3], &[self.number], packet].concat();
        self.number = self.number.wrapping_add(1);
        self.connection.write_all(&text).await?;
        self.connection.flush().await
    }

    /// Sends a command, which begins a conversation.
    pub async fn say(&mut self, command: &[u8]) -> io::Result<()> {
        self.number = 0;
        self.answer(command).await
    }
}

/// Splits at the next zero byte.
pub(super) fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
