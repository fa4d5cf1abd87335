//! Addresses of sections of the documentation.

/// The address of a section of a page, such as `docs/kubectl.md`. Without a public repository, it is a path.
pub fn address(page: &str, section: &str) -> String {
    let section = section.to_lowercase();
    match env!("CARGO_PKG_REPOSITORY") {
        "" => format!("{page}#{section}"),
        repository => format!("{repository}/blob/v{}/{page}#{section}", env!("CARGO_PKG_VERSION")),
    }
}
