//! Configuration changes while connections are open.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, path::Path};

use crate::{
    harness::{
        Backend, Client, EchoServer, Folder, Tcplb, free_address, manifest, raise_descriptor_limit, run, visit,
        wait_until, who_answers,
    },
    load::Load,
    tls_client,
};

/// A load balancer on its own port.
fn shop(address: SocketAddr, backend: SocketAddr) -> String {
    manifest("shop", address.port(), &[backend], "")
}

/// Waits until a change from one port to another is served.
fn moved(from: SocketAddr, to: SocketAddr) {
    wait_until("the new port is served", || visit(to).is_ok());
    wait_until("the old port is given up", || visit(from).is_err());
}

#[test]
fn a_file_is_read_again_after_replacement_writing_or_a_hangup() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let ports: [SocketAddr; 4] = std::array::from_fn(|_| free_address());
    let file = folder.write("shop.yaml", &shop(ports[0], server.address));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let mut open = Client::connect(ports[0]);

    folder.write("shop.yaml", &shop(ports[1], server.address));
    moved(ports[0], ports[1]);
    fs::write(&file, shop(ports[2], server.address)).unwrap();
    moved(ports[1], ports[2]);
    // Some editors first rename the file, then write a new one.
    fs::rename(&file, folder.join("shop.yaml~")).unwrap();
    fs::write(&file, shop(ports[3], server.address)).unwrap();
    moved(ports[2], ports[3]);
    tcplb.forget_log();
    tcplb.signal("HUP");
    tcplb.logged("SIGHUP");
    visit(ports[3]).unwrap();
    open.echo("the port it came by is gone, and it is still there").unwrap();
}

#[test]
fn a_config_map_mount_is_followed_through_its_links() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second, third] = std::array::from_fn(|_| free_address());
    let version = |name: &str, address| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("shop.yaml"), shop(address, server.address)).unwrap();
        let aside = folder.join("..data_tmp");
        symlink(name, &aside).unwrap();
        fs::rename(aside, folder.join("..data")).unwrap();
    };
    version("..2026_01", first);
    symlink("..data/shop.yaml", folder.join("shop.yaml")).unwrap();
    let _whole = Tcplb::standalone(&[folder.path()]).ready();
    let mut open = Client::connect(first);

    version("..2026_02", second);
    moved(first, second);
    fs::remove_dir_all(folder.join("..2026_01")).unwrap();
    version("..2026_03", third);
    moved(second, third);
    open.echo("still there").unwrap();
}

#[test]
fn a_file_named_through_a_link_is_followed_too() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second] = std::array::from_fn(|_| free_address());
    fs::write(folder.join("one"), shop(first, server.address)).unwrap();
    fs::write(folder.join("two"), shop(second, server.address)).unwrap();
    symlink("one", folder.join("current.yaml")).unwrap();
    let _tcplb = Tcplb::standalone(&[folder.join("current.yaml").to_str().unwrap()]).ready();
    symlink("two", folder.join("next")).unwrap();
    fs::rename(folder.join("next"), folder.join("current.yaml")).unwrap();
    moved(first, second);
}

#[test]
fn files_of_a_folder_come_and_go() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second] = std::array::from_fn(|_| free_address());
    folder.write("first.yaml", &manifest("first", first.port(), &[server.address], ""));
    let tcplb = Tcplb::standalone(&[folder.path()]).ready();
    folder.write("second.yaml", &manifest("second", second.port(), &[server.address], ""));
    wait_until("the new file is served", || visit(second).is_ok());
    let mut open = Client::connect(second);

    fs::remove_file(folder.join("second.yaml")).unwrap();
    wait_until("what is deleted is not served", || visit(second).is_err());
    visit(first).unwrap();
    open.echo("an open connection of a deleted one goes on").unwrap();
    assert_eq!(tcplb.snapshot()["loadBalancers"].as_array().unwrap().len(), 1);
    let of_its_endpoints =
        |line: &str| line.starts_with("tcplb_endpoint_") && line.contains("load_balancer=\"second\"");
    assert!(!tcplb.metrics().lines().any(of_its_endpoints));
    open.finish().unwrap();
}

