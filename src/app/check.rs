//! `tcplb check`: compiles manifests for their mode and reports the problems.

mod github;
mod lookup;
mod mode;
mod node_ports;
mod related;
mod report;
mod templates;
mod tenancy;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Error, bail};
use imbl::OrdMap;
use jiff::Timestamp;
use tokio::time::timeout;

use self::{
    mode::{Absent, CompilationUnit, Mode, TargetCluster},
    report::{CheckReport, CheckedLoadBalancer},
};
use super::{cluster, commands::print, runtime::on_control_runtime};
use crate::{
    api::Name,
    cli::{CheckArgs, CheckMode, CheckOutput},
    model::{ObjectKey, Snapshot},
    source::{Files, Names, resolve},
    translate::{Reason, Verdicts, translate},
    world::World,
};

/// The maximum wait for DNS.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit of all lookups in a cluster together.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);
/// The exit code if the check could not run.
const NOT_CHECKED: u8 = 2;

/// Runs the command. Errors are printed to standard error.
pub fn run(arguments: CheckArgs) -> ExitCode {
    let (output, strict) = (arguments.output, arguments.strict);
    let checked = check(arguments).and_then(|report| {
        print(&report.written(output, strict))?;
        Ok(report.fails(strict))
    });
    match checked {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            let sentence = format!("tcplb: {error:#}\n");
            let sentence = if output == CheckOutput::Github { github::plain(&sentence) } else { sentence };
            // Standard error may be closed.
            let _ = io::stderr().write_all(sentence.as_bytes());
            NOT_CHECKED.into()
        }
    }
}

fn check(arguments: CheckArgs) -> anyhow::Result<CheckReport> {
    let CheckArgs { paths, mode, cluster, tenancy, namespace, .. } = arguments;
    let for_a_cluster = cluster || !tenancy.is_empty();
    let mode = match mode {
        CheckMode::Auto if for_a_cluster => CheckMode::Cluster,
        CheckMode::Standalone if for_a_cluster => {
            bail!("--cluster and --tenancy require --mode cluster: remove them, or remove --mode standalone")
        }
        mode @ (CheckMode::Auto | CheckMode::Standalone | CheckMode::Cluster) => mode,
    };
    let tenancy = if tenancy.is_empty() { tenancy::everything() } else { tenancy::of_values(&tenancy)? };
    let (inputs, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path == Path::new("-"));
    let namespace = match namespace {
        None if cluster => Some(on_control_runtime(namespace_of_context())?),
        namespace => namespace.map(|Name(namespace)| namespace),
    };
    let mut files = Files::new(paths).in_namespace(namespace);
    if !inputs.is_empty() {
        files = files.with_input(io::stdin().lock()).map_err(Error::msg)?;
    }
    let mut world = files.read();
    let templates = files.templates();
    let problems = related::related(files.problems(), &world, &templates);
    templates::take_out(&templates, &mut world);
    let awaiting_pods = mode::awaiting_pods(&world);
    if cluster {
        on_control_runtime(look_up(&mut world, &awaiting_pods))?;
    }
    templates::note_unknown(templates, &mut world);
    let mut report = CheckReport { problems, passed_over: files.passed_over(), ..CheckReport::default() };
    let places = files.places();
    let absent = if cluster { Absent::Missing } else { Absent::Unknown };
    let mut parts = mode::parts(&world, mode, &TargetCluster { absent, awaiting_pods, tenancy: tenancy.into() });
    look_up_names(&mut parts)?;
    for part in parts {
        report.entries.extend(compiled(&part).into_iter().map(|(object, verdict)| {
            let (file, line) = places.get(&object).cloned().unwrap_or_default();
            CheckedLoadBalancer { file, line: Some(line).filter(|line| *line > 0), mode: part.mode, verdict, object }
        }));
    }
    report.entries.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(report)
}

/// The namespace that kubectl uses for manifests without one.
async fn namespace_of_context() -> anyhow::Result<String> {
    Ok(cluster::client().await?.default_namespace().to_owned())
}

async fn look_up(world: &mut World, awaiting_pods: &BTreeSet<ObjectKey>) -> anyhow::Result<()> {
    let client = cluster::client().await?;
    let looking = lookup::complete(world, awaiting_pods, &client);
    timeout(CLUSTER_TIMEOUT, looking).await.with_context(|| {
        format!("no answer from the cluster within {} s: check KUBECONFIG", CLUSTER_TIMEOUT.as_secs())
    })?
}

/// Looks up the DNS names of the load balancers for standalone mode.
fn look_up_names(parts: &mut [CompilationUnit]) -> anyhow::Result<()> {
    let here = || parts.iter().filter(|part| part.mode == Mode::Standalone);
    let wanted: BTreeMap<_, _> = here().flat_map(|part| part.world.names_wanted()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let answers = on_control_runtime(async {
        let mut names = Names::start(resolve, std::sync::Arc::default());
        names.want(wanted);
        names.first_answers(DNS_TIMEOUT).await;
        Ok(names.known())
    })?;
    let answers = OrdMap::from(answers);
    for part in parts {
        part.world.names.clone_from(&answers);
    }
    Ok(())
}

fn compiled(part: &CompilationUnit) -> Verdicts {
    let (_, mut verdicts) = translate(&part.world, &Snapshot::default(), Timestamp::now());
    if part.mode == Mode::Cluster {
        node_ports::refuse_taken(&part.world, &mut verdicts);
        // Ports, zones and DNS names depend on the cluster.
        let elsewhere = [Reason::Pending, Reason::UnknownPlace, Reason::NameNotResolved];
        for object in part.world.load_balancers.keys() {
            let Some(verdict) = verdicts.get_mut(object) else { continue };
            verdict
                .problems
                .retain(|problem| !elsewhere.contains(&problem.reason) && !part.is_awaited(object, problem));
        }
    }
    verdicts
}
