//! What is generated and committed is current.

use std::{fs, path::Path};

#[path = "harness/mod.rs"]
mod harness;

#[test]
fn the_committed_crd_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/tcploadbalancers.yaml");
    let (code, printed, complaints) = harness::run(&["crd"]);
    assert_eq!((code, complaints.as_str()), (0, ""));
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, printed).unwrap();
    } else {
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(committed == printed, "crds/tcploadbalancers.yaml is not current: run `make generate`");
    }
}
