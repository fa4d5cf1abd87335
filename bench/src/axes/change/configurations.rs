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

use super::{
    endpoints::{State, each, endpoints},
    envoy,
    many::{BACKEND_PORT, FIRST_PORT, Many},
    traefik,
};
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
            Program::Haproxy(_) => (folder.join("haproxy.cfg"), folder.join("haproxy.cfg")),
            Program::Nginx(_) => (folder.join("nginx.conf"), folder.join("nginx.conf")),
            Program::Envoy => (folder.join("envoy.yaml"), part(many.changing())),
            Program::Traefik => (folder.join("traefik.yaml"), folder.join(traefik::WATCHED)),
        };
        let change = Self { program, many, folder: folder.clone(), configuration, file };
        match program {
            Program::Tcplb => {
                for load_balancer in 0..many.load_balancers {
                    fs::write(part(load_balancer), manifest(many, load_balancer, State::Before))?;
                }
            }
            Program::Envoy => {
                fs::write(&change.configuration, envoy::configuration(many))?;
                fs::write(&change.file, change.text(State::Before))?;
            }
            Program::Traefik => {
                fs::write(&change.configuration, traefik::configuration(many))?;
                fs::write(&change.file, change.text(State::Before))?;
            }
            Program::Haproxy(_) | Program::Nginx(_) => fs::write(&change.configuration, change.text(State::Before))?,
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
        if matches!(self.program, Program::Haproxy(_)) {
            return self.command(state);
        }
        let written = self.folder.join("written");
        fs::write(&written, self.text(state))?;
        fs::rename(&written, &self.file)?;
        match self.program {
            Program::Nginx(_) => running.signal(Signal::HUP),
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
            Program::Envoy => envoy::endpoints_file(self.many, self.many.changing(), state),
            Program::Haproxy(_) => haproxy(self.many, state),
            Program::Nginx(_) => nginx(self.many, state),
            Program::Traefik => traefik::watched(self.many, state),
        }
    }
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
        "worker_processes 1;\ndaemon off;\npid nginx.pid;\nerror_log nginx.err;\nevents { worker_connections 10000; }\nstream {\n",
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
