//! A16 in small, and A20: rates of packets on every protocol, what happens beyond them, and that others are not affected.

use std::time::Duration;

use trunkline_transport::{
    CloseReason, Excess, Limits, Packet, RateLimiterConfig, RequestError, TransportClientBuilder,
    TransportEvent, TransportServerBuilder,
};

use crate::harness::{Kind, Serving, echo, within};

/// A server whose peers may send 5 packets, and one more each second.
async fn limited(kind: Kind, excess: Excess) -> Serving {
    let config = RateLimiterConfig::new(1, 5).on_excess(excess);
    Serving::with(kind, TransportServerBuilder::new().rate_limiter(config), echo).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_what_is_too_fast_is_dropped_told_and_counted() {
    for kind in Kind::ALL {
        let serving = limited(kind, Excess::Drop).await;
        let client = serving.client().await;
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..40 {
            match within(async { client.request("x").await }).await {
                Ok(_) => answered += 1,
                Err(RequestError::Refused { code: 1013, .. }) => refused += 1,
                Err(error) => panic!("{kind:?}: {error}"),
            }
        }
        assert!(answered >= 5 && refused > 0, "{kind:?}: {answered} answered, {refused} refused");
        assert_eq!(serving.server.stats().rate_dropped, refused, "{kind:?}");
        // Another connection has a bucket of its own.
        let other = serving.client().await;
        for _ in 0..5 {
            within(async { other.request("x").await }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_what_is_too_fast_waits_in_order_and_answers_do_not() {
    for kind in Kind::ALL {
        let config = RateLimiterConfig::new(200, 5);
        let builder = TransportServerBuilder::new().rate_limiter(config);
        let serving = Serving::events(kind, builder).await;
        let mut events = serving.server.events().unwrap();
        let client = serving.client().await;
        for i in 0..40_u32 {
            client.send(i.to_be_bytes().to_vec()).await.unwrap();
        }
        let mut next = 0_u32;
        let mut id = None;
        while next < 40 {
            if let TransportEvent::MessageReceived { session_id, packet } =
                within(events.next()).await.unwrap()
            {
                assert_eq!(packet.payload, next.to_be_bytes()[..], "{kind:?}");
                next += 1;
                id = Some(session_id);
            }
        }
        let delayed = serving.server.stats().rate_delayed;
        assert!(delayed > 0, "{kind:?}: 40 packets at 200/s waited for nothing");
        // Our own questions are not the peer's fault.
        let session = serving.server.session(id.unwrap()).unwrap();
        let mut asked = client.events().unwrap();
        let answering = client.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Some(event) = asked.next().await {
                if let TransportEvent::MessageReceived { packet, .. } = event {
                    answering.send(packet.reply("yes")).await.unwrap();
                }
            }
        });
        for _ in 0..50 {
            within(async { session.request("there?").await }).await.unwrap();
        }
        assert_eq!(serving.server.stats().rate_delayed, delayed, "{kind:?}: an answer has waited");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_what_is_too_fast_is_closed() {
    for kind in Kind::ALL {
        let serving = limited(kind, Excess::Close).await;
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        let calm = serving.client().await;
        for _ in 0..40 {
            // Once it is closed there is nowhere to send to.
            let _ = client.send("x").await;
        }
        within(async {
            loop {
                if let TransportEvent::ConnectionClosed { reason, .. } = events.next().await.unwrap() {
                    assert!(matches!(reason, CloseReason::Peer { code: 1008, .. }), "{kind:?}: {reason}");
                    break;
                }
            }
        })
        .await;
        assert_eq!(serving.server.stats().rate_closed, 1, "{kind:?}");
        within(async { calm.request("x").await }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_connections_of_one_address_share_its_rate_and_sorts_have_their_own() {
    for kind in Kind::ALL {
        let config = RateLimiterConfig::new(1000, 1000)
            .per_address(1, 6)
            .per_biz_type(9, 1, 2)
            .on_excess(Excess::Drop);
        let serving = Serving::with(kind, TransportServerBuilder::new().rate_limiter(config), echo).await;
        let (first, second) = (serving.client().await, serving.client().await);
        let mut passed = 0;
        for client in [&first, &second] {
            for _ in 0..20 {
                passed += usize::from(within(async { client.request("x").await }).await.is_ok());
            }
        }
        // Within a machine there are no addresses.
        let has_address = !matches!(kind, Kind::Unix | Kind::Memory | Kind::Custom);
        if has_address {
            assert!((6..40).contains(&passed), "{kind:?}: {passed} of 40");
            continue;
        }
        assert_eq!(passed, 40, "{kind:?}");
        let mut of_nine = 0;
        for _ in 0..20 {
            let sort = Packet::new("x").with_biz_type(9);
            of_nine += usize::from(within(async { first.request(sort).await }).await.is_ok());
        }
        assert!((2..20).contains(&of_nine), "{kind:?}: {of_nine} of 20");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_counts_and_ends_with_its_connection() {
    let config = RateLimiterConfig::new(1000, 1000).bytes(1, 1);
    let limits = Limits::new();
    let builder = TransportServerBuilder::new().rate_limiter(config).limits(limits);
    let serving = Serving::with(Kind::Tcp, builder, echo).await;
    let client = serving.client_of(TransportClientBuilder::new()).await;
    // The second waits for a day.
    client.send(vec![1; 90_000]).await.unwrap();
    client.send(vec![2; 90_000]).await.unwrap();
    within(async {
        while serving.server.stats().rate_delayed == 0 || serving.server.queued_bytes() < 90_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let session = serving.server.session(serving.server.active_sessions()[0]).unwrap();
    session.close(1000, "enough");
    within(session.closed()).await;
    drop((session, client));
    within(async {
        while serving.server.queued_bytes() > 0 || serving.server.session_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
