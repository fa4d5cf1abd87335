//! The program in its own network namespace, in which a test may change addresses and routes.

use std::{net::SocketAddr, process::Command};

use crate::harness::{Folder, Tcplb, WAIT_LIMIT, lacks, skip};

/// A server that sends `hello from here`.
pub const SERVER: &str = "127.0.0.1:5001";
const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 4001);

pub struct OwnNetwork {
    pub tcplb: Tcplb,
    _folder: Folder,
}

impl OwnNetwork {
    /// Prepares a network with a script, and runs the program there with these manifests. `None`: no such network can
    /// be created here.
    pub fn start(preparation: &str, manifests: &str) -> Option<Self> {
        let apart = |script: &str| {
            let mut command = Command::new("unshare");
            command.args([
                "--user",
                "--map-root-user",
                "--net",
                "--",
                "bash",
                "-ec",
                script,
                env!("CARGO_BIN_EXE_tcplb"),
            ]);
            command
        };
        if !Command::new("ip").arg("-V").status().is_ok_and(|status| status.success()) {
            lacks("ip");
            return None;
        }
        if !apart("ip link set lo up").status().is_ok_and(|status| status.success()) {
            skip("no network name spaces for users");
            return None;
        }
        let folder = Folder::new();
        let file = folder.write("lb.yaml", manifests);
        let script = format!(
            "ip link set lo up; {preparation}
             setpriv --pdeathsig KILL \"$0\" backend --listen {SERVER} --name here >/dev/null 2>&1 &
             until (exec 3<>/dev/tcp/{}) 2>/dev/null; do sleep 0.05; done; exec \"$0\" \"$@\"",
            SERVER.replace(':', "/"),
        );
        let admin = SocketAddr::from(ADMIN);
        let mut command = apart(&script);
        command.args(["standalone", "--admin", &admin.to_string(), &file]);
        Some(Self { tcplb: Tcplb::spawn(command, admin), _folder: folder })
    }

    /// The output of a script that runs in the network.
    pub fn run(&self, script: &str) -> String {
        let mut command = Command::new("nsenter");
        let pid = self.tcplb.pid().to_string();
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", "--", "bash", "-c", script]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// Connects this many times, and returns the names of the backends.
    pub fn clients(&self, address: &str, count: usize) -> Vec<String> {
        let (address, seconds) = (address.replace(':', "/"), WAIT_LIMIT.as_secs());
        let answers = self.run(&format!(
            "for i in $(seq {count}); do exec 3<>/dev/tcp/{address} && read -r -t {seconds} line <&3 && echo \"$line\" || echo none
             exec 3>&-; done"
        ));
        answers.lines().map(Into::into).collect()
    }

    /// A page of the admin address.
    pub fn page(&self, path: &str) -> String {
        let admin = SocketAddr::from(ADMIN);
        self.run(&format!(
            "exec 3<>/dev/tcp/{}/{}; printf 'GET {path} HTTP/1.1\\r\\nHost: {admin}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
            admin.ip(),
            admin.port()
        ))
    }
}
