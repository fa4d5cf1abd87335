//! OpenSSL's s_client as the client of TLS termination.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::ExitStatus,
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::{
    harness::{EchoServer, Folder, Tcplb, free_address, run, wait_until},
    needs,
    program::{Program, command},
};

#[test]
fn the_certificate_is_the_one_for_the_server_name() {
    needs!("openssl");
    let front = Front::start(&["a.example.test", "*.wild.example.test", "b.wild.example.test"], "");
    for (asked, answered) in [
        (Some("a.example.test"), "a.example.test"),
        (Some("x.wild.example.test"), "*.wild.example.test"),
        (Some("b.wild.example.test"), "b.wild.example.test"),
        (Some("x.y.wild.example.test"), "a.example.test"),
        (Some("wild.example.test"), "a.example.test"),
        (Some("A.EXAMPLE.TEST"), "a.example.test"),
        (None, "a.example.test"),
    ] {
        let name = asked.map_or(vec!["-noservername"], |name| vec!["-servername", name]);
        let greeting = front.greeted(&name);
        assert!(greeting.contains(&front.certificate(answered)), "{asked:?} is to get {answered}: {greeting}");
    }
}

#[test]
fn a_client_that_verifies_name_and_issuer_is_content() {
    needs!("openssl");
    let front = Front::start(&["a.example.test", "*.wild.example.test"], "");
    for (name, file) in [("a.example.test", "a.example.test.crt"), ("x.wild.example.test", "_.wild.example.test.crt")] {
        let authority = front.folder.join(file);
        let verify = ["-CAfile", authority.to_str().unwrap(), "-verify_return_error", "-verify_hostname", name];
        let greeting = front.greeted(&[&["-servername", name], &verify[..]].concat());
        assert!(greeting.contains("Verification: OK") && greeting.contains("Verified peername"), "{greeting}");
    }
}

#[test]
fn versions_below_the_minimum_are_refused() {
    needs!("openssl");
    let front = Front::start(&["a.example.test"], "");
    assert!(front.greeted(&["-tls1_2"]).contains("New, TLSv1.2"));
    assert!(front.greeted(&["-tls1_3"]).contains("New, TLSv1.3"));
    // OpenSSL itself supports this old version only at the lowest of its security levels.
    front.refuses(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "SSL alert number");

    let front = Front::start(&["a.example.test"], "minVersion: TLS1.3, ");
    assert!(front.greeted(&[]).contains("New, TLSv1.3"));
    front.refuses(&["-tls1_2"], "alert protocol version");
}

#[test]
fn the_application_protocol_is_one_that_both_know() {
    needs!("openssl");
    let front = Front::start(&["a.example.test"], "alpn: [postgresql, mqtt], ");
    assert!(front.greeted(&["-alpn", "h2,mqtt"]).contains("ALPN protocol: mqtt"));
    assert!(front.greeted(&["-alpn", "mqtt,postgresql"]).contains("ALPN protocol: postgresql"), "our order counts");
    assert!(front.greeted(&[]).contains("No ALPN negotiated"));
    front.refuses(&["-alpn", "h2"], "alert no application protocol");
}

#[test]
fn sessions_are_resumed_also_after_the_certificate_has_changed() {
    needs!("openssl");
    for (version, reused) in [("-tls1_2", "Reused, TLSv1.2"), ("-tls1_3", "Reused, TLSv1.3")] {
        let front = Front::start(&["a.example.test"], "");
        let session = front.folder.join("session");
        let session = session.to_str().unwrap();
        front.greeted(&[version, "-sess_out", session]);
        assert!(front.greeted(&[version, "-sess_in", session]).contains(reused));
        let handshakes =
            |result: &str| front.tcplb.metric("tcplb_tls_handshakes_total", &[&format!("result=\"{result}\"")]);
        assert_eq!((handshakes("full"), handshakes("resumed")), (1.0, 1.0));

        front.greeted(&[version, "-sess_out", session]);
        front.change_certificate("a.example.test");
        assert!(front.greeted(&[version, "-sess_in", session]).contains(reused), "with the session of before");
    }
}

#[test]
fn a_changed_certificate_is_used_by_the_next_handshake_and_disturbs_no_connection() {
    needs!("openssl");
    let front = Front::start(&["a.example.test"], "");
    let mut open = front.client(&["-quiet"]);
    open.says("echo\n");
    open.tell(b"before\n");
    open.says("before\n");
    front.change_certificate("a.example.test");
    open.tell(b"after\n");
    open.says("after\n");
}

