//! Sessions that acknowledge what was never sent and number their calls as they like.

use anyhow::{Context as _, Result, ensure};
use trunkline_proto::wire::{BusinessRequest, ChannelPosition};
use trunkline_proto::{UpBody, UpFrame};
use trunkline_testkit::Way;

use crate::rig::{Rig, error, position, reply};

/// An ack beyond what was sent is 400, and the session lives.
pub(super) async fn acks(rig: &Rig, at: usize) -> Result<()> {
    let user = format!("acks{at}");
    let mut client = rig.session(&user, Way::ALL[at % Way::ALL.len()]).await?;
    let now = position(client.started.as_ref().context("started")?, &format!("user:{user}"))?;
    client.ack_position(ChannelPosition { offset: now.offset + 1_000, ..now.clone() }).await?;
    ensure!(error(client.push().await?)?.error_code == 400, "an ack of the future");
    // One of an older epoch is ignored.
    client.ack_position(ChannelPosition { epoch: 1, ..now }).await?;
    ensure!(client.drain().await?.is_empty(), "an ack of an older epoch was answered");
    Ok(())
}

/// A jump is 400 and changes nothing, a repeat is answered from the cache, a number with other content is 409.
pub(super) async fn numbers(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("numbers{at}"), Way::ALL[at % Way::ALL.len()]).await?;
    let call = |msg_id, seq, data: &'static str| {
        let request = BusinessRequest {
            action: "trunkline.echo".into(),
            data: data.into(),
            ..BusinessRequest::default()
        };
        UpFrame::new(msg_id, seq, UpBody::Business(request))
    };
    client.send(&call(11, 1, "one")).await?;
    ensure!(reply(client.reply(11).await?)?.data == "one", "the first");
    client.send(&call(12, 900, "far")).await?;
    ensure!(error(client.reply(12).await?)?.error_code == 400, "a jump");
    client.send(&call(13, 1, "one")).await?;
    ensure!(reply(client.reply(13).await?)?.data == "one", "a repeat");
    client.send(&call(14, 1, "other")).await?;
    ensure!(error(client.reply(14).await?)?.error_code == 409, "a number used for something else");
    client.send(&call(15, 2, "two")).await?;
    ensure!(reply(client.reply(15).await?)?.data == "two", "the next number");
    Ok(())
}
