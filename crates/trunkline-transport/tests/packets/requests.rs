//! Requests: both directions, side by side, cancelled, refused, streamed, timed out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Notify;
use trunkline_transport::{
    Flags, Limits, Middleware, Packet, Refusal, RequestError, Session, TransportClient,
    TransportClientBuilder, TransportEvent, TransportServerBuilder, Wire,
};

use crate::harness::{Kind, Serving, pattern, within};

#[tokio::test(flavor = "multi_thread")]
async fn the_server_asks_the_client_too() {
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new(), |mut session: Session| async move {
            // The question must pass although the answer to it comes while another request is being handled.
            while let Some(packet) = session.recv().await? {
                let name = session.request("who are you?").await?;
                session.send(packet.reply(format!("hello {}", name.payload_as_str().unwrap()))).await?;
            }
            Ok(())
        })
        .await;
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        let answering = client.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                if let TransportEvent::MessageReceived { packet, .. } = event {
                    assert!(packet.is_request());
                    answering.send(packet.reply("Ada")).await.unwrap();
                }
            }
        });
        let answer = within(async { client.request("hi").await }).await.unwrap();
        assert_eq!(answer.payload_as_string().unwrap(), "hello Ada", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_run_side_by_side_up_to_the_limit() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let go = Arc::new(Notify::new());
    let (r, m, g) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&go));
    let builder = TransportServerBuilder::new().limits(Limits::new().requests(8));
    let serving = Serving::with(Kind::Tcp, builder, move |mut session: Session| {
        let (r, m, g) = (Arc::clone(&r), Arc::clone(&m), Arc::clone(&g));
        async move {
            session
                .serve_requests(move |_, packet| {
                    let (r, m, g) = (Arc::clone(&r), Arc::clone(&m), Arc::clone(&g));
                    async move {
                        m.fetch_max(r.fetch_add(1, SeqCst) + 1, SeqCst);
                        let released = g.notified();
                        if m.load(SeqCst) < 8 {
                            released.await;
                        } else {
                            // The eighth lets all go.
                            g.notify_waiters();
                        }
                        r.fetch_sub(1, SeqCst);
                        packet.reply(packet.payload.clone())
                    }
                })
                .await
        }
    })
    .await;
    let client = serving.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..64_u32 {
        let client = client.clone();
        tasks.spawn(async move {
            let body = i.to_be_bytes().to_vec();
            assert_eq!(client.request(body.clone()).await.unwrap().payload, body);
        });
    }
    within(tasks.join_all()).await;
    assert_eq!(most.load(SeqCst), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_is_given_up_on_the_other_side() {
    let begun = Arc::new(Notify::new());
    let dropped = Arc::new(Notify::new());
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (b, d) = (Arc::clone(&begun), Arc::clone(&dropped));
    let serving = Serving::with(Kind::Tcp, TransportServerBuilder::new(), move |mut session: Session| {
        let (b, d) = (Arc::clone(&b), Arc::clone(&d));
        async move {
            session
                .serve_requests(move |_, packet| {
                    let (b, d) = (Arc::clone(&b), Arc::clone(&d));
                    async move {
                        if packet.payload == "never" {
                            let _told = Told(d);
                            b.notify_one();
                            std::future::pending::<()>().await;
                        }
                        packet.reply("done")
                    }
                })
                .await
        }
    })
    .await;
    let client = serving.client().await;
    {
        let asking = client.request("never").into_future();
        tokio::select! {
            answer = asking => panic!("{answer:?}"),
            () = begun.notified() => {}
        }
    }
    within(dropped.notified()).await;
    // Its connection and its place are as good as new.
    assert_eq!(client.request("now").await.unwrap().payload, "done");
    within(async {
        while serving.server.session(serving.server.active_sessions()[0]).unwrap().open_requests() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_time_outs_are_told_apart() {
    let serving =
        Serving::with(Kind::Tcp, TransportServerBuilder::new(), |mut session: Session| async move {
            while let Some(packet) = session.recv().await? {
                if packet.payload == "refuse" {
                    session.send(packet.reply_error(4001, "not you")).await?;
                }
            }
            Ok(())
        })
        .await;
    let client = serving.client().await;
    let refused = within(async { client.request("refuse").await }).await;
    assert_eq!(refused, Err(RequestError::Refused { code: 4001, reason: "not you".to_owned() }));
    let short = Duration::from_millis(50);
    let late = within(async { client.request("silence").timeout(short).await }).await;
    assert_eq!(late, Err(RequestError::TimedOut(short)));
    // A v1 peer has no word for a refusal: it is sent nothing, and nothing else either.
    let v1 = serving.client_of(TransportClientBuilder::new().wire(Wire::V1)).await;
    assert_eq!(
        within(async { v1.request("refuse").timeout(short).await }).await,
        Err(RequestError::TimedOut(short))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_reply_stays_within_its_window() {
    let sent = Arc::new(AtomicUsize::new(0));
    let s = Arc::clone(&sent);
    let serving = Serving::with(Kind::Tcp, TransportServerBuilder::new(), move |mut session: Session| {
        let s = Arc::clone(&s);
        async move {
            while let Some(packet) = session.recv().await? {
                let mut reply = session.reply_stream(&packet);
                for _ in 0..100 {
                    reply.send(pattern(10_000)).await?;
                    s.fetch_add(1, SeqCst);
                }
                reply.finish().await?;
            }
            Ok(())
        }
    })
    .await;
    let limits = Limits::new().stream_window(64 << 10);
    let client = serving.client_of(TransportClientBuilder::new().limits(limits)).await;
    let mut stream = within(client.request_stream("all")).await.unwrap();
    let first = within(stream.next()).await.unwrap().unwrap();
    assert_eq!(first.payload, pattern(10_000));
    assert!(first.flags.contains(Flags::MORE));
    // The other side waits for us. It cannot be seen to wait; it can be seen not to have gone on.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(sent.load(SeqCst) <= 8, "64 KiB are seven parts, and one more may be on its way");
    let mut parts = 1;
    while let Some(part) = within(stream.next()).await {
        assert_eq!(part.unwrap().payload, pattern(10_000));
        parts += 1;
    }
    assert_eq!((parts, sent.load(SeqCst)), (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_requests_wait_for_a_place_and_keep_their_time() {
    let serving = Serving::with(Kind::Tcp, TransportServerBuilder::new(), |session: Session| async move {
        session.closed().await;
        Ok(())
    })
    .await;
    let limits = Limits::new().requests(2);
    let client = serving.client_of(TransportClientBuilder::new().limits(limits)).await;
    let short = Duration::from_millis(50);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let client = client.clone();
        tasks.spawn(async move { client.request(Packet::new("x")).timeout(short).await });
    }
    for answer in within(tasks.join_all()).await {
        assert_eq!(answer, Err(RequestError::TimedOut(short)));
    }
    client.disconnect().await;
    assert!(matches!(client.request("x").await, Err(RequestError::NotSent(_))));
}

/// Lets no answer `secret` out.
struct Discreet;

impl Middleware for Discreet {
    fn on_send(&self, _: &Session, packet: Packet) -> Result<Packet, Refusal> {
        if packet.payload == "secret" { Err(Refusal::new(4103, "not out")) } else { Ok(packet) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_sent_costs_its_request_only() {
    for kind in Kind::ALL {
        let go = Arc::new(Notify::new());
        let g = Arc::clone(&go);
        let builder = TransportServerBuilder::new().with_middleware(Discreet);
        let serving = Serving::with(kind, builder, move |mut session: Session| {
            let g = Arc::clone(&g);
            async move {
                let answer = move |_, packet: Packet| {
                    let g = Arc::clone(&g);
                    async move {
                        match packet.payload_as_str() {
                            Some("large") => packet.reply(vec![0; (1 << 20) + 1]),
                            Some("long head") => packet.reply("").with_ext_header(vec![0; 1 << 16]),
                            Some("slow") => {
                                g.notified().await;
                                packet.reply("slow")
                            }
                            _ => packet.reply(packet.payload.clone()),
                        }
                    }
                };
                session.serve_requests(answer).await
            }
        })
        .await;
        let client = serving.client().await;
        let asks = |what: &'static str| ask(client.clone(), what);
        let mut slow = tokio::task::JoinSet::new();
        slow.spawn(asks("slow"));
        within(async {
            while serving.server.stats().received_requests < 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let code = async |what| match within(asks(what)).await {
            Err(RequestError::Refused { code, reason }) => (code, reason),
            other => panic!("{kind:?}, {what}: {other:?}"),
        };
        assert_eq!(code("large").await.0, 1009, "{kind:?}");
        assert_eq!(code("secret").await, (4103, "not out".to_owned()), "{kind:?}");
        assert_eq!(code("long head").await.0, 1011, "{kind:?}");
        assert_eq!(within(asks("fine")).await.unwrap().payload, "fine", "{kind:?}");
        go.notify_one();
        assert_eq!(within(slow.join_next()).await.unwrap().unwrap().unwrap().payload, "slow", "{kind:?}");
        none_open(&serving).await;
    }
}

/// The peer may have its answer a moment before the server has noted so.
async fn none_open(serving: &Serving) {
    let session = serving.server.session(serving.server.active_sessions()[0]).unwrap();
    within(async {
        while session.open_requests() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn ask(client: TransportClient, what: &'static str) -> Result<Packet, RequestError> {
    client.request(what).timeout(Duration::from_secs(100)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_peer_is_told_nothing_of_an_answer_that_cannot_be_sent_and_goes_on() {
    let builder = TransportServerBuilder::new().with_middleware(Discreet);
    let serving = Serving::with(Kind::Tcp, builder, |mut session: Session| async move {
        session.serve_requests(|_, packet| async move { packet.reply(packet.payload.clone()) }).await
    })
    .await;
    let client = serving.client_of(TransportClientBuilder::new().wire(Wire::V1)).await;
    let short = Duration::from_millis(50);
    let late = within(async { client.request("secret").timeout(short).await }).await;
    assert_eq!(late, Err(RequestError::TimedOut(short)));
    assert_eq!(within(ask(client.clone(), "fine")).await.unwrap().payload, "fine");
    none_open(&serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_for_room_holds_up_no_other_work() {
    let [begun, go, answered, done] = [(); 4].map(|()| Arc::new(Notify::new()));
    let (b, g, a, d) = (Arc::clone(&begun), Arc::clone(&go), Arc::clone(&answered), Arc::clone(&done));
    let builder = TransportServerBuilder::new().limits(Limits::new().queued_bytes(100 << 10));
    let serving = Serving::with(Kind::Tcp, builder, move |mut session: Session| {
        let (b, g, a, d) = (Arc::clone(&b), Arc::clone(&g), Arc::clone(&a), Arc::clone(&d));
        async move {
            let answer = move |_, packet: Packet| {
                let (b, g, a, d) = (Arc::clone(&b), Arc::clone(&g), Arc::clone(&a), Arc::clone(&d));
                async move {
                    if packet.payload == "works" {
                        b.notify_one();
                        g.notified().await;
                        d.notify_one();
                    } else {
                        a.notify_one();
                    }
                    packet.reply(pattern(10 << 10))
                }
            };
            session.serve_requests(answer).await
        }
    })
    .await;
    let client = serving.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(ask(client.clone(), "works"));
    within(begun.notified()).await;
    let session = serving.server.session(serving.server.active_sessions()[0]).unwrap();
    // All the room that there is: the next answer has to wait for some.
    let permit = within(session.reserve(99 << 10)).await.unwrap();
    tasks.spawn(ask(client.clone(), "answers at once"));
    within(answered.notified()).await;
    go.notify_one();
    within(done.notified()).await;
    assert_eq!(session.open_requests(), 2, "neither answer has its room");
    drop(permit);
    for answer in within(tasks.join_all()).await {
        assert_eq!(answer.unwrap().payload, pattern(10 << 10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_sees_that_a_request_was_given_up() {
    for kind in Kind::ALL {
        let (say, mut said) = tokio::sync::mpsc::channel(1);
        let serving = Serving::with(kind, TransportServerBuilder::new(), move |mut session: Session| {
            let say = say.clone();
            async move {
                while let Some(packet) = session.recv().await? {
                    if packet.payload == "give up" {
                        let before = session.is_cancelled(&packet);
                        say.send(before).await.unwrap();
                        while !session.is_cancelled(&packet) {
                            tokio::task::yield_now().await;
                        }
                        say.send(true).await.unwrap();
                    }
                    // An answer that nobody wants does no harm.
                    session.send(packet.reply("done")).await?;
                    assert!(!session.is_cancelled(&packet), "it is over");
                }
                Ok(())
            }
        })
        .await;
        let client = serving.client().await;
        {
            let asking = client.request("give up").into_future();
            tokio::select! {
                answer = asking => panic!("{answer:?}"),
                before = within(said.recv()) => assert_eq!(before, Some(false), "{kind:?}"),
            }
        }
        assert_eq!(within(said.recv()).await, Some(true), "{kind:?}");
        assert_eq!(within(ask(client.clone(), "now")).await.unwrap().payload, "done", "{kind:?}");
    }
}
