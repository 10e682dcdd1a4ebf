//! What a bench found, for a person and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use trunkline_proto::ErrorCode;

use super::figures::Counts;
use super::latency::Percentiles;
use super::usage::Used;

/// The result of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(super) bench: &'static str,
    pub(super) transport: String,
    /// A node of the bench's own, or one that was named.
    pub(super) own_node: bool,
    /// Figures of a debug build say nothing.
    debug_build: bool,
    /// What was asked for.
    pub(super) asked: Map<String, Value>,
    /// How long it took.
    pub(super) seconds: f64,
    /// What was counted, in the order to show it.
    pub(super) counts: Counts,
    /// What was done in a second, where that is the point.
    pub(super) per_second: Option<f64>,
    /// How many were done in each tenth of a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) per_tenth: Vec<u32>,
    /// In which of them the machine itself was slow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) slow_tenths: Vec<usize>,
    /// Figures of this bench alone.
    pub(super) measured: BTreeMap<&'static str, f64>,
    /// How often what failed, by its name.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) latency_us: Percentiles,
    /// The same without what the machine itself held up, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) steady_us: Option<Percentiles>,
    #[serde(flatten)]
    pub(super) used: Used,
    /// What to know when reading the figures.
    pub(super) note: Option<&'static str>,
    /// Why it is no success.
    pub(super) failure: Option<String>,
}

impl Report {
    pub(super) fn new(bench: &'static str, transport: String, used: Used) -> Self {
        Report {
            bench,
            transport,
            own_node: false,
            debug_build: cfg!(debug_assertions),
            asked: Map::new(),
            seconds: 0.0,
            counts: Counts::new(),
            per_second: None,
            per_tenth: Vec::new(),
            slow_tenths: Vec::new(),
            measured: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency_us: Percentiles::default(),
            steady_us: None,
            used,
            note: None,
            failure: None,
        }
    }

    /// Says who was the limit once everything is counted.
    pub(crate) fn settled(mut self) -> Self {
        let refused: u64 =
            self.errors.iter().filter(|(name, _)| is_refusal(name)).map(|(_, times)| times).sum();
        let all = self.counts.values().max().copied().unwrap_or_default();
        if refused * REFUSED_OF > all {
            self.used.was_refused();
        }
        self
    }

    /// What went wrong, where something did that makes the figures worthless.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The report as one JSON object.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// One refusal in so many is no accident any more.
const REFUSED_OF: u64 = 100;

/// Whether this error is what a node says at one of its limits.
fn is_refusal(name: &str) -> bool {
    [ErrorCode::Overloaded, ErrorCode::RateLimited].iter().any(|code| name.contains(code.name()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked: Vec<String> = self.asked.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "{} over {}: {}", self.bench, self.transport, asked.join(", "))?;
        let counts: Vec<String> = self.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "  counted   {} in {:.1} s", counts.join(", "), self.seconds)?;
        if let Some(rate) = self.per_second {
            writeln!(f, "  rate      {rate:.0} a second")?;
        }
        for (name, count) in &self.errors {
            writeln!(f, "  failed    {count} times: {name}")?;
        }
        for (name, value) in &self.measured {
            writeln!(
                f,
                "  measured  {} {value:.*}",
                name.replace('_', " "),
                if *value < 100.0 { 2 } else { 0 }
            )?;
        }
        if self.latency_us.count > 0 {
            writeln!(f, "  latency   {}", self.latency_us)?;
        }
        if let Some(steady) = self.steady_us.as_ref().filter(|steady| steady.count < self.latency_us.count) {
            writeln!(f, "  steady    {steady}, of the {} that a slow machine did not hold up", steady.count)?;
        }
        if let Some(note) = self.note {
            writeln!(f, "  note      {note}")?;
        }
        if self.debug_build {
            writeln!(f, "  note      this is a debug build: its figures say nothing about a release")?;
        }
        write!(f, "{}", self.used)
    }
}
