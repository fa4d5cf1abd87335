//! Golden files of the renderings.

use std::{fs, path::Path};

/// Compares a text with a file, or writes the file with `GOLDEN=write`.
pub fn assert_golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-kubectl").join(name);
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "{name} differs (GOLDEN=write rewrites it):\n{text}");
}
