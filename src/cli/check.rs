//! The arguments of `tcplb check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::api::Name;

#[derive(Debug, Args)]
pub struct Check {
    /// Files, or folders of .yaml, .yml and .json files; `-`: standard input.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Where load balancers are to be served.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = CheckMode::Auto)]
    pub mode: CheckMode,
    /// Look in the cluster of KUBECONFIG for what the files refer to and do not contain. Implies --mode cluster.
    #[arg(long)]
    pub cluster: bool,
    /// The namespace of manifests that name none. Default: with --cluster, that of the context, otherwise `default`.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<Name>,
    /// A values file of the Helm chart: what its `tenancy` and `host` do not allow is refused. Implies --mode cluster. Repeat
    /// it where several files are given to Helm.
    #[arg(long, value_name = "VALUES")]
    pub tenancy: Vec<PathBuf>,
    /// Exit with code 1 also for warnings and unknown references.
    #[arg(long)]
    pub strict: bool,
    /// How the verdicts are written.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = CheckOutput::Text)]
    pub output: CheckOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckMode {
    /// In a cluster, if they have a field that only a cluster has or refer to objects that are not in the files; otherwise
    /// by `tcplb standalone`.
    Auto,
    /// By `tcplb standalone` with these files.
    Standalone,
    /// In a cluster.
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// A line for each load balancer and for each problem.
    Text,
    /// One JSON object.
    Json,
    /// Annotations for GitHub Actions.
    Github,
}
