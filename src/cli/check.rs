//! The arguments of `tcplb check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::api::Name;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files, or folders of .yaml, .yml and .json files; `-`: standard input.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// The mode in which the load balancers will be served.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = CheckMode::Auto)]
    pub mode: CheckMode,
    /// Read referenced objects that the files do not contain from the cluster of KUBECONFIG. Implies --mode cluster.
    #[arg(long)]
    pub cluster: bool,
    /// The namespace of manifests without one. Default: with --cluster, the namespace of the context, otherwise
    /// `default`.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<Name>,
    /// A values file of the Helm chart, whose limits in `tenancy` and `host` are applied. Implies --mode cluster. May
    /// be repeated: later files override earlier ones.
    #[arg(long, value_name = "VALUES")]
    pub tenancy: Vec<PathBuf>,
    /// Exit with code 1 also for warnings and unknown references.
    #[arg(long)]
    pub strict: bool,
    /// The output format.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = CheckOutput::Text)]
    pub output: CheckOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckMode {
    /// For each load balancer: standalone if it has a field for standalone mode only; cluster if it has a field for
    /// clusters only, or refers to an object that the files do not contain; otherwise standalone.
    Auto,
    /// Served by `tcplb standalone` with these files.
    Standalone,
    /// Served in a cluster.
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// A line for each load balancer and each problem.
    Text,
    /// One JSON object.
    Json,
    /// Annotations for GitHub Actions.
    Github,
}
