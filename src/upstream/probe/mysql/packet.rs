use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::upstream::probe::connection::Connection;

/// The first byte of a command.
pub(super) const QUIT: u8 = 1;
pub(super) const QUERY: u8 = 3;

/// A packet, without its header.
#[derive(Debug)]
pub(super) struct Packet(pub Vec<u8>);

/// A connection as packets, each with its length and its number.
pub(super) struct Packets {
    pub connection: Connection,
    /// The number of the next one.
    number: u8,
}

impl Packets {
    pub fn new(connection: Connection) -> Self {
        Self { connection, number: 0 }
    }

    /// Reads no more than one, for what follows may be encrypted.
    pub async fn next(&mut self) -> io::Result<Packet> {
        let mut header = [0; 4];
        self.connection.read_exact(&mut header).await?;
        let [low, middle, high, number] = header;
        self.number = number.wrapping_add(1);
        let length = u32::from_le_bytes([low, middle, high, 0]);
        let mut packet = Vec::new();
        // As it comes: the length may be a lie.
        (&mut self.connection).take(length.into()).read_to_end(&mut packet).await?;
        if packet.len() as u64 == u64::from(length) {
            Ok(Packet(packet))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Within a conversation.
    pub async fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        let length = u32::try_from(packet.len()).expect("what is said is short").to_le_bytes();
        let text = [&length[..3], &[self.number], packet].concat();
        self.number = self.number.wrapping_add(1);
        self.connection.write_all(&text).await?;
        self.connection.flush().await
    }

    /// A command, which begins one.
    pub async fn say(&mut self, command: &[u8]) -> io::Result<()> {
        self.number = 0;
        self.answer(command).await
    }
}

/// What is before the next zero, and what is after it.
pub(super) fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
