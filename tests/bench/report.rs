//! One case's figures, as an aligned table or as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::machine::Machine;

/// The part of a machine that other work may take before the figures are called noisy.
const NOISE_PART_MAX: f64 = 0.1;

/// A column of figures. `key` names it in JSON, unit included.
pub(crate) struct Column {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
}

/// The figures of a case.
pub(crate) struct Report {
    case: &'static str,
    what: String,
    columns: &'static [Column],
    rows: Vec<(String, Vec<Option<f64>>)>,
    target: Option<Target>,
    cores: usize,
    busy_cores: f64,
}

struct Target {
    what: &'static str,
    unit: &'static str,
    value: f64,
    max: f64,
}

impl Report {
    /// A report without rows; `what` says in a line what was measured.
    pub(crate) fn new(case: &'static str, what: String, columns: &'static [Column]) -> Self {
        Self { case, what, columns, rows: Vec::new(), target: None, cores: 0, busy_cores: 0.0 }
    }

    /// Adds a row with a value for each column.
    pub(crate) fn row(&mut self, label: String, values: Vec<Option<f64>>) {
        debug_assert_eq!(values.len(), self.columns.len(), "a value for each column");
        self.rows.push((label, values));
    }

    /// States the figure that counts, and the most that it should be.
    pub(crate) fn target(&mut self, what: &'static str, unit: &'static str, value: f64, max: f64) {
        self.target = Some(Target { what, unit, value, max });
    }

    /// States where it was measured, and how many cores were busy with other work before it.
    pub(crate) fn on(self, machine: &Machine, busy_cores: f64) -> Self {
        Self { cores: machine.cores, busy_cores, ..self }
    }

    fn noisy(&self) -> bool {
        self.busy_cores > self.cores as f64 * NOISE_PART_MAX
    }

    /// The table's cells: two rows of headings, then the figures.
    fn cells(&self) -> Vec<Vec<String>> {
        let heading = |text: fn(&Column) -> &str| {
            std::iter::once("").chain(self.columns.iter().map(text)).map(str::to_owned).collect()
        };
        let figures = self.rows.iter().map(|(label, values)| {
            let shown = values.iter().zip(self.columns).map(|(value, column)| match value {
                Some(value) => format!("{value:.*}", column.decimals),
                None => "-".to_owned(),
            });
            std::iter::once(label.clone()).chain(shown).collect()
        });
        [heading(|column| column.name), heading(|column| column.unit)].into_iter().chain(figures).collect()
    }

    fn json(&self) -> Value {
        let row = |(label, values): &(String, Vec<Option<f64>>)| {
            let mut row = Map::from_iter([("run".to_owned(), json!(label))]);
            row.extend(self.columns.iter().zip(values).map(|(column, value)| (column.key.to_owned(), json!(value))));
            Value::Object(row)
        };
        let target = self.target.as_ref().map(|Target { what, unit, value, max }| {
            json!({ "what": what, "unit": unit, "value": value, "max": max, "met": value <= max })
        });
        json!({
            "case": self.case, "what": self.what, "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "target": target, "busy_cores_before": self.busy_cores, "noisy": self.noisy(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.case, self.what)?;
        let cells = self.cells();
        let width = |at: usize| cells.iter().map(|row| row[at].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        for row in &cells {
            write!(f, "  {:<1$}", row[0], widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        if let Some(Target { what, unit, value, max }) = &self.target {
            let verdict = if value <= max { "met" } else { "missed" };
            writeln!(f, "  {what}: {value:.2} {unit}, target at most {max} {unit}: {verdict}")?;
        }
        if self.noisy() {
            let (busy, cores) = (self.busy_cores, self.cores);
            writeln!(f, "  noisy: other work kept {busy:.1} of {cores} cores busy before this case")?;
        }
        Ok(())
    }
}

/// All figures of a run as one object.
pub(crate) fn json(machine: &Machine, reports: &[Report]) -> Value {
    json!({ "machine": machine.json(), "cases": reports.iter().map(Report::json).collect::<Vec<_>>() })
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
