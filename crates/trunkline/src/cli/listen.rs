//! `trunkline listen`: prints what is pushed and published to a user, over as many connections as it takes.
//!
//! It can cut its own connection, and keeps the account that shows what that cost: nothing lost, nothing double.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use trunkline_client::{Client, Event, Gap, Publication, Pushes, Verdict};

use super::heard::Heard;
use super::reach::{self, Identity, Reach};
use super::{duration, output, shown};
use crate::config::May;

/// Prints every push and publication for a user as it arrives, until Ctrl-C.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Listen {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    identity: Identity,
    /// Subscribe to this channel too; may be repeated. What is pushed to the user comes without
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Cut the connection this often, as a bad network would
    #[arg(long, value_name = "TIME", value_parser = duration)]
    cut_every: Option<Duration>,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Option<Duration>,
    /// End after so many pushes and publications
    #[arg(long)]
    count: Option<u64>,
    /// Print one JSON object a line, for every event
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "What arrives goes to standard output, one line each, with its channel and offset; what becomes of the connection
goes to standard error. The exit status is 0 where nothing was lost untold and nothing came twice.

Examples:
  trunkline listen --user alice
  trunkline listen --user alice --channel room:1 --cut-every 3s --for 30s
  trunkline listen --user alice --count 1 --json";

/// Why listening ended.
enum End {
    /// As it was asked to: by time, count or signal.
    Asked,
    /// The gateway wants the client to stay away.
    Closed(String),
}

/// Whether there is a connection to cut, as far as the events that were read tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connected {
    Yes,
    No,
}

