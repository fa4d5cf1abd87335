//! The same load balancers for each program, and its way of reloading a change.

use std::{
    fmt::Write,
    fs,
    io::{Read, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::many::{BACKEND_PORT, FIRST_PORT, Many};
use crate::contender::{Contender, Program, Running};

/// The written configuration, and the way to change it.
pub struct Change {
    program: Program,
    many: Many,
    folder: PathBuf,
    /// The configuration with which the program starts.
    configuration: PathBuf,
    /// The part of it that changes.
    file: PathBuf,
}

/// The endpoints of the changing load balancer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    After,
}

impl Change {
    pub fn prepare(contender: &Contender, many: Many, folder: &Path) -> Result<Self> {
        let program = contender.program;
        let folder = folder.join("many");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(folder.join("parts"))?;
        let part = |load_balancer: u16| folder.join("parts").join(format!("lb-{load_balancer}.yaml"));
        let (configuration, file) = match program {
            Program::Tcplb => (folder.join("parts"), part(many.changing())),
            Program::Haproxy => (folder.join("haproxy.cfg"), folder.join("haproxy.cfg")),
            Program::Nginx => (folder.join("nginx.conf"), folder.join("nginx.conf")),
            Program::Envoy => (folder.join("envoy.yaml"), part(many.changing())),
        };
        let change = Self { program, many, folder: folder.clone(), configuration, file };
        match program {
            Program::Tcplb => {
                for load_balancer in 0..many.load_balancers {
                    fs::write(part(load_balancer), manifest(many, load_balancer, State::Before))?;
                }
            }
            Program::Envoy => {
                fs::write(&change.configuration, envoy(many))?;
                fs::write(&change.file, change.text(State::Before))?;
            }
            Program::Haproxy | Program::Nginx => fs::write(&change.configuration, change.text(State::Before))?,
        }
        Ok(change)
    }

    pub fn start(&self, contender: &Contender) -> Result<Running> {
        contender.start_with(&self.configuration, &self.folder)
    }

    /// Replaces the last endpoint by the changed one.
    pub fn apply(&self, running: &Running) -> Result<()> {
        self.make(State::After, running)
    }

    pub fn undo(&self, running: &Running) -> Result<()> {
        self.make(State::Before, running)
    }

    /// Files are replaced by a rename, as with ConfigMaps. nginx needs a signal to reload. HAProxy has a command that
    /// is faster than a reload.
    fn make(&self, state: State, running: &Running) -> Result<()> {
        if self.program == Program::Haproxy {
            return self.command(state);
        }
        let written = self.folder.join("written");
        fs::write(&written, self.text(state))?;
        fs::rename(&written, &self.file)?;
        match self.program {
            Program::Nginx => running.signal(Signal::HUP),
            _ => Ok(()),
        }
    }

    fn command(&self, state: State) -> Result<()> {
        let (name, [a, b, c, d]) =
            (self.many.endpoints, *endpoints(self.many, self.many.changing(), state).last().unwrap());
        let mut socket = UnixStream::connect(self.folder.join("api.sock"))?;
        writeln!(socket, "set server lb-{}/s{name} addr {a}.{b}.{c}.{d} port {BACKEND_PORT}", self.many.changing())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.contains("changed"), "HAProxy says: {answer}");
        Ok(())
    }

    /// The content of the changing file.
    fn text(&self, state: State) -> String {
        match self.program {
            Program::Tcplb => manifest(self.many, self.many.changing(), state),
            Program::Envoy => envoy_endpoints(self.many, self.many.changing(), state),
            Program::Haproxy => haproxy(self.many, state),
            Program::Nginx => nginx(self.many, state),
        }
    }
}

fn endpoints(many: Many, load_balancer: u16, state: State) -> Vec<[u8; 4]> {
    let changed = load_balancer == many.changing() && state == State::After;
    let last = if changed { many.endpoints + 1 } else { many.endpoints };
    (1..many.endpoints).chain([last]).map(Many::host).collect()
}