#[test]
fn an_object_that_becomes_wrong_keeps_serving_says_so_and_recovers() {
    let servers = [EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two"))];
    let [one, two] = servers.each_ref().map(|server| server.address);
    let (folder, address, other) = (Folder::new(), free_address(), free_address());
    let right = shop(address, one);
    let both = |shop: &str, server| format!("{shop}---\n{}", manifest("other", other.port(), &[server], ""));
    let file = folder.write("both.yaml", &both(&right, one));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();

    let version = "the last valid version stays in use";
    for (wrong, said, fallback) in [
        (right.replace("listeners", "listenrs"), "unknown field (did you mean `listeners`?)", version),
        (right.replace("backends: [{", "backends: [{weight: 0, "), "spec.backends[0].weight", version),
        (
            right.replace("127.0.0.1}", "127.0.0.1, tls: {certificateRefs: [{name: nowhere}]}}"),
            "none of the certificates is usable",
            "the listener keeps its previous configuration",
        ),
    ] {
        folder.write("both.yaml", &both(&wrong, two));
        let line = tcplb.logged(said);
        assert!(line.contains("default/shop") && line.contains(fallback), "{line}");
        wait_until("the other one changes", || who_answers(other) == "two");
        assert_eq!(who_answers(address), "one", "{said}");
        assert!(tcplb.snapshot().to_string().contains(said), "{said}");
        assert!(tcplb.metric("tcplb_configuration_problems", &["refused"]) >= 1.0);

        tcplb.forget_log();
        folder.write("both.yaml", &both(&right, one));
        let line = tcplb.logged("all problems are resolved");
        assert!(line.contains("default/shop"), "{line}");
        wait_until("nothing is wrong any more", || tcplb.metric("tcplb_configuration_problems", &[]) == 0.0);
    }

    // An unreadable file hides its declarations: all of them stay.
    folder.write("both.yaml", "spec: [");
    let line = tcplb.logged("is not YAML");
    assert!(line.contains("the previous content stays in use"), "{line}");
    for address in [address, other] {
        assert_eq!(who_answers(address), "one");
    }
    folder.write("both.yaml", &shop(address, two));
    wait_until("a readable file counts again", || who_answers(address) == "two");
    wait_until("and what it no longer declares stops", || visit(other).is_err());
}

#[test]
fn invalid_objects_are_not_served_after_a_restart() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, other) = (free_address(), free_address());
    let file = folder.write("shop.yaml", &shop(address, server.address));
    folder.write("other.yaml", &manifest("other", other.port(), &[server.address], ""));
    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    folder.write("shop.yaml", &shop(address, server.address).replace("listeners", "listenrs"));
    tcplb.logged("unknown field");
    visit(address).unwrap();
    tcplb.signal("TERM");
    tcplb.ended();

    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let line = tcplb.logged("unknown field");
    assert!(line.contains(&file) && line.contains("it is not served"), "{line}");
    assert!(visit(address).is_err());
    visit(other).unwrap();
}

#[test]
fn a_replaced_certificate_is_used_by_the_next_handshake_and_closes_nothing() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let pair = |names: &[&str]| {
        let (code, _, error) = run(&[&["cert", "--force", "--out", folder.path()], names].concat());
        assert_eq!(code, 0, "{error}");
        tls_client::certificate_in(&fs::read_to_string(folder.join("db.example.test.crt")).unwrap())
    };
    let before = pair(&["db.example.test"]);
    let files =
        "127.0.0.1, tls: {certificateRefs: [{files: {certificate: db.example.test.crt, key: db.example.test.key}}]}}";
    folder.write("shop.yaml", &shop(address, server.address).replace("127.0.0.1}", files));
    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    assert_eq!(tls_client::presented(address, "db.example.test").unwrap(), before);
    let trusted = folder.write("before.pem", &fs::read_to_string(folder.join("db.example.test.crt")).unwrap());
    let mut open = tls_client::connect(address, "db.example.test", &[&trusted]).unwrap();
    open.echo("before").unwrap();

    let after = pair(&["db.example.test", "eu.example.test"]);
    wait_until("the new certificate is presented", || {
        tls_client::presented(address, "db.example.test").unwrap() == after
    });
    open.echo("after").unwrap();

    // A missing file keeps its last content in use.
    tcplb.forget_log();
    fs::remove_file(folder.join("db.example.test.key")).unwrap();
    let line = tcplb.logged("db.example.test.key");
    assert!(line.contains("the previous one stays in use"), "{line}");
    assert_eq!(tls_client::presented(address, "db.example.test").unwrap(), after);
    open.echo("still").unwrap();
}

