//! One case's figures, as an aligned table or as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::machine::Machine;

/// The part of a machine that other work may take before the figures are called noisy.
const NOISE_PART_MAX: f64 = 0.1;

/// A column of figures. `key` names it in JSON, unit included.
#[derive(Clone, Copy)]
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
    targets: Vec<Target>,
    curves: Vec<Curve>,
    cores: usize,
    busy_cores: f64,
}

struct Target {
    what: &'static str,
    unit: &'static str,
    value: f64,
    bound: Bound,
}

/// The side of its target that a figure should be on.
#[derive(Clone, Copy)]
enum Bound {
    Most(f64),
    Least(f64),
}

/// A figure over a size, to be drawn. Both axes begin at nothing, but for a size that grows by factors.
pub(crate) struct Curve {
    /// The picture's file name, without its ending.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) size: &'static str,
    pub(crate) unit: &'static str,
    /// Each line: what it is of, and its points in the order of their size.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Report {
    /// A report without rows; `what` says in a line what was measured.
    pub(crate) fn new(case: &'static str, what: String, columns: &'static [Column]) -> Self {
        let (rows, targets, curves) = (Vec::new(), Vec::new(), Vec::new());
        Self { case, what, columns, rows, targets, curves, cores: 0, busy_cores: 0.0 }
    }

    /// The case's name.
    pub(crate) fn case(&self) -> &'static str {
        self.case
    }

    /// Adds a row with a value for each column.
    pub(crate) fn row(&mut self, label: String, values: Vec<Option<f64>>) {
        debug_assert_eq!(values.len(), self.columns.len(), "a value for each column");
        self.rows.push((label, values));
    }

    /// States a figure that counts, and the most that it should be.
    pub(crate) fn target(&mut self, what: &'static str, unit: &'static str, value: f64, max: f64) {
        self.targets.push(Target { what, unit, value, bound: Bound::Most(max) });
    }

    /// States a figure that counts, and the least that it should be.
    pub(crate) fn target_min(&mut self, what: &'static str, unit: &'static str, value: f64, min: f64) {
        self.targets.push(Target { what, unit, value, bound: Bound::Least(min) });
    }

    /// Adds a picture.
    pub(crate) fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
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

    /// Its object in the JSON of a run, and in the file that the page is made from.
    pub(crate) fn json(&self, machine: &Machine) -> Value {
        let row = |(label, values): &(String, Vec<Option<f64>>)| {
            let mut row = Map::from_iter([("run".to_owned(), json!(label))]);
            row.extend(self.columns.iter().zip(values).map(|(column, value)| (column.key.to_owned(), json!(value))));
            Value::Object(row)
        };
        let column = |Column { key, name, unit, decimals }: &Column| json!({ "key": key, "name": name, "unit": unit, "decimals": decimals });
        let columns: Vec<Value> = self.columns.iter().map(column).collect();
        json!({
            "case": self.case, "what": self.what, "columns": columns, "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(Target::json).collect::<Vec<_>>(),
            "curves": self.curves.iter().map(Curve::json).collect::<Vec<_>>(),
            "machine": machine.json(), "busy_cores_before": self.busy_cores, "noisy": self.noisy(),
        })
    }
}

impl Target {
    fn met(&self) -> bool {
        match self.bound {
            Bound::Most(max) => self.value <= max,
            Bound::Least(min) => self.value >= min,
        }
    }

    fn json(&self) -> Value {
        let Self { what, unit, value, bound } = self;
        let (key, limit) = match bound {
            Bound::Most(max) => ("max", max),
            Bound::Least(min) => ("min", min),
        };
        json!({ "what": what, "unit": unit, "value": value, key: limit, "met": self.met() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, value, bound } = self;
        let (side, limit) = match bound {
            Bound::Most(max) => ("most", max),
            Bound::Least(min) => ("least", min),
        };
        let verdict = if self.met() { "met" } else { "missed" };
        write!(f, "{what}: {value:.2} {unit}, target at {side} {limit} {unit}: {verdict}")
    }
}

impl Curve {
    fn json(&self) -> Value {
        let Self { name, title, size, unit, lines } = self;
        let line = |(of, points): &(String, Vec<(f64, f64)>)| json!({ "of": of, "points": points });
        let lines: Vec<Value> = lines.iter().map(line).collect();
        json!({ "name": name, "title": title, "size": size, "unit": unit, "lines": lines })
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
        for target in &self.targets {
            writeln!(f, "  {target}")?;
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
    let cases: Vec<Value> = reports.iter().map(|report| report.json(machine)).collect();
    json!({ "machine": machine.json(), "cases": cases })
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
