//! `trunkline trace`: what became of one message of a session, from the node on this machine.

use std::fmt::Write as _;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::reach::block_on;
use super::{Place, admin, output, shown};

/// Says where a call or a publication is, or what became of it.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Trace {
    #[command(flatten)]
    place: Place,
    /// The session's id, as START_RESP, `/stats` and services have it
    #[arg(long, value_name = "ID", conflicts_with_all = ["on", "off"])]
    session: Option<String>,
    /// A call, by its number in the session
    #[arg(long, value_name = "NUMBER", requires = "session")]
    call: Option<u64>,
    /// A channel's publication, with --offset
    #[arg(long, value_name = "CHANNEL", requires_all = ["session", "offset"], conflicts_with = "call")]
    channel: Option<String>,
    /// Its offset
    #[arg(long, value_name = "NUMBER", requires = "channel")]
    offset: Option<u64>,
    /// Its epoch [default: the channel's newest]
    #[arg(long, value_name = "NUMBER", requires = "channel")]
    epoch: Option<u64>,
    /// Begin to keep the steps of every message
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// Stop, and forget them
    #[arg(long)]
    off: bool,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Where a message is now is known without a trace; how it came there, step by step, only while one is kept. Without
arguments it says whether one is. Steps are names, numbers and sizes, never what a message says.

Examples:
  trunkline trace --on
  trunkline trace --session 5f1d6b0c2a9e4c7d8b3a1f0e9d8c7b6a --call 17
  trunkline trace --session 5f1d6b0c2a9e4c7d8b3a1f0e9d8c7b6a --channel room:1 --offset 240
  trunkline trace --off";

impl Trace {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (method, path) = self.request()?;
        let answer = block_on(admin::ask(&self.place, method, &path))?;
        let text = if self.json { answer.to_string() } else { told(&answer) };
        output::result(&text);
        Ok(())
    }

    fn request(&self) -> anyhow::Result<(Method, String)> {
        let base = "/api/admin/trace";
        if self.on || self.off {
            return Ok((Method::PUT, format!("{base}?on={}", self.on)));
        }
        let Some(session) = &self.session else { return Ok((Method::GET, base.to_owned())) };
        if self.call.is_none() && self.channel.is_none() {
            anyhow::bail!(
                "which message of the session? Name one with --call, or with --channel and --offset"
            );
        }
        let mut path = format!("{base}?session={}", encoded(session));
        for (name, number) in [("call", self.call), ("offset", self.offset), ("epoch", self.epoch)] {
            if let Some(number) = number {
                let _ = write!(path, "&{name}={number}");
            }
        }
        if let Some(channel) = &self.channel {
            let _ = write!(path, "&channel={}", encoded(channel));
        }
        Ok((Method::GET, path))
    }
}

/// A text as a query has it (RFC 3986, section 2): everything that is not unreserved as its bytes.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(all, "%{byte:02X}");
            }
        }
        all
    })
}

/// The answer for people.
fn told(answer: &Value) -> String {
    let trace = answer.get("trace").unwrap_or(answer);
    let number = |name: &str| trace[name].as_u64().unwrap_or_default();
    let kept = match trace["on"].as_bool() {
        Some(true) => format!(
            "a trace is kept: {} steps in {} bytes, and {} older ones forgotten",
            number("steps"),
            number("bytes"),
            number("forgotten")
        ),
        _ => "no trace is kept: `trunkline trace --on` begins one".to_owned(),
    };
    let Some(state) = answer["state"].as_str() else { return kept };
    let says = answer["says"].as_str().unwrap_or_default();
    let mut text = format!("{}: {}\n", shown::line(state), shown::line(says));
    let steps = answer["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let begin = steps.first().and_then(|step| step["at"].as_u64()).unwrap_or_default();
    for step in steps {
        let after = step["at"].as_u64().unwrap_or_default().saturating_sub(begin);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  +{after:>6} ms  {}", step_line(step));
    }
    if let Some(note) = answer["note"].as_str() {
        // Nor can this.
        let _ = writeln!(text, "  ({})", shown::line(note));
    }
    text + &kept
}

/// A step's name, and its facts in the order of the alphabet.
fn step_line(step: &Value) -> String {
    let mut line = step["step"].as_str().unwrap_or_default().to_owned();
    for (name, value) in step.as_object().into_iter().flatten() {
        if name != "step" && name != "at" {
            let value = value.as_str().map_or_else(|| value.to_string(), shown::line);
            let _ = write!(line, " {name}={value}");
        }
    }
    shown::line(&line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_a_sentence_and_a_line_for_each_step() {
        let answer = json!({
            "state": "running", "says": "it runs",
            "note": "older ones are gone",
            "trace": { "on": true, "steps": 2, "bytes": 200, "forgotten": 0 },
            "steps": [
                { "at": 1_000, "step": "received", "call": 7, "action": "a\u{1b}[2J" },
                { "at": 1_012, "step": "started", "call": 7 },
            ],
        });
        let text = told(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "running: it runs");
        assert_eq!(lines[1], "  +     0 ms  received action=a\\u{1b}[2J call=7");
        assert_eq!(lines[2], "  +    12 ms  started call=7");
        assert_eq!(lines[3], "  (older ones are gone)");
        assert!(lines[4].contains("2 steps"), "{text}");
    }

    #[test]
    fn names_of_channels_go_into_a_query_whole() {
        assert_eq!(encoded("room:a b&c=é~"), "room%3Aa%20b%26c%3D%C3%A9~");
    }

    #[test]
    fn the_trace_itself_is_one_line() {
        assert!(told(&json!({ "on": false, "steps": 0, "bytes": 0, "forgotten": 0 })).contains("--on"));
    }
}
