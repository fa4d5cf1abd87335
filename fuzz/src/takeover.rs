use tcplb::takeover::receive_messages;

/// Messages of a process that offers its sockets, in lines: an offer without sockets is complete or an error, and never
/// blocks or panics.
pub fn takeover(data: &[u8]) {
    if let Ok(inheritance) = receive_messages(data.split(|byte| *byte == b'\n')) {
        assert!(inheritance.admin.is_none() && inheritance.listeners.values().all(Vec::is_empty));
    }
}
