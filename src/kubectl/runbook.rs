//! References to sections of the documentation.

/// The address of a section of a page, such as `docs/kubectl.md`. Without a public repository, it is a path.
pub fn address(page: &str, section: &str) -> String {
    let section = section.to_lowercase();
    match env!("CARGO_PKG_REPOSITORY") {
        "" => format!("{page}#{section}"),
        repository => format!("{repository}/blob/v{}/{page}#{section}", env!("CARGO_PKG_VERSION")),
    }
}

/// A reference for readers of text: the address of a section. Without a public repository, the command that prints it.
pub fn reference(address: &str, name: &str) -> String {
    match env!("CARGO_PKG_REPOSITORY") {
        "" => format!("see `kubectl tcplb explain {name}`"),
        _ => format!("see {address}"),
    }
}
