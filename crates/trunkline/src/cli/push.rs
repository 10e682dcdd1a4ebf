//! `trunkline push`: pushes or publishes through the gRPC surface of the node on this machine, as a service does, and
//! says honestly what became of it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use trunkline_service::grpc::{GatewayAddress, GrpcContext};
use trunkline_service::{Context, ContextError, PublishOptions, Push as Content, PushOutcome, Target};

use super::call::{param, read_data};
use super::reach::{block_on, reachable};
use super::{Place, duration, output, shown};
use crate::data_dir::DataDir;
use crate::keys;
use crate::ready::RunningNode;

/// Pushes to a user, session, group, device, a zone or all, or publishes to a channel.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["to", "channel"]))]
pub(crate) struct Push {
    #[command(flatten)]
    place: Place,
    /// Whom: user:ID, session:ID, group:ID, device:ID, zone:ID or all
    #[arg(long, value_name = "WHOM", value_parser = whom)]
    to: Option<Whom>,
    /// Publish the data to this channel instead
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["kind", "title", "content", "metadata", "wait_ack"])]
    channel: Option<String>,
    /// What kind of push it is, for the client's program
    #[arg(long = "type", value_name = "TYPE", default_value = "message")]
    kind: String,
    /// A line for people
    #[arg(long, default_value = "")]
    title: String,
    /// The text
    #[arg(long, default_value = "")]
    content: String,
    /// What the client's program reads: a text, @file, or - for standard input
    #[arg(long, value_name = "TEXT|@FILE|-")]
    data: Option<String>,
    /// A further name and value; may be repeated
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = param)]
    metadata: Vec<(String, String)>,
    /// The same key again pushes or publishes nothing new
    #[arg(long, value_name = "KEY", default_value = "")]
    idempotency_key: String,
    /// Wait until a client has confirmed it, at most so long
    #[arg(long, value_name = "TIME", value_parser = ack)]
    wait_ack: Option<Duration>,
}

const EXAMPLES: &str = "The outcome is printed: delivered, acked, queued (its sessions are away and will get it), offline (nobody can get it
but from the channel's history), not found, or dropped. The exit status is 0 for the first three.

Examples:
  trunkline push --to user:alice --type mail --title \"New mail\" --content \"from bob\"
  trunkline push --to user:alice --type mail --title urgent --wait-ack 5s
  trunkline push --to zone:001 --type notice --title \"Maintenance at 22:00\"
  trunkline push --channel room:1 --data '{\"text\": \"hello\"}'";

/// Who gets a push.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    Target(Target),
    Zone(String),
    All,
}

impl Push {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.wait_ack.is_some() && matches!(self.to, Some(Whom::Zone(_) | Whom::All)) {
            bail!("--wait-ack is for one target: a push to a zone or to all has no single ack");
        }
        let data = read_data(self.data.as_deref())?;
        let gateway = gateway(&self.place)?;
        block_on(async {
            let context = GrpcContext::new(&gateway);
            let done = match (&self.to, &self.channel) {
                (Some(whom), _) => self.push(&context, whom.clone(), data).await,
                (None, Some(channel)) => self.publish(&context, channel, data).await,
                (None, None) => bail!("--to or --channel says whom it is for"),
            };
            done.map_err(|error| explained(&error, &gateway))?
        })
    }

    async fn push(
        &self,
        context: &GrpcContext,
        whom: Whom,
        data: Bytes,
    ) -> Result<anyhow::Result<()>, ContextError> {
        let wait = self.wait_ack.unwrap_or_default();
        let content = Content {
            msg_type: self.kind.clone(),
            title: self.title.clone(),
            content: self.content.clone(),
            data,
            metadata: self.metadata.iter().cloned().collect(),
            idempotency_key: self.idempotency_key.clone(),
            // At most a minute, by its parser.
            wait_ack_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Content::default()
        };
        let target = match whom {
            Whom::Target(target) => target,
            Whom::Zone(zone) => return Ok(handed(context.broadcast(Some(zone), content).await?)),
            Whom::All => return Ok(handed(context.broadcast(None, content).await?)),
        };
        Ok(self.told(context.push(target, content).await?))
    }

    /// Prints what became of a push; an error where nobody has it or will.
    fn told(&self, outcome: PushOutcome) -> anyhow::Result<()> {
        let (word, failed) = match outcome {
            PushOutcome::Acked => ("acked", None),
            PushOutcome::Delivered => ("delivered", None),
            PushOutcome::Queued => ("queued", None),
            PushOutcome::Bound => ("bound", None),
            PushOutcome::Offline => {
                ("offline", Some("nobody is there, and no session that could come back for it"))
            }
            PushOutcome::NotFound => ("not found", Some("there is no such target")),
            PushOutcome::Dropped => ("dropped", Some("a limit of the node refused it")),
        };
        output::result(word);
        if let (Some(wait), PushOutcome::Delivered | PushOutcome::Queued) = (self.wait_ack, outcome) {
            output::complain(&format!("no client confirmed it within {wait:?}"));
        }
        failed.map_or(Ok(()), |why| Err(anyhow::anyhow!("not delivered: {why}")))
    }

    async fn publish(
        &self,
        context: &GrpcContext,
        channel: &str,
        data: Bytes,
    ) -> Result<anyhow::Result<()>, ContextError> {
        let (_, offset) =
            context.publish(channel, data, PublishOptions::keyed(&self.idempotency_key)).await?;
        output::result(&format!("{} {offset}", shown::line(channel)));
        Ok(Ok(()))
    }
}

