//! `/debug/pprof/profile?seconds=N`: where the node spends processor time, in the format of pprof, so that
//! `go tool pprof` and what reads its format can show it.
//!
//! It samples the threads that run, some hundred times a second of processor time; one profile is taken at a time, for at
//! most a minute, and only on the metrics address. It says nothing about time spent waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pprof::{ProfilerGuardBuilder, Report};
use prost::Message;

use super::accepting::Patience;

/// As Go's.
const SECONDS: u64 = 30;

const MAX_SECONDS: u64 = 60;

/// Looking names up reads the binary's symbols: moments in a release, many seconds in a debug build on a busy machine.
const NAMES: Duration = Duration::from_secs(60);

/// Samples a second of processor time. Not 100: that would beat with timers.
const FREQUENCY: i32 = 99;

/// One at a time, over all connections: the system has one timer for it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Frees the place when it is dropped, however the profile ends.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        (!TAKEN.swap(true, SeqCst)).then_some(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.store(false, SeqCst);
    }
}

pub(super) async fn profile(Extension(patience): Extension<Patience>, RawQuery(query): RawQuery) -> Response {
    let Some(time) = seconds(&query.unwrap_or_default()) else {
        let wrong = format!("seconds: wanted a number from 1 to {MAX_SECONDS}\n");
        return (StatusCode::BAD_REQUEST, wrong).into_response();
    };
    let Some(place) = Place::take() else {
        let again = [(header::RETRY_AFTER, time.as_secs().to_string())];
        return (StatusCode::CONFLICT, again, "a profile is being taken: ask again when it is done\n")
            .into_response();
    };
    // What takes time here is the profile, not a client that does not read.
    patience.extend(time + NAMES);
    match take(time, place).await {
        Ok(profile) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb\""),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, profile).into_response()
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "no profile could be taken");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("no profile could be taken: {error:#}\n"))
                .into_response()
        }
    }
}

fn seconds(query: &str) -> Option<Duration> {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let seconds = asked.map_or(Some(SECONDS), |text| text.parse().ok())?;
    (1..=MAX_SECONDS).contains(&seconds).then(|| Duration::from_secs(seconds))
}

async fn take(time: Duration, place: Place) -> anyhow::Result<Vec<u8>> {
    // In these, a stack cannot be walked safely from a signal's handler.
    let unsafe_to_walk = ["libc", "libgcc", "pthread", "vdso"];
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&unsafe_to_walk).build()?;
    tokio::time::sleep(time).await;
    // Names are looked up in the binary: that takes processor time, and reads.
    let encoded = tokio::task::spawn_blocking(move || {
        let _place = place;
        let report = guard.report().build();
        drop(guard);
        Ok::<_, pprof::Error>(encode(&report?, time).encode_to_vec())
    });
    Ok(encoded.await??)
}

/// The part of pprof's `profile.proto` that is used here.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Strings, each once, the empty one first.
struct Strings(Vec<String>, HashMap<String, i64>);

impl Strings {
    fn new() -> Self {
        let mut strings = Strings(Vec::new(), HashMap::new());
        strings.of("");
        strings
    }

    fn of(&mut self, text: &str) -> i64 {
        if let Some(at) = self.1.get(text) {
            return *at;
        }
        let at = i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        self.0.push(text.to_owned());
        self.1.insert(text.to_owned(), at);
        at
    }
}

fn encode(report: &Report, time: Duration) -> Profile {
    let mut strings = Strings::new();
    let mut places: HashMap<(String, u32), u64> = HashMap::new();
    let (mut location, mut function, mut sample) = (Vec::new(), Vec::new(), Vec::new());
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    for (frames, count) in &report.data {
        let mut stack = Vec::new();
        for symbol in frames.frames.iter().flatten() {
            let (name, line) = (symbol.name(), symbol.lineno());
            let id = *places.entry((name.clone(), line)).or_insert_with(|| {
                let id = location.len() as u64 + 1;
                let system_name = strings.of(&symbol.sys_name());
                let filename = strings.of(&symbol.filename());
                function.push(Function { id, name: strings.of(&name), system_name, filename });
                location.push(Location { id, line: vec![Line { function_id: id, line: line.into() }] });
                id
            });
            stack.push(id);
        }
        let count = i64::try_from(*count).unwrap_or_default();
        sample.push(Sample { location_id: stack, value: vec![count, count.saturating_mul(period)] });
    }
    let mut kind = |name: &str, unit: &str| ValueType { kind: strings.of(name), unit: strings.of(unit) };
    let (samples, cpu) = (kind("samples", "count"), kind("cpu", "nanoseconds"));
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    Profile {
        sample_type: vec![samples, cpu],
        sample,
        location,
        function,
        string_table: strings.0,
        time_nanos: nanos(report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(time),
        period_type: Some(cpu),
        period,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds(""), Some(Duration::from_secs(30)));
        assert_eq!(seconds("debug=1&seconds=5"), Some(Duration::from_secs(5)));
        for wrong in ["seconds=0", "seconds=61", "seconds=", "seconds=-1", "seconds=1.5"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
