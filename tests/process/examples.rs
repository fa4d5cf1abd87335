//! The files of `examples/` work as described.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    harness::{Backend, Client, Folder, Tcplb, free_address, program, run, who_answers},
    tls_client,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// The examples in front of the three backends.
fn manifests() -> Vec<PathBuf> {
    let mut files = in_folder(FOLDER);
    files.push(Path::new(FOLDER).join("checks/exchange.yaml"));
    assert!(files.len() >= 10, "{files:?}");
    files
}

/// The examples that need third-party software.
fn in_front_of_others() -> Vec<PathBuf> {
    let mut files = in_folder(&format!("{FOLDER}/checks"));
    files.retain(|file| !file.ends_with("exchange.yaml"));
    assert_eq!(files.len(), 8, "{files:?}");
    files
}

fn in_folder(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The three backends of the examples, on all addresses and on free ports. `None`: the backend is stopped.
struct Backends([(Option<Backend>, u16); 3]);

const NAMES: [&str; 3] = ["blue", "green", "red"];

impl Backends {
    fn start() -> Self {
        Self(NAMES.map(|name| {
            let port = free_address().port();
            (Some(Self::backend(name, port)), port)
        }))
    }

    fn backend(name: &str, port: u16) -> Backend {
        let listen = format!(":{port}");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Backend::start(program().args(["backend", "--listen", &listen, "--name", name]), address)
    }

    fn stop(&mut self, index: usize) {
        self.0[index].0 = None;
    }

    fn start_again(&mut self, index: usize) {
        self.0[index].0 = Some(Self::backend(NAMES[index], self.0[index].1));
    }

    /// An example with these backends instead of its own, and another listening port.
    fn instead(&self, text: &str, listen: (u16, u16)) -> String {
        let mut text = text.to_owned();
        for (own, (_, port)) in (5001..).zip(&self.0) {
            text = text.replace(&own.to_string(), &port.to_string());
        }
        text.replace(&listen.0.to_string(), &listen.1.to_string())
    }
}

#[test]
fn every_example_passes_the_check_as_it_is() {
    for file in manifests().into_iter().chain(in_front_of_others()) {
        let (code, verdict, error) = run(&["check", file.to_str().unwrap()]);
        let lines: Vec<_> = verdict.lines().collect();
        assert!(code == 0 && error.is_empty(), "{}: {verdict}{error}", file.display());
        assert!(lines.len() == 1 && lines[0].ends_with(": accepted"), "{}: {verdict}", file.display());
    }
}

#[test]
fn every_example_runs() {
    let backends = Backends::start();
    for file in manifests() {
        let (folder, address) = (Folder::new(), free_address());
        let text = backends.instead(&fs::read_to_string(&file).unwrap(), (4000, address.port()));
        let name = file.file_name().unwrap().to_str().unwrap();
        let file = folder.write(name, &text);
        let tcplb =
            Tcplb::standalone_with(&[&file], |command| command.env("NODE_NAME", "node-1").env("NODE_ZONE", "zone-a"))
                .ready();
        let answer = Client::connect(address).line();
        let served = matches!(&answer, Ok(line) if NAMES.iter().any(|name| *line == format!("hello from {name}")));
        assert!(served, "{name}: {answer:?}, {}", tcplb.snapshot());
        assert_eq!(tcplb.metric("tcplb_configuration_problems", &[]), 0.0, "{name}: {:?}", tcplb.seen);
    }
}

#[test]
fn the_failover_example_fails_over_and_back() {
    let (mut backends, folder, address) = (Backends::start(), Folder::new(), free_address());
    let text = fs::read_to_string(Path::new(FOLDER).join("failover.yaml")).unwrap();
    let text = backends.instead(&text, (4000, address.port()));
    // Longer than a busy machine takes to see that it waits.
    assert!(text.contains("after: 2s}"), "{text}");
    let text = text.replace("after: 2s}", "after: 10s}");
    let mut tcplb = Tcplb::standalone(&[&folder.write("failover.yaml", &text)]).ready();
    let in_service = |tcplb: &Tcplb, backend: &str| tcplb.metric("tcplb_endpoint_in_service", &[backend]);
    assert_eq!(who_answers(address), "blue");
    assert_eq!((in_service(&tcplb, "main"), in_service(&tcplb, "spare")), (1.0, 0.0));

    backends.stop(0);
    let over = tcplb.logged("failed over: new connections go to endpoints of another priority");
    assert!(over.contains("from=0") && over.contains("to=1"), "{over}");
    assert_eq!(who_answers(address), "green");
    assert_eq!((in_service(&tcplb, "main"), in_service(&tcplb, "spare")), (0.0, 1.0));

    backends.start_again(0);
    tcplb.logged("endpoint healthy");
    assert_eq!(who_answers(address), "green", "it is waited for the first one to stay well");
    tcplb.logged("failed back: new connections go to endpoints of another priority");
    assert_eq!(who_answers(address), "blue");
    assert_eq!(tcplb.metric("tcplb_upstream_priority_switches_total", &[]), 2.0);
}

#[test]
fn the_locality_example_prefers_its_zone() {
    let (mut backends, folder) = (Backends::start(), Folder::new());
    let text = fs::read_to_string(Path::new(FOLDER).join("locality.yaml")).unwrap();
    let start = |backends: &Backends, zone: &[&str]| {
        let address = free_address();
        let file = folder.write("locality.yaml", &backends.instead(&text, (4000, address.port())));
        (Tcplb::standalone(&[&[file.as_str()], zone].concat()).ready(), address)
    };
    let (tcplb, address) = start(&backends, &["--zone", "zone-b"]);
    (0..4).for_each(|_| assert_eq!(who_answers(address), "green"));
    let near = |name: usize| tcplb.metric("tcplb_endpoint_near", &[&backends.0[name].1.to_string()]);
    assert_eq!((near(0), near(1)), (0.0, 1.0));
    drop(tcplb);

    let (mut tcplb, address) = start(&backends, &[]);
    tcplb.logged("the zone of this process is unknown: start it with --zone");
    let answers: std::collections::BTreeSet<_> = (0..4).map(|_| who_answers(address)).collect();
    assert_eq!(answers, ["blue", "green"].map(String::from).into());
    drop(tcplb);

    let (mut tcplb, address) = start(&backends, &["--zone", "zone-a"]);
    assert_eq!(who_answers(address), "blue");
    backends.stop(0);
    tcplb.logged("endpoint unhealthy");
    assert_eq!(who_answers(address), "green");
}

#[test]
fn the_spare_site_example_does_not_fail_back() {
    let (mut backends, folder, address) = (Backends::start(), Folder::new(), free_address());
    let text = fs::read_to_string(Path::new(FOLDER).join("spare-site.yaml")).unwrap();
    let text = backends.instead(&text, (4000, address.port()));
    let mut tcplb = Tcplb::standalone(&[&folder.write("spare-site.yaml", &text)]).ready();
    assert!(["blue", "green"].contains(&&*who_answers(address)));

    backends.stop(0);
    tcplb.logged("failed over: new connections go to endpoints of another priority");
    assert_eq!(who_answers(address), "red", "one of two is less than is asked for");
    backends.start_again(0);
    tcplb.logged("endpoint healthy");
    assert_eq!(who_answers(address), "red");
    assert_eq!(tcplb.metric("tcplb_upstream_priority_switches_total", &[]), 1.0);
}

#[test]
fn the_examples_of_nodes_and_hints_prefer_what_is_near() {
    let (mut backends, folder) = (Backends::start(), Folder::new());
    let start = |backends: &Backends, name: &str, place: &[&str]| {
        let text = fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
        let address = free_address();
        let file = folder.write(name, &backends.instead(&text, (4000, address.port())));
        (Tcplb::standalone(&[&[file.as_str()], place].concat()).ready(), address)
    };
    let answers = |address| (0..4).map(|_| who_answers(address)).collect::<std::collections::BTreeSet<_>>();
    for (zone, expected) in [("zone-a", &["blue", "green"][..]), ("zone-c", &["red"])] {
        let (_tcplb, address) = start(&backends, "hints.yaml", &["--zone", zone]);
        assert_eq!(answers(address), expected.iter().map(ToString::to_string).collect());
    }

    let (mut tcplb, address) = start(&backends, "same-node.yaml", &["--node", "node-1", "--zone", "zone-a"]);
    assert_eq!(answers(address), ["blue".into()].into());
    backends.stop(0);
    tcplb.logged("endpoint unhealthy");
    assert_eq!(answers(address), ["green".into()].into(), "the same zone");
}

#[test]
fn the_tls_example_runs_with_the_certificates_its_manual_makes() {
    let (backends, copy, address) = (Backends::start(), Folder::new(), free_address());
    let source = Path::new(FOLDER).join("tls");
    let manual = fs::read_to_string(source.join("README.md")).unwrap();
    let text = fs::read_to_string(source.join("tls.yaml")).unwrap();
    copy.write("tls.yaml", &backends.instead(&text, (4433, address.port())));
    make_certificates(&manual, &copy);
    for file in in_folder(source.to_str().unwrap()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let copied = copy.join(name);
        if !copied.exists() {
            fs::copy(&file, &copied).unwrap();
        }
        assert!(manual.contains(&format!("`{name}`")), "{name}");
    }
    let (code, verdict, _) = run(&["check", copy.path()]);
    assert_eq!(code, 0, "{verdict}");
    let remarks: Vec<_> = verdict.lines().filter(|line| !line.ends_with(": accepted")).collect();
    let expected = ["web.yaml): accepted, with warnings", "insecureSkipVerify: any certificate is accepted"];
    assert!(remarks.iter().zip(expected).all(|(said, part)| said.contains(part)) && remarks.len() == 2, "{verdict}");

    let tcplb = Tcplb::standalone(&[copy.join("tls.yaml").to_str().unwrap()]).ready();
    let certificate = |name: &str| copy.join(name).to_str().unwrap().to_owned();
    let names = [("localhost", "localhost.crt", "blue"), ("eu.example.test", "_.example.test.crt", "green")];
    for (name, file, _) in names {
        let mut client = tls_client::connect(address, name, &[&certificate(file)]).unwrap();
        assert!(client.line().unwrap().starts_with("hello from "), "{name}");
    }
    drop(tcplb);

    // The same certificates, and routes.
    let text = fs::read_to_string(source.join("routes.yaml")).unwrap();
    let routes = copy.write("routes.yaml", &backends.instead(&text, (4434, address.port())));
    let tcplb = Tcplb::standalone(&[&routes]).ready();
    for (name, file, backend) in names {
        let mut client = tls_client::connect(address, name, &[&certificate(file)]).unwrap();
        assert!(client.line().unwrap().starts_with(&format!("hello from {backend}")), "{name}");
    }
    drop(tcplb);

    let text = fs::read_to_string(source.join("mutual.yaml")).unwrap();
    let far = free_address();
    let text = backends.instead(&text, (4435, address.port())).replace("4436", &far.port().to_string());
    let tcplb = Tcplb::standalone(&[&copy.write("mutual.yaml", &text)]).ready();
    assert_eq!(who_answers(address), "blue");
    tcplb.printed("tls_client=\"CN=client.example.test\"");
    tls_client::connect(far, "localhost", &[&certificate("localhost.crt")])
        .map_or(Ok(()), |mut client| client.line().map(|line| panic!("served without a certificate: {line}")))
        .unwrap_err();
    drop(tcplb);

    let text = fs::read_to_string(source.join("clients.yaml")).unwrap();
    let text = backends.instead(&text, (4437, address.port()));
    let _tcplb = Tcplb::standalone(&[&copy.write("clients.yaml", &text)]).ready();
    let mut client = tls_client::connect(address, "localhost", &[&certificate("localhost.crt")]).unwrap();
    assert!(client.line().unwrap().starts_with("hello from blue"), "nobody has to show a certificate");
}

/// Runs the commands of the manual.
fn make_certificates(manual: &str, folder: &Folder) {
    let commands: Vec<_> = manual.lines().filter_map(|line| line.strip_prefix("tcplb cert --out ")).collect();
    assert_eq!(commands.len(), 3, "{manual}");
    for command in commands {
        let mut arguments = vec!["cert", "--out", folder.path()];
        arguments.extend(command.split(' ').skip(1).map(|name| name.trim_matches('\'')));
        assert_eq!(run(&arguments).0, 0, "{command}");
    }
}

#[test]
fn the_golb_example_is_converted_and_runs() {
    let (backends, folder, address) = (Backends::start(), Folder::new(), free_address());
    let config = fs::read_to_string(Path::new(FOLDER).join("golb.json")).unwrap();
    let config = folder.write("golb.json.example", &backends.instead(&config, (4000, address.port())));
    let (code, manifest, warnings) = run(&["convert", "golb", &config]);
    assert_eq!((code, warnings.as_str()), (0, ""));
    let _tcplb = Tcplb::standalone(&[&folder.write("golb.yaml", &manifest)]).ready();
    let answers: std::collections::BTreeSet<_> = (0..3).map(|_| who_answers(address)).collect();
    assert_eq!(answers, ["blue", "green", "red"].map(String::from).into());
    Client::connect(SocketAddr::from(([127, 0, 0, 1], address.port()))).echo("there").unwrap_err();
}

#[test]
fn every_example_is_in_the_list_of_examples() {
    let list = fs::read_to_string(Path::new(FOLDER).join("README.md")).unwrap();
    for file in manifests().into_iter().chain(in_front_of_others()) {
        let name = file.strip_prefix(FOLDER).unwrap().to_str().unwrap();
        assert!(list.contains(&format!("`{name}`")), "{name}");
    }
}
