/// The manifest for another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// YAML. Its first comment repeats the warnings.
    pub manifest: String,
    /// Settings that were not converted exactly, each a sentence that names the field.
    pub warnings: Vec<String>,
}

/// The reasons why a configuration cannot be converted: sentences that name the field and the correction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConvertError(pub Vec<String>);
