//! A6, A11 and D6: the end in order.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use trunkline_transport::{
    BoxFuture, CloseReason, Handshake, Middleware, Refusal, RequestError, Session, ShutdownReport,
    TransportEvent, TransportServer, TransportServerBuilder,
};

use crate::harness::{Kind, Serving, echo, within};

/// A server whose requests take until there are permits.
async fn waiting(kind: Kind, within: Duration) -> (Serving, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&go);
    let builder = TransportServerBuilder::new().graceful_shutdown(within);
    let serving = Serving::with(kind, builder, move |mut session: Session| {
        let go = Arc::clone(&shared);
        async move {
            session
                .serve_requests(move |_, packet| {
                    let go = Arc::clone(&go);
                    async move {
                        go.acquire().await.unwrap().forget();
                        packet.reply(packet.payload.clone())
                    }
                })
                .await
        }
    })
    .await;
    (serving, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_and_d6_a_shutdown_answers_what_is_in_flight() {
    for kind in Kind::ALL {
        let (serving, go) = waiting(kind, Duration::from_secs(60)).await;
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..64_u32 {
            let client = client.clone();
            tasks.spawn(async move {
                let answer = client.request(i.to_be_bytes().to_vec()).timeout(Duration::from_secs(60)).await;
                assert_eq!(answer.unwrap().payload, i.to_be_bytes()[..]);
            });
        }
        within(async {
            while serving.server.stats().received_requests < 64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let server = serving.server.clone();
        let mut shutdown = tokio::task::JoinSet::new();
        shutdown.spawn(async move { server.shutdown().await });
        // The client is told, and asks nothing new on this connection.
        within(async {
            loop {
                if let TransportEvent::GoingAway { code: 1001, .. } = events.next().await.unwrap() {
                    break;
                }
            }
        })
        .await;
        let new = within(async { client.request("new").await }).await;
        assert_eq!(new, Err(RequestError::GoingAway), "{kind:?}");
        go.add_permits(64);
        within(tasks.join_all()).await;
        let report = within(shutdown.join_next()).await.unwrap().unwrap();
        assert!(report.is_clean(), "{kind:?}: {report:?}");
        assert_eq!((report.sessions, report.drained), (1, 1));
        within(async {
            loop {
                if let TransportEvent::ConnectionClosed { reason, .. } = events.next().await.unwrap() {
                    assert!(matches!(reason, CloseReason::Peer { code: 1001, .. }), "{kind:?}: {reason}");
                    break;
                }
            }
        })
        .await;
        // Nobody is let in any more.
        assert!(within(client.connect()).await.is_err(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_what_is_over_the_time_is_cut_and_listed() {
    let (serving, go) = waiting(Kind::Tcp, Duration::from_millis(300)).await;
    let quick = serving.client().await;
    let slow = serving.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let slow = slow.clone();
        tasks.spawn(async move { slow.request("never").await });
    }
    within(async {
        while serving.server.stats().received_requests < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let report = within(serving.server.shutdown()).await;
    drop((go, quick));
    assert_eq!((report.sessions, report.drained), (2, 1), "{report:?}");
    assert_eq!(report.cut.len(), 1);
    assert_eq!(report.cut[0].requests.len(), 3, "{report:?}");
    for answer in within(tasks.join_all()).await {
        assert!(matches!(answer, Err(RequestError::Disconnected(_))), "{answer:?}");
    }
    assert_eq!(serving.server.session_count(), 0);
    let again = within(serving.server.shutdown()).await;
    assert_eq!(again.sessions, 0);
}

/// Shuts its server down while somebody is at the door, and lets him in.
#[derive(Clone, Default)]
struct ShutsDown {
    server: Arc<Mutex<Option<TransportServer>>>,
    under_way: Arc<Mutex<Option<BoxFuture<'static, ShutdownReport>>>>,
}

impl Middleware for ShutsDown {
    fn on_handshake<'a>(&'a self, _: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let server = self.server.lock().take();
            if let Some(server) = server {
                let mut shutdown: BoxFuture<'static, ShutdownReport> =
                    Box::pin(async move { server.shutdown().await });
                // Its first turn: it says so, and looks who is there.
                assert!(futures_util::poll!(&mut shutdown).is_pending());
                *self.under_way.lock() = Some(shutdown);
            }
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_while_the_server_shuts_down_is_sent_away() {
    for kind in [Kind::Tcp, Kind::Tls, Kind::Unix, Kind::Memory, Kind::Custom] {
        let door = ShutsDown::default();
        let builder = TransportServerBuilder::new().graceful_shutdown(Duration::from_secs(600));
        let serving = Serving::with(kind, builder.with_middleware(door.clone()), echo).await;
        *door.server.lock() = Some(serving.server.clone());
        let client = serving.client().await;
        if let Some(session) = client.session() {
            let reason = within(session.closed()).await;
            let is_lost = matches!(reason, CloseReason::Ended | CloseReason::Lost(_));
            assert!(is_lost || matches!(reason, CloseReason::Peer { code: 1001, .. }), "{kind:?}: {reason}");
        }
        within(async {
            while door.under_way.lock().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let shutdown = door.under_way.lock().take().unwrap();
        let report = within(shutdown).await;
        assert!(report.is_clean() && report.sessions == 0, "{kind:?}: {report:?}");
        assert_eq!(serving.server.session_count(), 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_holds_up_no_shutdown() {
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let waits = Arc::new(Mutex::new(waits));
    let begun = Arc::new(Semaphore::new(0));
    let (say, blocks) = (Arc::clone(&begun), Arc::clone(&waits));
    let builder = TransportServerBuilder::new().graceful_shutdown(Duration::from_millis(50));
    let serving = Serving::with(Kind::Tcp, builder, move |mut session: Session| {
        let (say, blocks) = (Arc::clone(&say), Arc::clone(&blocks));
        async move {
            let request = session.recv().await?.expect("a request");
            say.add_permits(1);
            // Until the test lets it go, or has failed.
            assert!(blocks.lock().recv().is_err());
            session.send(request.reply("late")).await?;
            Ok(())
        }
    })
    .await;
    let client = serving.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { client.request("x").await });
    within(begun.acquire()).await.unwrap().forget();
    let report = within(serving.server.shutdown()).await;
    assert_eq!((report.sessions, report.drained), (1, 0), "{report:?}");
    assert_eq!(report.cut.iter().map(|cut| cut.requests.len()).collect::<Vec<_>>(), [1], "{report:?}");
    drop(go);
    within(tasks.join_all()).await;
}

/// Runs itself once more in a process of its own, where nobody else opens files.
#[test]
fn a11_connections_that_come_and_go_leave_nothing() {
    const NAME: &str = "shutdown::a11_connections_that_come_and_go_leave_nothing";
    const CHILD: &str = "TRUNKLINE_TEST_ALONE";
    if std::env::var_os(CHILD).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(text.matches("nothing left of").count(), Kind::ALL.len(), "{text}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in Kind::ALL {
            let serving = Serving::echo(kind).await;
            // What is made once and kept.
            come_and_go(&serving, 6).await;
            let before = at_rest(&serving).await;
            come_and_go(&serving, 60).await;
            within(async {
                loop {
                    let now = at_rest(&serving).await;
                    // The last of the first may have been about to end.
                    if now.0 <= before.0 && now.1 <= before.1 && now.2 == 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            println!("nothing left of {kind:?}: {before:?}");
        }
    });
}

async fn come_and_go(serving: &Serving, count: u32) {
    for i in 0..count {
        let client = serving.client().await;
        if i % 3 == 0 {
            within(async { client.request("x").await }).await.unwrap();
        }
        if i % 2 == 0 {
            client.disconnect().await;
        }
    }
}

/// Descriptors, tasks and queued bytes, once no connection is left.
async fn at_rest(serving: &Serving) -> (usize, usize, usize) {
    within(async {
        while serving.server.session_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    (descriptors, tasks, serving.server.queued_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_closing_arrives() {
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new(), |mut session: Session| async move {
            let _hello = session.recv().await?;
            for i in 0..50_u32 {
                session.send(vec![i as u8; 5_000]).await?;
            }
            session.close(4321, "that was all");
            Ok(())
        })
        .await;
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        client.send("hello").await.unwrap();
        let mut next = 0;
        within(async {
            loop {
                match events.next().await.unwrap() {
                    TransportEvent::MessageReceived { packet, .. } => {
                        assert_eq!(packet.payload, vec![next; 5_000]);
                        next += 1;
                    }
                    TransportEvent::ConnectionClosed { reason, .. } => {
                        let told = CloseReason::Peer { code: 4321, reason: "that was all".to_owned() };
                        assert_eq!(reason, told, "{kind:?}");
                        break;
                    }
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(next, 50, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_waits_for_the_link_and_the_end_of_a_client_is_told() {
    for kind in Kind::ALL {
        let serving = Serving::echo(kind).await;
        let client = serving.client().await;
        let session = client.session().unwrap();
        within(session.send(vec![1; 500_000]).flushed()).await.unwrap();
        // A heartbeat may have been queued since.
        assert!(session.queued_bytes() < 1000, "{kind:?}");
        let closed = {
            let session = session.clone();
            async move { session.closed().await }
        };
        client.disconnect().await;
        assert!(matches!(within(closed).await, CloseReason::Closed { code: 1000, .. }));
        assert!(session.send("late").await.is_err());
    }
}
