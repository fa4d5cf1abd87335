/// The order of rows. Numbers are sorted from the highest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopOrder {
    Name,
    /// The number of endpoints that are not usable.
    Endpoints,
    Open,
    #[default]
    Connections,
    Bytes,
    Failures,
}

impl TopOrder {
    pub const ALL: [Self; 6] =
        [Self::Name, Self::Endpoints, Self::Open, Self::Connections, Self::Bytes, Self::Failures];

    /// The heading of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Endpoints => "USABLE",
            Self::Open => "OPEN",
            Self::Connections => "NEW/S",
            Self::Bytes => "BYTES/S",
            Self::Failures => "FAILED/S",
        }
    }

    /// The order by the next column.
    pub fn next(self) -> Self {
        let index = Self::ALL.iter().position(|order| *order == self).unwrap_or_default();
        Self::ALL[(index + 1) % Self::ALL.len()]
    }
}
