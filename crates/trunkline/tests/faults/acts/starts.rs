//! STARTs that nobody may get in with, and STARTs that come too often.

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use trunkline_proto::UpBody;
use trunkline_proto::wire::{ChannelPosition, StartRequest};
use trunkline_testkit::Way;

use crate::rig::{Rig, error, reply};

/// STARTs at once.
const AT_ONCE: usize = 8;

/// Each is refused with a typed error and told to stay away.
pub(super) async fn bad_tokens(rig: &Rig, at: usize) -> Result<()> {
    let user = format!("victim{at}");
    for token in rig.bad_tokens(&user) {
        let mut client = rig.connect(Way::ALL[at % Way::ALL.len()]).await?;
        let start = StartRequest { auth_token: token.clone(), ..rig.start_request(&user) };
        let response = client.start(start).await?;
        ensure!(!response.success && response.session_id.is_empty(), "{token:?} got in");
        let code = response.error.context("a refusal says why")?.error_code;
        ensure!(matches!(code, 401 | 403), "{token:?} was answered {code}");
        let code = client.close_code().await?;
        ensure!((4300..4400).contains(&code), "{token:?} was closed with {code}");
    }
    Ok(())
}

/// A resume token in another's hands is 4101; twice at once it is one session, and the loser is told.
pub(super) async fn resume_tokens(rig: &Rig, at: usize) -> Result<()> {
    let owner = format!("owner{at}");
    let mut first = rig.connect(Way::TCP).await?;
    let start = rig.start_request(&owner);
    let started = first.start(start.clone()).await?;
    first.prove(started.fence).await?;

    let stolen = StartRequest {
        resume_token: started.resume_token.clone(),
        device_id: start.device_id.clone(),
        ..rig.start_request(&format!("thief{at}"))
    };
    let mut thief = rig.connect(Way::TCP).await?;
    ensure!(!thief.start(stolen).await?.success, "a stolen token was taken");
    let code = thief.close_code().await?;
    ensure!(code == 4101, "the thief was closed with {code}");

    drop(first);
    let again = StartRequest { resume_token: started.resume_token, attempt: 2, ..start };
    let mut both = JoinSet::new();
    for attempt in [2, 3] {
        let (mut client, start) = (rig.connect(Way::TCP).await?, StartRequest { attempt, ..again.clone() });
        both.spawn(async move {
            let response = client.start(start).await;
            (client, response)
        });
    }
    one_remains(both, |response| (response.fence, response.success)).await
}

/// They are refused with 403, and the session is none the worse for it.
pub(super) async fn positions(rig: &Rig, at: usize) -> Result<()> {
    let mut spy = rig.connect(Way::ALL[at % Way::ALL.len()]).await?;
    let foreign = ["user:healthy0", "group:staff", "session:00000000000000000000000000000001"];
    let positions = foreign
        .iter()
        .map(|channel| ChannelPosition { channel: (*channel).to_owned(), epoch: 1, offset: 0 })
        .collect();
    let start = StartRequest { positions, ..rig.start_request(&format!("spy{at}")) };
    let response = spy.start(start).await?;
    ensure!(response.success, "{response:?}");
    ensure!(response.refused.len() == foreign.len(), "not all were refused: {:?}", response.refused);
    for refused in &response.refused {
        let code = refused.error.as_ref().map(|error| error.error_code);
        ensure!(code == Some(403), "{} was answered {code:?}", refused.channel);
    }
    ensure!(spy.drain().await?.is_empty(), "the spy heard something");
    Ok(())
}

/// One of them has the session, all others are replaced.
pub(super) async fn one_device(rig: &Rig, at: usize) -> Result<()> {
    let user = format!("device{at}");
    let mut starts = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut client, start) = (rig.connect(Way::TCP).await?, rig.start_request(&user));
        starts.spawn(async move {
            let response = client.start(start).await;
            (client, response)
        });
    }
    one_remains(starts, |response| (response.fence, response.success)).await
}

/// Of clients that started at once the one with the highest fence works, and all others are closed with 4301.
async fn one_remains(
    mut starts: JoinSet<(trunkline_testkit::TestClient, Result<trunkline_proto::wire::StartResponse>)>,
    outcome: fn(&trunkline_proto::wire::StartResponse) -> (u64, bool),
) -> Result<()> {
    let mut started = Vec::new();
    while let Some(ended) = starts.join_next().await {
        let (mut client, response) = ended?;
        match response.as_ref().map(outcome) {
            Ok((fence, true)) => started.push((fence, client)),
            // One that has lost may be closed before it is answered.
            Ok((_, false)) | Err(_) => {
                if let Ok(code) = client.close_code().await {
                    ensure!(matches!(code, 4301 | 4101), "a loser was closed with {code}");
                }
            }
        }
    }
    started.sort_by_key(|(fence, _)| *fence);
    let (_, mut winner) = started.pop().context("nobody got in")?;
    for (fence, mut loser) in started {
        let code = loser.close_code().await?;
        ensure!(code == 4301, "the one with fence {fence} was closed with {code}");
    }
    ensure!(reply(winner.call("trunkline.echo", "mine").await?)?.data == "mine", "the winner's call");
    Ok(())
}

/// The first is answered, each further one is 400, and the session lives.
pub(super) async fn one_connection(rig: &Rig, at: usize) -> Result<()> {
    let user = format!("eager{at}");
    let mut client = rig.session(&user, Way::TCP).await?;
    for _ in 1..AT_ONCE {
        let answer = client.request(UpBody::Start(rig.start_request(&user).into())).await?;
        ensure!(error(answer)?.error_code == 400, "a second START");
    }
    ensure!(reply(client.call("trunkline.echo", "alive").await?)?.data == "alive", "the session's call");
    Ok(())
}
