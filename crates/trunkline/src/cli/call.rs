//! `trunkline call`: one call or several, one after the other; the reply's data is the result.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use trunkline_client::{CallError, Client, Reply};

use super::reach::{self, Identity, Reach};
use super::{duration, output, shown};

/// No frame is larger, so more data need not be read.
const MOST_DATA: u64 = 16 << 20;

/// How much longer than the gateway the command waits.
const GRACE: Duration = Duration::from_secs(1);

/// Calls an action and prints the reply's data.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Call {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    identity: Identity,
    /// What is called; `trunkline.echo` is there on every node
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    action: String,
    /// A named argument; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = param)]
    params: Vec<(String, String)>,
    /// The call's data: a text, @file, or - for standard input
    #[arg(long, value_name = "TEXT|@FILE|-")]
    data: Option<String>,
    /// How many calls, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// How long to wait for each reply
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Go on for so long where the node says no for now, such as while no upstream is there [default: say so and end]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
    /// Print the whole reply, one JSON object a line
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "The exit status is 0 where every reply has code 200.

Examples:
  trunkline call --user alice trunkline.echo --data hello
  trunkline call --user alice calculate --param operation=add --param a=1 --param b=2 --json
  trunkline call --user alice hello --wait 30s
  trunkline call --url wss://gateway.example/ws --token \"$TOKEN\" hello --data @hello.json";

impl Call {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = self.reach.client(&self.identity, &[], &[])?;
        let data = read_data(self.data.as_deref())?;
        reach::block_on(async {
            let client = reach::connect(options).await?;
            let outcome = self.calls(&client, data).await;
            client.stop().await;
            outcome
        })
    }

    async fn calls(&self, client: &Client, data: Bytes) -> anyhow::Result<()> {
        for _ in 0..self.count {
            let mut call = client.call(&self.action).data(data.clone());
            // The gateway gives up first, so that its answer says why.
            let millis = self.timeout.as_millis().to_string();
            call = call
                .header("x-timeout-ms", millis)
                .timeout(self.wait.unwrap_or_default() + self.timeout + GRACE);
            if self.wait.is_none() {
                call = call.once();
            }
            for (name, value) in &self.params {
                call = call.param(name, value);
            }
            let reply = call.send().await.map_err(|error| self.failed(&error))?;
            self.print(&reply);
            if reply.code != 200 {
                bail!("{} answered {} {}", self.action, reply.code, shown::line(&reply.message));
            }
        }
        Ok(())
    }

    fn print(&self, reply: &Reply) {
        if self.json {
            return output::result(&shown::reply(reply).to_string());
        }
        for push in &reply.before {
            output::greeting(&format!("before the reply: {}", shown::push_line(push)));
        }
        output::bytes(&reply.data);
        for push in &reply.after {
            output::greeting(&format!("after the reply: {}", shown::push_line(push)));
        }
    }

    fn failed(&self, error: &CallError) -> anyhow::Error {
        let next = match error {
            CallError::ResultUnknown(_) => " (it may have run: look before you repeat it)",
            CallError::TimedOut { .. } => {
                " (the upstream is slow, or none is there: the status page shows which are)"
            }
            CallError::Refused(_) if error.retry_after().is_some() => {
                " (start an upstream that serves it, or wait with --wait 30s: the status page shows which are there)"
            }
            CallError::TooLarge { .. } => " (send less, or raise session.max_frame_size)",
            _ => "",
        };
        anyhow::anyhow!("{}: {}{next}", self.action, shown::line(&error.to_string()))
    }
}

/// The data that `--data` names.
pub(super) fn read_data(argument: Option<&str>) -> anyhow::Result<Bytes> {
    let read = |from: &mut dyn Read, what: &str| -> anyhow::Result<Bytes> {
        let mut data = Vec::new();
        let read = from.take(MOST_DATA + 1).read_to_end(&mut data);
        read.with_context(|| format!("--data: {what} cannot be read"))?;
        if data.len() as u64 > MOST_DATA {
            bail!("--data: {what} has more than {MOST_DATA} bytes, and no frame takes that");
        }
        Ok(data.into())
    };
    match argument {
        None => Ok(Bytes::new()),
        Some("-") => read(&mut std::io::stdin().lock(), "standard input"),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => {
                let mut open =
                    std::fs::File::open(file).with_context(|| format!("--data: {file} cannot be opened"))?;
                read(&mut open, file)
            }
            None => Ok(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

pub(super) fn param(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("wanted NAME=VALUE, such as a=1".to_owned()),
    }
}