/// Prints how many sessions a push to many was handed to.
fn handed(sessions: u32) -> anyhow::Result<()> {
    output::result(&format!("handed to {sessions} {}", if sessions == 1 { "session" } else { "sessions" }));
    Ok(())
}

/// The gRPC surface of the node of this machine, with the token for it.
pub(super) fn gateway(place: &Place) -> anyhow::Result<GatewayAddress> {
    let loaded = place.load(Vec::new())?;
    let data_dir = &loaded.config.node.data_dir;
    let node = RunningNode::find(data_dir)?;
    let address = node.surfaces.get("grpc").context(
        "the node serves no gRPC, by which pushes come: start it without `--grpc off` (listen.grpc)",
    )?;
    let token = keys::upstream_token(&DataDir::open(data_dir)?)?;
    Ok(GatewayAddress::new(&reachable(*address).to_string(), Some(&token))?)
}

fn explained(error: &ContextError, gateway: &GatewayAddress) -> anyhow::Error {
    let next = match error.code.as_str() {
        "UNAUTHENTICATED" => ": keys/upstream.token is another one than the node's; name its --data-dir",
        "OVERLOADED" | "UPSTREAM_TIMEOUT" => ": `trunkline doctor` shows whether its gRPC surface answers",
        _ => "",
    };
    anyhow::anyhow!("the node at {} says {}{next}", gateway.as_str(), shown::line(&error.to_string()))
}

fn whom(text: &str) -> Result<Whom, String> {
    let wrong =
        || "wanted user:ID, session:ID, group:ID, device:ID, zone:ID or all, such as user:alice".to_owned();
    if text == "all" {
        return Ok(Whom::All);
    }
    let (kind, id) = text.split_once(':').filter(|(_, id)| !id.is_empty()).ok_or_else(wrong)?;
    let id = id.to_owned();
    Ok(match kind {
        "user" => Whom::Target(Target::User(id)),
        "session" => Whom::Target(Target::Session(id)),
        "group" => Whom::Target(Target::Group(id)),
        "device" => Whom::Target(Target::Device(id)),
        "zone" => Whom::Zone(id),
        _ => return Err(wrong()),
    })
}

/// A node waits a minute at most for an ack.
fn ack(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    let fits = (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&wait);
    fits.then_some(wait).ok_or_else(|| "wanted 1ms to 60s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_is_a_kind_and_an_id() {
        assert_eq!(whom("all"), Ok(Whom::All));
        assert_eq!(whom("zone:001"), Ok(Whom::Zone("001".to_owned())));
        assert_eq!(whom("user:a:b"), Ok(Whom::Target(Target::User("a:b".to_owned()))));
        assert_eq!(whom("group:g"), Ok(Whom::Target(Target::Group("g".to_owned()))));
        for wrong in ["", "alice", "user:", "room:1", "everybody"] {
            assert!(whom(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn an_ack_is_waited_for_a_minute_at_most() {
        assert_eq!(ack("60s"), Ok(Duration::from_secs(60)));
        assert!(ack("61s").is_err());
    }
}
