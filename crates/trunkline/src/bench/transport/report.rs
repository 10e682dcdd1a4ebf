//! What a comparison found, for a person and as JSON: each turn of each stack, and ours against the others.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::load::Told;
use super::stack::{Stack, word};
use crate::bench::usage::Used;

/// All turns.
#[derive(Debug, Serialize)]
pub(crate) struct TransportReport {
    bench: &'static str,
    /// Figures of a debug build say nothing.
    debug_build: bool,
    asked: Map<String, Value>,
    stacks: BTreeMap<Stack, Vec<Turn>>,
    /// Who was the limit of ours' last turn.
    #[serde(flatten)]
    used: Option<Used>,
}

/// One turn of one stack.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Turn {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
    /// Processor time of each side for one request or message, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_us: Option<f64>,
    /// The server's resident memory and tasks for each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_connection: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks_per_connection: Option<f64>,
    #[serde(flatten)]
    used: Option<Used>,
}

impl Turn {
    pub(super) fn of(told: &Told, wall: Duration, used: Used) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 messages")]
        let count = told.count as f64;
        let each = |cores: f64| cores * wall.as_secs_f64() * 1e6 / count;
        Turn {
            count: told.count,
            per_second: Some(count / told.seconds.max(1e-6)),
            server_us: used.server_cores().map(each),
            client_us: Some(each(used.generator_cores())),
            used: Some(used),
            ..Turn::default()
        }
    }

    pub(super) fn idle(bytes: f64, tasks: f64) -> Self {
        Turn { bytes_per_connection: Some(bytes), tasks_per_connection: Some(tasks), ..Turn::default() }
    }

    /// The same with its median and 99th percentile, where there are any.
    pub(super) fn timed(self, quantiles: Option<[f64; 2]>) -> Self {
        Turn { p50_us: quantiles.map(|[p50, _]| p50), p99_us: quantiles.map(|[_, p99]| p99), ..self }
    }
}

/// A figure of a turn, and its name with its unit.
type Shown = (&'static str, fn(&Turn) -> Option<f64>);

const SHOWN: [Shown; 7] = [
    ("a second", |turn| turn.per_second),
    ("p50 µs", |turn| turn.p50_us),
    ("p99 µs", |turn| turn.p99_us),
    ("server µs each", |turn| turn.server_us),
    ("client µs each", |turn| turn.client_us),
    ("bytes/connection", |turn| turn.bytes_per_connection),
    ("tasks/connection", |turn| turn.tasks_per_connection),
];

impl TransportReport {
    pub(super) fn new(asked: Map<String, Value>) -> Self {
        let debug_build = cfg!(debug_assertions);
        TransportReport { bench: "transport", debug_build, asked, stacks: BTreeMap::new(), used: None }
    }

    pub(super) fn add(&mut self, stack: Stack, turn: Turn) {
        if stack == Stack::Ours {
            self.used.clone_from(&turn.used);
        }
        self.stacks.entry(stack).or_default().push(turn);
    }

    /// The report as one JSON object.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

impl fmt::Display for TransportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked: Vec<String> = self.asked.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "transport: {}", asked.join(", "))?;
        let width = self.stacks.keys().map(|stack| word(*stack).len()).max().unwrap_or_default();
        for (what, of) in SHOWN {
            let ours: Vec<f64> = self.stacks.get(&Stack::Ours).into_iter().flatten().filter_map(of).collect();
            for (stack, turns) in &self.stacks {
                let values: Vec<f64> = turns.iter().filter_map(of).collect();
                let Some(told) = Spread::of(values.clone()) else { continue };
                write!(f, "  {what:17} {:width$} {told}", word(*stack))?;
                let ratios = ours.iter().zip(&values).map(|(ours, theirs)| ours / theirs);
                if let Some(ratio) = Spread::of(ratios.collect()).filter(|_| *stack != Stack::Ours) {
                    write!(f, "   ours × {ratio}")?;
                }
                writeln!(f)?;
            }
        }
        if self.debug_build {
            writeln!(f, "  note      this is a debug build: its figures say nothing about a release")?;
        }
        match &self.used {
            Some(used) => write!(f, "{used}"),
            None => write!(f, "  note      nothing was under load: the server's memory is what was read"),
        }
    }
}

/// The median of some readings, the least and the most.
struct Spread([f64; 3]);

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread([median, least, most]))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread([median, least, most]) = *self;
        let digits = if most >= 1_000.0 { 0 } else { 2 };
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_medians_and_ratios_within_each_round() {
        let mut report = TransportReport::new(Map::new());
        for (ours, bare) in [(90.0, 100.0), (300.0, 200.0), (50.0, 100.0)] {
            for (stack, per_second) in [(Stack::Ours, ours), (Stack::Bare, bare)] {
                report.add(stack, Turn { per_second: Some(per_second), ..Turn::default() });
            }
        }
        let said = report.to_string();
        assert!(said.contains("ours 90.00 (50.00 to 300.00)\n"), "{said}");
        assert!(said.contains("bare 100.00 (100.00 to 200.00)   ours × 0.90 (0.50 to 1.50)\n"), "{said}");
        assert!(!said.contains("p50"), "{said}");
    }
}
