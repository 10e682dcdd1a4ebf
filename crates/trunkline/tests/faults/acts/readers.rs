//! Clients that want much and read late.

use anyhow::{Result, bail, ensure};
use trunkline_proto::DownBody;
use trunkline_proto::wire::ServicePublishRequest;
use trunkline_testkit::Way;

use crate::rig::{LARGE, Rig, channel, reply};

/// Publications while nobody reads: 100 of them are kept, and the rest is more than buffers hold.
const PUBLICATIONS: u32 = 140;

const SIZE: usize = 16_000;

/// Its window overruns a client that does not read, in the middle of a frame. Later it reads whole frames, and gaps
/// in their places, up to the last.
pub(super) async fn overrun(rig: &Rig, at: usize) -> Result<()> {
    let way = Way::ALL[(at * 3) % Way::ALL.len()];
    let name = format!("room:slow{at}");
    let mut slow = rig.narrow_session(&format!("slow{at}"), way).await?;
    let mut place = channel(slow.subscribe(&name, None).await?)?.offset;
    let mut offsets = Vec::new();
    for number in 0..PUBLICATIONS {
        let mut data = number.to_be_bytes().to_vec();
        data.resize(SIZE, b'x');
        let request =
            ServicePublishRequest { channel: name.clone(), data: data.into(), ..Default::default() };
        offsets.push(rig.rude.gateway().publish(request).await?.into_inner().offset);
    }
    let (mut delivered, mut lost) = (0, 0);
    while offsets.last() != Some(&place) {
        let frame = slow.push().await?;
        match &frame.body {
            DownBody::Gap(gap) => {
                ensure!((gap.channel.as_str(), gap.offset) == (name.as_str(), place), "{way:?}: {gap:?}");
                let Some(next) = &gap.next else { bail!("{way:?}: delivery does not go on") };
                lost += offsets.iter().filter(|at| (place + 1..=next.offset).contains(*at)).count();
                place = next.offset;
            }
            DownBody::Publication(publication) => {
                let next = offsets.iter().position(|offset| *offset > place);
                let number = publication.data.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize);
                ensure!(number == next, "{way:?}: {number:?} after {place}");
                ensure!(publication.data.len() == SIZE, "{way:?}: a broken publication");
                place = frame.position.map_or(0, |position| position.offset);
                delivered += 1;
            }
            other => bail!("{way:?}: {other:?}"),
        }
    }
    ensure!(lost > 0, "{way:?}: everything passed a client that did not read");
    ensure!(delivered + lost == PUBLICATIONS as usize, "{way:?}: {delivered} and {lost} are not all");
    ensure!(reply(slow.call("trunkline.echo", "well").await?)?.data == "well", "{way:?}: a call");
    Ok(())
}

/// It asks for four times what its reply queue holds before it reads the first answer, and gets each of them whole.
pub(super) async fn greedy(rig: &Rig, at: usize) -> Result<()> {
    let mut greedy = rig.narrow_session(&format!("greedy{at}"), Way::TCP).await?;
    let mut asked = Vec::new();
    for _ in 0..16 {
        asked.push(greedy.send_call("big.page", &[], "").await?);
    }
    for msg_id in asked {
        ensure!(reply(greedy.reply(msg_id).await?)?.data.len() == LARGE, "a late reply");
    }
    Ok(())
}
