/// Reads a port number without sign and leading zeros.
pub fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| *port > 0 && port.to_string() == text)
}
