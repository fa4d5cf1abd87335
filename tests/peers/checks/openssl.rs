use super::Checked;
use crate::{
    harness::{EchoServer, Folder, free_address, run},
    needs,
    program::{Program, command},
};

#[test]
fn a_server_that_clients_verify_passes_when_it_shakes_hands() {
    needs!("openssl");
    let (address, folder) = (free_address(), Folder::new());
    assert_eq!(run(&["cert", "db.example.test", "--out", folder.path()]).0, 0);
    let file = |kind: &str| folder.join(&format!("db.example.test.{kind}")).display().to_string();
    let port = address.port().to_string();
    let options = ["s_server", "-accept", &port, "-cert", &file("crt"), "-key", &file("key"), "-quiet"];
    // The server refuses other names.
    let named = ["-servername", "db.example.test", "-servername_fatal", "-cert2", &file("crt"), "-key2", &file("key")];
    let _server = Program::start(command("openssl").args(options).args(named));
    let named = Checked::new(&[address], "type: TLS, tls: {serverName: db.example.test}");
    named.has_probed("passed", 3);
    named.goes_to(&[address]);
    Checked::example("tls.yaml", &[("127.0.0.1:5433", address)]).has_probed("passed", 1);
    let misnamed = Checked::new(&[address], "type: TLS, tls: {serverName: other.example.test}");
    misnamed.fails_saying("TLS handshake: received fatal alert: UnrecognisedName");
    let other = EchoServer::start(None);
    let plain = Checked::new(&[other.address], "type: TLS");
    plain.fails_saying("TLS handshake: ");
}