#[test]
fn megabytes_come_back_through_tls_as_they_were() {
    needs!("openssl");
    for version in ["-tls1_2", "-tls1_3"] {
        let front = Front::start(&["a.example.test"], "");
        let mut client = front.client(&["-quiet", version]);
        let text: String = (0..500_000).map(|number| format!("{number:07}\n")).collect();
        client.tell(text.as_bytes());
        client.says("0499999\n");
        let output = client.output();
        assert!(output.strip_prefix("echo\n") == Some(&text), "{} bytes", output.len());
    }
}

#[test]
fn a_clean_end_looks_clean_and_a_cut_one_does_not() {
    needs!("openssl");
    for version in ["-tls1_2", "-tls1_3"] {
        for (ending, told) in [(Ending::Clean, "closed\n"), (Ending::Reset, "read:errno=104\n")] {
            let front = Front::before(one_line_server(ending), &["a.example.test"], "");
            let mut client = front.client(&[version]);
            client.says("all there is\n");
            client.tell(b"then end\n");
            client.says(told);
            let (status, said) = client.ends();
            assert_eq!(status.success(), ending == Ending::Clean, "{said}");
        }
    }
}

/// The load balancer with TLS, in front of one server.
struct Front {
    address: SocketAddr,
    folder: Folder,
    tcplb: Tcplb,
}

impl Front {
    /// The load balancer in front of a server that sends `echo` first. The certificate of the first name is the
    /// default.
    fn start(names: &[&str], tls: &str) -> Self {
        Self::before(EchoServer::start(Some("echo")).address, names, tls)
    }

    fn before(server: SocketAddr, names: &[&str], tls: &str) -> Self {
        let (address, folder) = (free_address(), Folder::new());
        for name in names {
            write_certificate(&folder, name);
        }
        let pair = |name: &&str| format!("{{files: {{certificate: {0}.crt, key: {0}.key}}}}", stem(name));
        let pairs = names.iter().map(pair).collect::<Vec<_>>().join(", ");
        let manifest = format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: tls}}\nspec:\n  listeners:\n  - port: \
             {}\n    address: 127.0.0.1\n    tls: {{{tls}certificateRefs: [{pairs}]}}\n  backends: [{{addresses: \
             [\"{server}\"]}}]\n  healthCheck: {{active: {{type: None}}}}\n",
            address.port(),
        );
        let path = folder.write("tls.yaml", &manifest);
        Self { address, tcplb: Tcplb::standalone(&[&path]).ready(), folder }
    }

    fn client(&self, options: &[&str]) -> Program {
        let server = self.address.to_string();
        Program::start(command("openssl").args(["s_client", "-connect", &server]).args(options))
    }

    /// The output of s_client for a connection on which the server has sent data.
    fn greeted(&self, options: &[&str]) -> String {
        let mut client = self.client(options);
        client.says("echo\n");
        let (status, said) = client.ends();
        assert!(status.success(), "{said}");
        said
    }

    fn refuses(&self, options: &[&str], alert: &str) {
        let (status, said): (ExitStatus, String) = self.client(options).ends();
        assert!(!status.success() && said.contains(alert), "{options:?}: {said}");
    }

    /// The certificate as s_client prints it.
    fn certificate(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(&format!("{}.crt", stem(name)))).unwrap().replace("\r\n", "\n")
    }

    fn change_certificate(&self, name: &str) {
        write_certificate(&self.folder, name);
        let changed = self.certificate(name);
        wait_until("the changed certificate is used", || self.greeted(&["-servername", name]).contains(&changed));
    }
}

fn write_certificate(folder: &Folder, name: &str) {
    let (code, _, complaints) = run(&["cert", name, "--force", "--out", folder.path()]);
    assert_eq!((code, complaints.as_str()), (0, ""));
}

fn stem(name: &str) -> String {
    name.replace('*', "_")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Clean,
    Reset,
}

/// A server that sends a line, and ends when it receives something.
fn one_line_server(ending: Ending) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.write_all(b"all there is\n");
            let _ = client.read(&mut [0; 100]);
            if ending == Ending::Reset {
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    });
    address
}