impl Listen {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = self.reach.client(&self.identity, &self.channels, &[May::Subscribe, May::History])?;
        reach::block_on(async {
            let stop = stop_signal()?;
            let client = reach::connect(options).await?;
            let mut heard = Heard::default();
            let end = self.listen(&client, &mut heard, stop).await;
            client.stop().await;
            // Where it never came to listening there is nothing to sum up.
            let end = end?;
            self.conclude(&heard);
            match end {
                End::Closed(reason) => bail!("the gateway ended the session: {reason}"),
                End::Asked if heard.lost + heard.duplicates > 0 => {
                    bail!("{} lost without a word, {} came twice", heard.lost, heard.duplicates)
                }
                End::Asked => Ok(()),
            }
        })
    }

    async fn listen(
        &self,
        client: &Client,
        heard: &mut Heard,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<End> {
        let mut pushes = client.pushes();
        for channel in &self.channels {
            let subscribed = client.subscribe(channel, None).await;
            let subscribed = subscribed.with_context(|| format!("cannot subscribe to {channel}"))?;
            if !self.json {
                let offset = subscribed.position.offset;
                output::greeting(&format!("-- listening to {} from offset {offset}", shown::line(channel)));
            }
            heard.begins(&subscribed.position);
        }
        let ends = async {
            match self.lasting {
                Some(lasting) => tokio::time::sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Whatever has arrived is counted before the end.
            biased;
            end = self.events(client, &mut pushes, heard) => Ok(end),
            () = ends => Ok(End::Asked),
            () = stop => Ok(End::Asked),
        }
    }

    async fn events(&self, client: &Client, pushes: &mut Pushes, heard: &mut Heard) -> End {
        let every = self.cut_every.unwrap_or(Duration::MAX);
        let first = Instant::now().checked_add(every);
        let mut cuts = first.map(|first| {
            let mut cuts = tokio::time::interval_at(first, every);
            cuts.set_missed_tick_behavior(MissedTickBehavior::Delay);
            cuts
        });
        let mut connected = Connected::No;
        while self.count.is_none_or(|count| heard.received() < count) {
            let event = tokio::select! {
                event = pushes.next() => event,
                () = tick(cuts.as_mut()) => {
                    // While there is no connection there is nothing to cut.
                    if connected == Connected::Yes {
                        heard.cuts += 1;
                        client.cut().await;
                        connected = Connected::No;
                    }
                    continue;
                }
            };
            match event {
                None => return End::Closed("it has ended".to_owned()),
                Some(Event::Closed(closed)) => return End::Closed(shown::line(&closed.to_string())),
                Some(event) => {
                    match &event {
                        Event::Started(_) => connected = Connected::Yes,
                        Event::Lost { .. } => connected = Connected::No,
                        _ => {}
                    }
                    self.show(&event, heard);
                    heard.event(&event);
                }
            }
        }
        End::Asked
    }

    fn show(&self, event: &Event, heard: &Heard) {
        if self.json {
            return output::result(&as_json(event).to_string());
        }
        match event {
            Event::Push(push) => {
                let at = push.position.as_ref();
                let at = at.map_or_else(|| "-".to_owned(), |at| place(&at.channel, at.offset));
                output::result(&format!("{at}  {}", shown::push_line(push)));
            }
            Event::Publication(Publication { position, data, sender, .. }) => {
                let from =
                    if sender.is_empty() { String::new() } else { format!(" ({})", shown::line(sender)) };
                let at = place(&position.channel, position.offset);
                output::result(&format!("{at}  {}{from}", shown::data(data)));
            }
            other => output::greeting(&format!("-- {}", told(other, heard))),
        }
    }

    fn conclude(&self, heard: &Heard) {
        if self.json {
            output::result(&json!({ "event": "summary", "summary": heard }).to_string());
        }
        output::greeting(&heard.to_string());
    }
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn place(channel: &str, offset: u64) -> String {
    format!("{} {offset}", shown::line(channel))
}

/// What became of the connection or a channel, for a person.
fn told(event: &Event, heard: &Heard) -> String {
    match event {
        Event::Started(started) => {
            let verdict = match started.verdict {
                Verdict::Resumed => "resumed, nothing lost",
                Verdict::Gap => "resumed with a gap",
                Verdict::Fresh if heard.starts == 0 => "connected",
                Verdict::Fresh => "connected again with a fresh session",
            };
            format!("{verdict}, over {} at {}", started.transport, shown::line(&started.node))
        }
        Event::Gap(gap) => gap_told(gap),
        Event::Joined(position) => {
            format!("a service joined this session to {}", shown::line(&position.channel))
        }
        Event::Left { channel, error } => {
            format!("off {}: {} {}", shown::line(channel), error.name, shown::line(&error.error_message))
        }
        Event::Lost { code, reason, retry_in } => {
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            let reason =
                if reason.is_empty() { "the connection is gone".to_owned() } else { shown::line(reason) };
            format!("lost{code}: {reason}; again in {} ms", retry_in.as_millis())
        }
        other => format!("{other:?}"),
    }
}

fn gap_told(gap: &Gap) -> String {
    let from = place(&gap.from.channel, gap.from.offset);
    match &gap.next {
        Some(next) if next.epoch == gap.from.epoch => {
            format!("gap: {from}: what followed up to offset {} is lost", next.offset)
        }
        Some(next) => format!("gap: {from}: its history is gone; the new one goes on after {}", next.offset),
        None => format!("gap: {from}: the channel is not delivered any more"),
    }
}

fn as_json(event: &Event) -> Value {
    let mut object = Map::new();
    let name = match event {
        Event::Push(push) => {
            object = shown::push(push);
            "push"
        }
        Event::Publication(publication) => {
            shown::put_position(&mut object, &publication.position);
            shown::put_data(&mut object, &publication.data);
            object.insert("sender".to_owned(), json!(publication.sender));
            object.insert("timestamp".to_owned(), json!(publication.timestamp));
            "publication"
        }
        Event::Started(started) => {
            let verdict = match started.verdict {
                Verdict::Fresh => "fresh",
                Verdict::Resumed => "resumed",
                Verdict::Gap => "gap",
            };
            object.insert("verdict".to_owned(), json!(verdict));
            object.insert("session".to_owned(), json!(started.session));
            object.insert("node".to_owned(), json!(started.node));
            object.insert("transport".to_owned(), json!(started.transport));
            "started"
        }
        Event::Gap(gap) => {
            shown::put_position(&mut object, &gap.from);
            if let Some(next) = &gap.next {
                object.insert("next".to_owned(), json!({ "epoch": next.epoch, "offset": next.offset }));
            }
            "gap"
        }
        Event::Joined(position) => {
            shown::put_position(&mut object, position);
            "joined"
        }
        Event::Left { channel, error } => {
            object.insert("channel".to_owned(), json!(channel));
            object.insert("code".to_owned(), json!(error.error_code));
            object.insert("reason".to_owned(), json!(error.error_message));
            "left"
        }
        Event::Lost { code, reason, retry_in } => {
            object.insert("code".to_owned(), json!(code));
            object.insert("reason".to_owned(), json!(reason));
            object.insert("retry_in_ms".to_owned(), json!(retry_in.as_millis()));
            "lost"
        }
        _ => "other",
    };
    object.insert("event".to_owned(), json!(name));
    Value::Object(object)
}

/// Resolves at Ctrl-C or SIGTERM.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
