use std::{
    fs,
    net::{SocketAddr, TcpStream},
};

use super::Checked;
use crate::{
    harness::{Folder, free_address, wait_until},
    needs,
    program::{Program, command},
};

/// Like Patroni next to PostgreSQL: the status shows the leader.
#[test]
fn an_http_sidecar_of_each_endpoint_reports_the_leader() {
    needs!("nginx");
    let (port, database) = (free_address().port(), free_address().port());
    let folder = Folder::new();
    let node = |host: u8| SocketAddr::from(([127, 0, 0, host], database));
    let servers: String = [2, 3]
        .map(|host| {
            format!(
                "server {{ listen 127.0.0.{host}:{port}; root {}/{host}; default_type text/plain;
                 location = /primary {{ if ($http_x_token != sesame) {{ return 401; }} try_files /leads =503; }} }}\n",
                folder.path()
            )
        })
        .concat();
    for host in ["2", "3"] {
        fs::create_dir(folder.join(host)).unwrap();
    }
    fs::write(folder.join("2/leads"), "yes").unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let own: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
        .concat();
    let log = path("access.log");
    let config = folder.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; user root; pid {}; error_log stderr; events {{}}
             http {{ access_log {log}; {own} {servers} }}",
            path("pid")
        ),
    );
    let mut nginx = Program::start(command("nginx").args(["-c", &config, "-p", folder.path()]));
    wait_until("nginx listens", || TcpStream::connect(SocketAddr::from(([127, 0, 0, 2], port))).is_ok());
    let http = "http: {path: /primary, statuses: [200], headers: [{name: X-Token, value: sesame}]}";
    let leader = Checked::new(&[node(2), node(3)], &format!("type: HTTP, port: {port}, {http}"));
    leader.goes_to(&[node(2)]);
    leader.fails_saying("HTTP status 503, expected 200");
    let instead = [("127.0.0.2:5432", node(2)), ("127.0.0.3:5432", node(3))];
    let example = Checked::example("http.yaml", &instead);
    // These servers require a token, which the example does not have, and use another port.
    example.fails_saying("onnection refused");
    drop(example);
    fs::rename(folder.join("2/leads"), folder.join("3/leads")).unwrap();
    leader.goes_to(&[node(3)]);
    let stranger = Checked::new(&[node(2)], &format!("type: HTTP, port: {port}, http: {{path: /primary}}"));
    stranger.fails_saying("HTTP status 401, expected 200-399");
    assert!(nginx.is_running());
    assert!(!nginx.said().contains("[error]"), "{}", nginx.said());
    assert!(fs::read_to_string(log).unwrap().contains("\"GET /primary HTTP/1.1\" 200"));
    assert!(!leader.tcplb.snapshot().to_string().contains("sesame"));
}