#[test]
fn the_state_of_endpoints_survives_changes() {
    let (one, two) = (EchoServer::start(None), free_address());
    let (folder, address) = (Folder::new(), free_address());
    // The interval is also the time limit of a check.
    let quick = "healthCheck: {active: {interval: 2s, unhealthyAfter: 1}}";
    let text = |more: &str| manifest("shop", address.port(), &[one.address, two], &format!("{quick}{more}"));
    let tcplb = Tcplb::standalone(&[&folder.write("shop.yaml", &text(""))]).ready();
    let endpoint = |address: SocketAddr| format!("endpoint_address=\"{address}\"");
    wait_until("the probe finds that nobody is there", || {
        tcplb.metric("tcplb_endpoint_healthy", &[&endpoint(two)]) == 0.0
    });
    for _ in 0..10 {
        visit(address).unwrap();
    }
    let mut open = Client::connect(address);
    open.echo("before").unwrap();

    let generation = tcplb.metric("tcplb_configuration_generation", &[]);
    folder.write("shop.yaml", &text("\nloadBalancing: {algorithm: LeastConnections}\ntimeouts: {idle: 1h}"));
    wait_until("the change is applied", || tcplb.metric("tcplb_configuration_generation", &[]) > generation);
    visit(address).unwrap();
    open.echo("after").unwrap();
    assert_eq!(tcplb.metric("tcplb_endpoint_connections_total", &[&endpoint(one.address)]), 12.0);
    wait_until("only the open one is left", || {
        tcplb.metric("tcplb_endpoint_connections_active", &[&endpoint(one.address)]) == 1.0
    });
    assert_eq!(tcplb.metric("tcplb_connections_accepted_total", &[]), 12.0);
    assert_eq!(tcplb.metric("tcplb_endpoint_healthy", &[&endpoint(two)]), 0.0, "not taken for healthy anew");
}

