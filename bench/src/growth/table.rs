//! The table of results.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{meter::Quantity, operation::Operation};

/// A measured cost.
#[derive(Clone, Copy, Debug)]
pub struct OperationCost {
    pub cost: f64,
    /// The smallest and the largest cost of all changes.
    pub range: [f64; 2],
    /// The time until the change took effect.
    pub effect: Duration,
}

/// The costs of operations by size.
pub struct CostTable {
    quantity: Quantity,
    rows: Vec<OperationRow>,
}

struct OperationRow {
    operation: Operation,
    /// `None`: it could not be measured.
    costs: BTreeMap<usize, Option<OperationCost>>,
}

impl CostTable {
    pub fn new(quantity: Quantity) -> Self {
        Self { quantity, rows: Vec::new() }
    }

    pub fn add(&mut self, operation: &Operation, size: usize, cost: Option<OperationCost>) {
        match self.rows.iter_mut().find(|row| row.operation.name == operation.name) {
            Some(row) => drop(row.costs.insert(size, cost)),
            None => self.rows.push(OperationRow { operation: *operation, costs: [(size, cost)].into() }),
        }
    }

    /// The operations that exceed their limits or could not be measured.
    pub fn exceeded(&self) -> Vec<&'static str> {
        self.rows.iter().filter(|row| !row.is_within_limit()).map(|row| row.operation.name).collect()
    }
}

/// The variation of other work of the process, in instructions or nanoseconds.
const NOISE: f64 = 300_000.0;

impl OperationRow {
    /// The cost with the most objects, relative to the cost with the fewest.
    fn ratio(&self) -> Option<f64> {
        let (first, last) = ((*self.costs.values().next()?)?, (*self.costs.values().next_back()?)?);
        Some(last.cost / first.cost.max(1.0))
    }

    fn is_within_limit(&self) -> bool {
        let (Some((_, Some(first))), Some((size, Some(last)))) =
            (self.costs.first_key_value(), self.costs.last_key_value())
        else {
            return false;
        };
        let noise = NOISE / self.operation.divisor(*size);
        self.costs.values().all(Option::is_some) && last.cost <= first.cost * self.operation.limit + noise
    }
}

impl fmt::Display for CostTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:18} {:42} costs in {}", "operation", "", self.quantity.unit())?;
        for row in &self.rows {
            write!(f, "{:18} {:42}", row.operation.name, row.operation.what())?;
            for (size, cost) in &row.costs {
                let cost = cost.map_or_else(|| "-".to_owned(), |cost| count(cost.cost));
                write!(f, " {size:>5}: {cost:>13}")?;
            }
            let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let verdict = if row.is_within_limit() { "ok" } else { "TOO HIGH" };
            writeln!(f, "  ratio {ratio:>6}, limit {:.1}: {verdict}", row.operation.limit)?;
        }
        Ok(())
    }
}

/// A whole number with separators.
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::operation::OPERATIONS, *};

    fn table(costs: [Option<f64>; 2]) -> CostTable {
        let mut table = CostTable::new(Quantity::Instructions);
        for (size, cost) in [200, 2000].into_iter().zip(costs) {
            table.add(
                &OPERATIONS[0],
                size,
                cost.map(|cost| OperationCost { cost, range: [cost; 2], effect: Duration::ZERO }),
            );
        }
        table
    }

    #[test]
    fn costs_that_grow_and_missing_ones_exceed_the_limit() {
        assert!(table([Some(1e7), Some(1.5e7)]).exceeded().is_empty());
        assert_eq!(table([Some(1e7), Some(1.6e7)]).exceeded(), ["file"]);
        assert!(table([Some(1e4), Some(3e5)]).exceeded().is_empty(), "noise");
        assert_eq!(table([Some(1e4), Some(4e5)]).exceeded(), ["file"]);
        assert_eq!(table([Some(1000.0), None]).exceeded(), ["file"]);
        assert_eq!(table([None, Some(1000.0)]).exceeded(), ["file"]);
    }

    #[test]
    fn numbers_have_separators() {
        assert_eq!([7.0, 1234.0, 123_456.4, 12_345_678.0].map(count), ["7", "1,234", "123,456", "12,345,678"]);
    }
}
