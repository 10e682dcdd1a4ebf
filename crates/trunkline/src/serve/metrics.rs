//! The metrics of a node: a catalogue of families, each with its name, type, unit, meaning and samples, made from the
//! node's figures at one moment, and its text for Prometheus.
//!
//! Every label has a value of a fixed list, and each value is there from the start, also at 0. No family is labelled by
//! session, user, channel or action: a metric's cost never depends on what clients do.

mod gatesvr;
mod gateway;
mod limits;
mod node;
mod upstreams;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use trunkline_gateway::{BOUNDS_SECONDS, Durations};

use super::status::Status;

/// What a family is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things: connections, calls, frames.
    Count,
    Bytes,
    Seconds,
    /// Things in each second.
    PerSecond,
    /// 1 for yes and 0 for no.
    Truth,
}

impl Unit {
    #[cfg(test)]
    const fn as_str(self) -> &'static str {
        match self {
            Unit::Count => "count",
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::PerSecond => "per second",
            Unit::Truth => "0 or 1",
        }
    }
}

/// A metric with all its samples.
#[derive(Debug, Clone)]
pub(super) struct Family {
    name: String,
    kind: Kind,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the documentation's table, which a test makes, has it")
    )]
    unit: Unit,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    /// The name of the family's one label, and this sample's value of it.
    label: Option<(&'static str, String)>,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Whole(u64),
    Real(f64),
    Durations(Durations),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Real(value)
    }
}

impl Family {
    fn new(kind: Kind, unit: Unit, name: impl Into<String>, help: impl Into<String>) -> Self {
        Family { name: name.into(), kind, unit, help: help.into(), samples: Vec::new() }
    }

    fn counter(unit: Unit, name: impl Into<String>, help: impl Into<String>) -> Self {
        Family::new(Kind::Counter, unit, name, help)
    }

    fn gauge(unit: Unit, name: impl Into<String>, help: impl Into<String>) -> Self {
        Family::new(Kind::Gauge, unit, name, help)
    }

    fn durations(name: impl Into<String>, help: impl Into<String>) -> Self {
        Family::new(Kind::Histogram, Unit::Seconds, name, help)
    }

    /// The one sample of a family without a label.
    fn is(mut self, value: impl Into<Value>) -> Self {
        self.samples.push(Sample { label: None, value: value.into() });
        self
    }

    /// As [`Family::is`], and without a sample where the system does not say.
    fn may_be(self, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.is(value),
            None => self,
        }
    }

    /// One sample for each value of a label.
    fn by<V: Into<Value>>(
        mut self,
        label: &'static str,
        values: impl IntoIterator<Item = (impl Into<String>, V)>,
    ) -> Self {
        for (of, value) in values {
            self.samples.push(Sample { label: Some((label, of.into())), value: value.into() });
        }
        self
    }

    fn write(&self, text: &mut String) {
        let Family { name, kind, help, samples, .. } = self;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        for Sample { label, value } in samples {
            let own = label.as_ref().map(|(label, of)| format!("{label}=\"{of}\""));
            let braced = own.as_ref().map_or_else(String::new, |own| format!("{{{own}}}"));
            let _ = match value {
                Value::Whole(value) => writeln!(text, "{name}{braced} {value}"),
                Value::Real(value) => writeln!(text, "{name}{braced} {value}"),
                Value::Durations(durations) => {
                    buckets(text, name, own.as_deref(), durations);
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "285 years in microseconds are below 2^53"
                    )]
                    let sum = durations.sum_us as f64 / 1e6;
                    writeln!(text, "{name}_sum{braced} {sum}\n{name}_count{braced} {}", durations.count())
                }
            };
        }
    }
}

/// A histogram's buckets as Prometheus has them: each with all that is below its bound.
fn buckets(text: &mut String, name: &str, label: Option<&str>, durations: &Durations) {
    let before = label.map_or_else(String::new, |label| format!("{label},"));
    let mut below = 0;
    let bounds = BOUNDS_SECONDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    // A histogram that has seen nothing may have no buckets yet.
    for (bound, count) in bounds.zip(durations.buckets.iter().copied().chain(std::iter::repeat(0))) {
        below += count;
        let _ = writeln!(text, "{name}_bucket{{{before}le=\"{bound}\"}} {below}");
    }
}

/// Every family, in the order of the documentation.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let mut all = node::families(status);
    all.extend(gateway::families(&status.gateway));
    all.extend(limits::families(&status.gateway));
    all.extend(upstreams::families(&status.upstreams));
    all.extend(gatesvr::families(status));
    all
}

/// The text of `/metrics`.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    for family in families(status) {
        family.write(&mut text);
    }
    text
}

/// Counts as label values; the keys are the fixed list.
fn counts<K: Clone + Into<String>>(of: &BTreeMap<K, u64>) -> impl Iterator<Item = (String, u64)> {
    of.iter().map(|(label, count)| (label.clone().into(), *count))
}

#[cfg(test)]
mod tests;