#[test]
fn a_removed_endpoint_gets_no_new_connections_and_keeps_its_open_ones() {
    let servers = [EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two"))];
    let [one, two] = servers.each_ref().map(|server| server.address);
    let (folder, address) = (Folder::new(), free_address());
    let tcplb = Tcplb::standalone(&[&folder.write("shop.yaml", &shop(address, one))]).ready();
    let mut open = Client::connect(address);
    assert_eq!(open.backend(), "one");
    folder.write("shop.yaml", &shop(address, two));
    wait_until("the new endpoint is used", || who_answers(address) == "two");
    assert!((0..4).all(|_| who_answers(address) == "two"));
    open.echo("still there").unwrap();
    wait_until("its series are gone", || !tcplb.metrics().contains(&format!("endpoint_address=\"{one}\"")));
    open.finish().unwrap();
}

#[test]
fn a_thousand_random_edits_lose_none_of_two_thousand_open_connections() {
    const EDITS: usize = 1000;
    const CONNECTIONS: usize = 2000;
    const SHOPS: usize = 4;

    raise_descriptor_limit();
    let backends = ["blue", "green", "red"].map(Backend::named);
    let servers = backends.each_ref().map(|backend| backend.address);
    let folder = Folder::new();
    let shops: [Shop; SHOPS] = std::array::from_fn(|number| Shop {
        name: format!("shop-{number}"),
        address: free_address(),
        other: free_address(),
        servers,
    });
    for shop in &shops {
        folder.write(&shop.file(), &shop.manifest());
    }
    let mut tcplb = Tcplb::standalone(&["--workers", "2", folder.path()]).ready();
    let mut clients: Vec<Client> =
        (0..CONNECTIONS).map(|number| Client::connect(shops[number % SHOPS].address)).collect();
    for client in &mut clients {
        client.backend();
    }

    let mut random = fastrand::Rng::with_seed(0x7c91b);
    for edit in 1..=EDITS {
        let shop = &shops[random.usize(..SHOPS)];
        let file = shop.file();
        match shop.random_edit(&mut random) {
            Some(text) if random.bool() => drop(folder.write(&file, &text)),
            Some(text) => fs::write(folder.join(&file), text).unwrap(),
            None => drop(fs::remove_file(folder.join(&file))),
        }
        if edit % 10 == 0 {
            // A marker whose effect is visible shows that all earlier changes have been read.
            let marker = free_address();
            folder.write("marker.yaml", &manifest("marker", marker.port(), &servers, ""));
            wait_until("the edits are applied", || visit_named(marker));
        }
        let number = random.usize(..CONNECTIONS);
        clients[number].echo("meanwhile").unwrap_or_else(|error| panic!("after edit {edit}: {number}: {error}"));
    }
    for shop in &shops {
        folder.write(&shop.file(), &shop.manifest());
    }
    for shop in &shops {
        wait_until("all are served in the end", || visit_named(shop.address));
    }
    wait_until("nothing is wrong in the end", || tcplb.metric("tcplb_configuration_problems", &[]) == 0.0);
    for (number, client) in clients.iter_mut().enumerate() {
        client.echo("after all").unwrap_or_else(|error| panic!("connection {number}: {error}"));
    }
    assert!(tcplb.metric("tcplb_configuration_generation", &[]) > 100.0, "the edits were applied");
    assert!(tcplb.is_running());
}

fn visit_named(address: SocketAddr) -> bool {
    Client::try_connect(address).is_ok_and(|mut client| client.line().is_ok_and(|line| !line.is_empty()))
}

/// A load balancer of the test.
struct Shop {
    name: String,
    address: SocketAddr,
    /// An address that edits move it to.
    other: SocketAddr,
    servers: [SocketAddr; 3],
}

impl Shop {
    fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }

    fn manifest(&self) -> String {
        manifest(&self.name, self.address.port(), &self.servers, "")
    }

    /// The next content of a file; `None`: it is deleted.
    fn random_edit(&self, random: &mut fastrand::Rng) -> Option<String> {
        let right = self.manifest();
        let more = |text: &str| format!("{right}  {text}\n");
        Some(match random.usize(..16) {
            0 => right,
            1 => more("loadBalancing: {algorithm: Maglev}"),
            2 => more("loadBalancing: {algorithm: LeastConnections}"),
            3 => more(&format!("timeouts: {{idle: {}s, halfClosed: 1m}}", random.u32(1..10))),
            4 => more(&format!("drain: {{shutdown: {{after: {}s}}}}", random.u32(1..100))),
            5 => more("healthCheck: {active: {interval: 1s, unhealthyAfter: 1}}"),
            6 => more("tcpKeepalive: {idle: 30s, interval: 10s, probes: 3}"),
            7 => right.replace("127.0.0.1}]", "127.0.0.1, limits: {maxConnections: 1}}]"),
            8 => right.replace("127.0.0.1}]", "127.0.0.1, access: {deny: [127.0.0.0/8]}}]"),
            // Endpoints, listeners and addresses are added and removed.
            9 => manifest(&self.name, self.address.port(), &self.servers[..random.usize(1..=self.servers.len())], ""),
            10 => manifest(&self.name, self.other.port(), &self.servers, ""),
            11 => right.replace("address: 127.0.0.1", "address: 0.0.0.0"),
            // Mistakes.
            12 => right.replace("listeners", "listenrs"),
            13 => right[..random.usize(..right.len())].to_owned(),
            14 => right.replace("backends: [{", "backends: [{weight: 0, "),
            _ => return None,
        })
    }
}

#[test]
fn a_folder_that_is_replaced_as_a_whole_is_followed() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second] = std::array::from_fn(|_| free_address());
    let fill = |name: &str, address| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("shop.yaml"), shop(address, server.address)).unwrap();
        folder.join(name)
    };
    let current = fill("current", first);
    let _tcplb = Tcplb::standalone(&[current.to_str().unwrap()]).ready();
    let next = fill("next", second);
    fs::rename(&current, folder.join("before")).unwrap();
    fs::rename::<_, &Path>(next, &current).unwrap();
    moved(first, second);
}

