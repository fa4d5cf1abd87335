//! `tcplb check` as a process.

use std::{
    fmt::Write,
    io::Read,
    process::{Command, Stdio},
};

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = String::new();
    // More than a pipe holds.
    for number in 1..=3000 {
        write!(
            manifest,
            "---\napiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: number-{number}}}\n\
             spec: {{listeners: [{{port: {number}}}], backends: [{{addresses: ['192.0.2.7:1']}}]}}\n"
        )
        .unwrap();
    }
    let path = folder.path().join("many.yaml");
    std::fs::write(&path, manifest).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_tcplb"))
        .arg("check")
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 17];
    check.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"default/number-1 ");
    let output = check.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
