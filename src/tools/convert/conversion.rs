/// A manifest made of another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// YAML. Its first comment has the warnings too.
    pub manifest: String,
    /// What did not come over as it was, each a sentence that names the field.
    pub warnings: Vec<String>,
}

/// Why a configuration cannot be turned into a manifest: sentences that name the field and say what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConvertError(pub Vec<String>);