#[test]
fn moving_an_address_to_another_object_refuses_no_client() {
    let servers = [EchoServer::start(None), EchoServer::start(None)];
    let [one, two] = servers.each_ref().map(|server| server.address);
    let (folder, address, other) = (Folder::new(), free_address(), free_address());
    let named = |name: &str, port: SocketAddr, server| manifest(name, port.port(), &[server], "");
    let both = |first, second| format!("{}---\n{}", named("a", first, one), named("b", second, two));
    folder.write("shop.yaml", &both(address, other));
    let tcplb = Tcplb::standalone(&["--workers", "2", folder.path()]).ready();
    let loads = [Load::start(4, || {}, address), Load::start(4, || {}, other)];
    let generation = || tcplb.metric("tcplb_configuration_generation", &[]);
    for text in [
        // The two swap their addresses, and back.
        both(other, address),
        both(address, other),
        // Other load balancers take the addresses; one of them takes both.
        format!("{}---\n{}", named("c", address, one), named("d", other, two)),
        named("e", address, two)
            .replace("listeners: [", "listeners: [{name: other, port: 1, address: 127.0.0.1}, ")
            .replace("{port:", "{name: this, port:")
            .replace("port: 1,", &format!("port: {},", other.port())),
        both(address, other),
        // The address becomes wider, and then narrower.
        both(address, other).replace("127.0.0.1}", "0.0.0.0}"),
        both(address, other).replace("address: 127.0.0.1}", "address: \"::\"}"),
        both(address, other),
    ] {
        let before = generation();
        folder.write("shop.yaml", &text);
        wait_until("the change is applied", || generation() > before);
        loads.iter().for_each(|load| load.goes_on_for(30));
    }
    for load in loads {
        let (served, errors) = load.ended();
        assert!(errors.is_empty(), "{} of {served}: {errors:?}", errors.len());
    }
    assert_eq!(tcplb.metric("tcplb_configuration_problems", &[]), 0.0);
}

#[test]
fn a_replaced_secret_is_used_by_the_next_handshake_and_a_deleted_one_is_kept() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let write_secret = |name: &str| {
        let (code, secret, error) = run(&["cert", "--secret", "shop-tls", name]);
        assert_eq!(code, 0, "{error}");
        folder.write("secret.yaml", &secret);
    };
    write_secret("before.example.test");
    let tls = "127.0.0.1, tls: {certificateRefs: [{name: shop-tls}]}}";
    folder.write("shop.yaml", &shop(address, server.address).replace("127.0.0.1}", tls));
    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let presented = || tls_client::presented(address, "shop.example.test").unwrap();
    let before = presented();
    write_secret("after.example.test");
    wait_until("the new certificate is presented", || presented() != before);
    assert!(tcplb.snapshot().to_string().contains("after.example.test"));

    let after = presented();
    fs::remove_file(folder.join("secret.yaml")).unwrap();
    let line = tcplb.logged("Secret default/shop-tls does not exist");
    assert!(line.contains("the previous one stays in use"), "{line}");
    assert_eq!(presented(), after);
}

#[test]
fn the_endpoints_of_a_service_are_followed() {
    let servers = [EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two"))];
    let (folder, address) = (Folder::new(), free_address());
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec: {ports: [{port: 7}]}\n";
    let slice = |number: usize, ready: bool| {
        let server = servers[number].address;
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: echo-{number}, \
             labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\nports: [{{port: {}}}]\n\
             endpoints: [{{addresses: [\"{}\"], conditions: {{ready: {ready}}}}}]\n",
            server.port(),
            server.ip()
        )
    };
    let write =
        |ready: [bool; 2]| folder.write("service.yaml", &[service, &slice(0, ready[0]), &slice(1, ready[1])].concat());
    write([true, false]);
    let text = shop(address, servers[0].address);
    let (listeners, _) = text.split_once("  backends").unwrap();
    folder.write("shop.yaml", &format!("{listeners}  backends: [{{service: {{name: echo, port: 7}}}}]\n"));
    let _tcplb = Tcplb::standalone(&[folder.path()]).ready();
    assert!((0..3).all(|_| who_answers(address) == "one"));
    let mut open = Client::connect(address);
    open.backend();

    write([false, true]);
    wait_until("new connections go to the one that is ready", || who_answers(address) == "two");
    assert!((0..3).all(|_| who_answers(address) == "two"));
    open.echo("a pod that is no longer ready keeps its connections").unwrap();

    write([false, false]);
    wait_until("without an endpoint connections are refused", || {
        !Client::try_connect(address).is_ok_and(|mut client| client.line().is_ok_and(|line| !line.is_empty()))
    });
    open.echo("still").unwrap();
}

#[test]
fn paths_may_be_relative() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    for path in [".", "shop.yaml", "./shop.yaml"] {
        let [first, second] = std::array::from_fn(|_| free_address());
        folder.write("shop.yaml", &shop(first, server.address));
        let _tcplb = Tcplb::standalone_with(&[path], |command| command.current_dir(folder.path())).ready();
        folder.write("shop.yaml", &shop(second, server.address));
        moved(first, second);
    }
}
