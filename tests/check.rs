//! `tcplb check` as a process.

use std::{
    fmt::Write,
    fs,
    io::Read,
    path::Path,
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

/// The objects that the API server refuses: of those that are as wrong outside a cluster, the field is named here too.
#[test]
fn what_an_api_server_refuses_is_refused_here_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/objects/bad");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let check = Command::new(env!("CARGO_BIN_EXE_tcplb")).arg("check").args(&files).output().unwrap();
    let told = String::from_utf8(check.stdout).unwrap();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (field, _) = text.strip_prefix("# ").and_then(|text| text.split_once(": ")).expect("`# field: sentence`");
        let of_file = format!("({}): refused", file.display());
        let mut lines = told.lines().skip_while(|line| !line.ends_with(&of_file)).skip(1);
        let errors = lines.by_ref().take_while(|line| line.starts_with("  "));
        if !errors.into_iter().any(|line| line.starts_with(&format!("  error: {field}"))) {
            wrong.push(format!("{}: nothing of {field}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{told}", wrong.join("\n"));
}
