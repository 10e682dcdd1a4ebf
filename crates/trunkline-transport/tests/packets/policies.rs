//! Policies that end a connection: a peer that sends more than is read, and one that never proves itself.

use std::time::Duration;

use trunkline_transport::{
    CloseReason, Limits, Overflow, Session, TransportClientBuilder, TransportEvent, TransportServerBuilder,
};

use crate::harness::{Kind, Serving, within};

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_more_than_is_read_is_closed_and_told_where_the_policy_says_so() {
    for kind in Kind::ALL {
        let limits = Limits::new().received_bytes(8 << 10);
        let builder = TransportServerBuilder::new().overflow(Overflow::Disconnect).limits(limits);
        let serving = Serving::events(kind, builder).await;
        let mut events = serving.server.events().unwrap();
        let client = serving.client().await;
        let session = client.session().unwrap();
        let mut sent = 0;
        within(async {
            while client.send(vec![7; 1_000]).await.is_ok() {
                sent += 1;
            }
        })
        .await;
        match within(session.closed()).await {
            CloseReason::Peer { code: 1013, .. } => {}
            other => panic!("{kind:?}: {other:?}"),
        }
        // What came before is there all the same, and then the reason.
        let mut got = 0;
        let reason = within(async {
            loop {
                match events.next().await.unwrap() {
                    TransportEvent::MessageReceived { .. } => got += 1,
                    TransportEvent::ConnectionClosed { reason, .. } => break reason,
                    TransportEvent::ConnectionEstablished { .. } => {}
                    other => panic!("{kind:?}: {other:?}"),
                }
            }
        })
        .await;
        assert_eq!(reason, CloseReason::Overflow, "{kind:?}");
        assert!((7..=9).contains(&got) && sent > got, "{kind:?}: {got} of {sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_proves_himself_is_told_that_his_time_is_over() {
    // Side by side: each waits until the time is over.
    futures_util::future::join_all(Kind::ALL.map(stranger_on)).await;
}

async fn stranger_on(kind: Kind) {
    let builder = TransportServerBuilder::new().require_auth().auth_timeout(Duration::from_secs(2));
    let serving = Serving::with(kind, builder, |mut session: Session| async move {
        while let Some(packet) = session.recv().await? {
            if packet.payload == "let me in" {
                session.set_authenticated();
            }
            session.send(packet.reply("heard")).await?;
        }
        Ok(())
    })
    .await;
    let proven = serving.client_of(TransportClientBuilder::new()).await;
    within(async { proven.request("let me in").await }).await.unwrap();
    let stranger = serving.client().await;
    let session = stranger.session().unwrap();
    // Talking is no proof.
    within(async { stranger.request("may I?").await }).await.unwrap();
    let end = within(session.closed()).await;
    let CloseReason::Peer { code: 1008, reason } = end else { panic!("{kind:?}: {end:?}") };
    assert!(reason.contains("in time"), "{kind:?}: {reason}");
    // The time of the other one began before.
    within(async { proven.request("still here").await }).await.unwrap();
}
