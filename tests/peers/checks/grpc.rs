use std::process::Command;

use super::Checked;
use crate::{
    harness::{Folder, free_address, lacks, wait_until},
    program::Program,
};

/// Answers with the number in the file `status`, for the service `shop.Orders` and for the server as a whole.
const SERVER: &str = r#"
import sys, grpc
from concurrent import futures

def check(request, context):
    service = request[2:].decode() if request else ""
    if service not in ("", "shop.Orders"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    status = int(open("status").read())
    return bytes([8, status]) if status else b""

handler = grpc.unary_unary_rpc_method_handler(check)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
print("serving", flush=True)
server.wait_for_termination()
"#;

#[test]
fn grpc_services_say_whether_they_serve() {
    // Debian's own Python, even if others are installed.
    let python = || Command::new("/usr/bin/python3");
    if !python().args(["-c", "import grpc"]).status().is_ok_and(|status| status.success()) {
        return lacks("python3-grpcio");
    }
    let (address, folder) = (free_address(), Folder::new());
    folder.write("status", "1");
    let mut server =
        Program::start(python().current_dir(folder.path()).args(["-c", SERVER, &address.port().to_string()]));
    server.says("serving\n");
    let whole = Checked::new(&[address], "type: GRPC");
    let orders = Checked::new(&[address], "type: GRPC, grpc: {service: shop.Orders}");
    let unknown = Checked::new(&[address], "type: GRPC, grpc: {service: shop.Returns}");
    whole.has_probed("passed", 3);
    let example = Checked::example("grpc.yaml", &[("127.0.0.1:50051", address)]);
    example.has_probed("passed", 1);
    drop(example);
    orders.has_probed("passed", 3);
    unknown.fails_saying("gRPC status 5, unknown service, expected SERVING");
    folder.write("status", "2");
    whole.goes_to(&[]);
    orders.fails_saying("NOT_SERVING, expected SERVING");
    folder.write("status", "1");
    whole.goes_to(&[address]);

    // A server in another language, on another port than that of the endpoint.
    let port = address.port();
    let elsewhere = free_address();
    let other = Checked::new(&[elsewhere], &format!("type: GRPC, port: {port}"));
    other.goes_to(&[elsewhere]);
    let http = Checked::new(&[address], "type: HTTP");
    http.fails_saying("HTTP: ");
    wait_until("it is unusable", || !http.usable(address));
}
