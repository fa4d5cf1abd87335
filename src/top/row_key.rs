/// The place of a row: a load balancer, one of its endpoints, or either of them in one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    pub load_balancer: String,
    pub endpoint: Option<String>,
    pub replica: Option<String>,
}

impl RowKey {
    pub fn of_all_replicas(&self) -> Self {
        Self { replica: None, ..self.clone() }
    }

    /// The text of its first column.
    pub fn name(&self) -> &str {
        self.replica.as_deref().or(self.endpoint.as_deref()).unwrap_or(&self.load_balancer)
    }

    /// 0 for load balancers, 1 for endpoints, 2 for replicas.
    pub fn depth(&self) -> usize {
        usize::from(self.endpoint.is_some()) + usize::from(self.replica.is_some())
    }
}