/// The text for each endpoint, numbered from 1.
fn each(many: Many, load_balancer: u16, state: State, text: impl Fn(usize, String) -> String) -> String {
    let hosts = endpoints(many, load_balancer, state);
    hosts.iter().enumerate().map(|(index, [a, b, c, d])| text(index + 1, format!("{a}.{b}.{c}.{d}"))).collect()
}

fn manifest(many: Many, load_balancer: u16, state: State) -> String {
    let addresses = each(many, load_balancer, state, |_, host| format!("    - {host}:{BACKEND_PORT}\n"));
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata:\n  name: lb-{load_balancer}\nspec:\n  \
         listeners:\n  - port: {}\n    address: 127.0.0.1\n  backends:\n  - addresses:\n{addresses}  healthCheck:\n    \
         active:\n      type: None\n",
        FIRST_PORT + load_balancer
    )
}

fn haproxy(many: Many, state: State) -> String {
    let mut text = String::from(
        "global\n  nbthread 1\n  maxconn 5000\n  stats socket unix@api.sock mode 600 level admin\ndefaults\n  mode tcp\n  \
         balance roundrobin\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n",
    );
    for load_balancer in 0..many.load_balancers {
        let servers =
            each(many, load_balancer, state, |number, host| format!("  server s{number} {host}:{BACKEND_PORT}\n"));
        let port = FIRST_PORT + load_balancer;
        write!(text, "listen lb-{load_balancer}\n  bind 127.0.0.1:{port}\n{servers}").expect("strings take all");
    }
    text
}

fn nginx(many: Many, state: State) -> String {
    let mut text = String::from(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes 1;\ndaemon off;\npid nginx.pid;\n\
         error_log nginx.err;\nevents { worker_connections 10000; }\nstream {\n",
    );
    for load_balancer in 0..many.load_balancers {
        let servers = each(many, load_balancer, state, |_, host| format!("server {host}:{BACKEND_PORT}; "));
        let port = FIRST_PORT + load_balancer;
        writeln!(
            text,
            "upstream lb-{load_balancer} {{ {servers}}}\nserver {{ listen 127.0.0.1:{port}; proxy_pass lb-{load_balancer}; }}"
        )
        .expect("strings take all");
    }
    text + "}\n"
}

/// The changing endpoints are in a watched file of their own. Envoy could not watch 500 files: each needs one of the
/// few inotify instances of a user.
fn envoy(many: Many) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for load_balancer in 0..many.load_balancers {
        let (name, port) = (format!("lb-{load_balancer}"), FIRST_PORT + load_balancer);
        write!(
            listeners,
            "  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: lb
          cluster: {name}\n"
        )
        .expect("strings take all");
        if load_balancer == many.changing() {
            write!(
                clusters,
                "  - name: {name}
    type: EDS
    eds_cluster_config: {{eds_config: {{path_config_source: {{path: parts/{name}.yaml}}}}}}\n"
            )
            .expect("strings take all");
        } else {
            let endpoints = envoy_list(many, load_balancer, State::Before);
            write!(
                clusters,
                "  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints: [{endpoints}]\n"
            )
            .expect("strings take all");
        }
    }
    format!("node: {{id: bench, cluster: bench}}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

fn envoy_endpoints(many: Many, load_balancer: u16, state: State) -> String {
    let endpoints = envoy_list(many, load_balancer, state);
    format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: \
         lb-{load_balancer}\n  endpoints:\n  - lb_endpoints: [{endpoints}]\n"
    )
}

fn envoy_list(many: Many, load_balancer: u16, state: State) -> String {
    each(many, load_balancer, state, |_, host| {
        format!("{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {BACKEND_PORT}}}}}}}}}, ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_of_one_load_balancer_changes() {
        let many = Many { load_balancers: 4, endpoints: 3 };
        let hosts = |load_balancer, state| endpoints(many, load_balancer, state);
        assert_eq!(hosts(1, State::After), hosts(1, State::Before));
        assert_eq!(hosts(2, State::Before), [[127, 10, 0, 1], [127, 10, 0, 2], [127, 10, 0, 3]]);
        assert_eq!(hosts(2, State::After), [[127, 10, 0, 1], [127, 10, 0, 2], [127, 10, 0, 4]]);
    }
}
