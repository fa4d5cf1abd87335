//! `kubectl tcplb`, as users run it.

use std::process::Command;

use crate::{cluster::run, scenario::Scenario};

impl Scenario {
    /// Runs a command for the scenario's namespace and installation. Returns its exit code and output.
    pub async fn kubectl_tcplb(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcplb"));
        command.arg("kubectl").args(arguments).args([
            "--namespace",
            &self.namespace,
            "--install-namespace",
            &self.installation().namespace,
        ]);
        let output = run(command).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }
}
