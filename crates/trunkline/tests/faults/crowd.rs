//! The healthy clients: they call on a schedule and listen to a room, on every transport, from a thread of their own, so
//! that those who misbehave share the machine with them and nothing else.
//!
//! A call's time counts from when it was due, so a stall is not forgiven by asking less while it lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use trunkline_client::{Client, ClientTls, Event, Options, Pushes};
use trunkline_proto::wire::ServicePublishRequest;
use trunkline_testkit::{DEADLINE, Ready, TestUpstream};

use crate::rig::Rig;
use crate::steady::Ended;

/// How often each client calls.
const EVERY: Duration = Duration::from_millis(100);

/// How often somebody publishes, in one room after the other.
const NEWS: Duration = Duration::from_millis(100);

/// A publication to all clients at once would hold up some calls, and their p99 would tell of nothing else.
const ROOMS: usize = 10;

fn room(number: usize) -> String {
    format!("room:healthy{}", number % ROOMS)
}

/// A running crowd.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

struct Shared {
    /// When each call ended, and how long it took.
    times: Mutex<Vec<Ended>>,
    calls: AtomicU64,
    heard: AtomicU64,
    /// What went wrong, which must be nothing.
    wrong: Mutex<Vec<String>>,
    /// How many publications each room has got, once there are no more.
    last: watch::Sender<Option<u64>>,
    stop: CancellationToken,
}

impl Crowd {
    /// Starts so many clients, their upstream and their publisher; returns when all are at work.
    pub(crate) async fn start(rig: &Rig, clients: usize) -> Crowd {
        let shared = Arc::new(Shared {
            times: Mutex::default(),
            calls: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            wrong: Mutex::default(),
            last: watch::Sender::new(None),
            stop: CancellationToken::new(),
        });
        let users: Vec<_> = (0..clients).map(|number| format!("healthy{number}")).collect();
        let users = users.into_iter().map(|user| (rig.token(&user), user)).collect();
        let (begun, working) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        let (ready, theirs) = (rig.server.ready().clone(), Arc::clone(&shared));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(theirs.live(ready, users, begun));
            let _ = over.send(());
        });
        working.await.expect("the crowd does not start");
        Crowd { shared, ended }
    }

    /// The calls that have ended since this was asked before.
    pub(crate) fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.shared.times.lock())
    }

    /// What has gone wrong so far.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().clone()
    }

    /// Ends it, once everybody has heard everything; calls made, publications heard, and what went wrong.
    pub(crate) async fn stop(self) -> (u64, u64, Vec<String>) {
        self.shared.stop.cancel();
        timeout(DEADLINE, self.ended).await.expect("a healthy client hangs").expect("the crowd has failed");
        (self.shared.calls.load(Relaxed), self.shared.heard.load(Relaxed), self.shared.wrong.lock().clone())
    }
}

impl Shared {
    async fn live(self: Arc<Self>, ready: Ready, users: Vec<(String, String)>, begun: oneshot::Sender<()>) {
        // It lives until the last call has its answer.
        let upstream = Arc::new(TestUpstream::registered(ready.grpc().unwrap()).await.unwrap());
        let mut tasks = JoinSet::new();
        let mut clients = Vec::new();
        for (at, (token, user)) in users.into_iter().enumerate() {
            let client = Client::connect(options(&ready, at, &user, &token)).await.unwrap();
            let mut pushes = client.pushes();
            assert!(matches!(pushes.next().await, Some(Event::Started(_))), "{user} is not started");
            client.subscribe(&room(at), None).await.unwrap();
            tasks.spawn(Arc::clone(&self).listen(user, pushes));
            clients.push(client);
        }
        let start = Instant::now();
        let step = EVERY / u32::try_from(clients.len()).expect("some clients");
        for (at, client) in clients.iter().enumerate() {
            let due = start + step * u32::try_from(at).expect("some clients");
            tasks.spawn(Arc::clone(&self).call(client.clone(), due));
        }
        tasks.spawn(Arc::clone(&self).publish(Arc::clone(&upstream)));
        let _ = begun.send(());
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.wrong(format!("a task has failed: {error}"));
            }
        }
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().push(what);
    }

    /// Calls when it is due, until it is told to stop.
    async fn call(self: Arc<Self>, client: Client, mut due: Instant) {
        while !self.stop.is_cancelled() {
            sleep_until(due).await;
            let data = due.elapsed().as_nanos().to_string();
            match client.call("echo").data(data.clone()).timeout(DEADLINE).send().await {
                Ok(reply) if reply.code == 200 && reply.data == data => {}
                other => self.wrong(format!("a call was answered {other:?}")),
            }
            self.times.lock().push(Ended { at: std::time::Instant::now(), took: due.elapsed() });
            self.calls.fetch_add(1, Relaxed);
            due += EVERY;
        }
    }

    /// Publishes consecutive numbers in each room until it is told to stop, then says which was the last.
    async fn publish(self: Arc<Self>, upstream: Arc<TestUpstream>) {
        let mut ticks = interval(NEWS);
        let mut number = 0_u64;
        loop {
            let last = self.stop.is_cancelled();
            number += 1;
            for at in 0..ROOMS {
                ticks.tick().await;
                let data = number.to_be_bytes().to_vec().into();
                let request =
                    ServicePublishRequest { channel: room(at), data, ..ServicePublishRequest::default() };
                match upstream.gateway().publish(request).await {
                    Ok(placed) if placed.get_ref().error.is_none() => {}
                    other => self.wrong(format!("a publication was answered {other:?}")),
                }
            }
            if last {
                self.last.send_replace(Some(number));
                return;
            }
        }
    }

    /// Hears every number once and in order, to the last.
    async fn listen(self: Arc<Self>, user: String, mut pushes: Pushes) {
        let mut last = self.last.subscribe();
        let mut heard = 0;
        loop {
            if last.borrow_and_update().is_some_and(|last| heard >= last) {
                return;
            }
            let event = tokio::select! {
                event = pushes.next() => event,
                _ = last.changed() => continue,
            };
            match event {
                Some(Event::Publication(publication)) => {
                    let bytes = publication.data.first_chunk().expect("the crowd's own publication");
                    let number = u64::from_be_bytes(*bytes);
                    if number != heard + 1 {
                        self.wrong(format!("{user} heard {number} after {heard}"));
                    }
                    heard = number;
                    self.heard.fetch_add(1, Relaxed);
                }
                other => {
                    self.wrong(format!("{user} was told {other:?}"));
                    if other.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// The transports in turn, with the certificate pinned.
fn options(ready: &Ready, at: usize, user: &str, token: &str) -> Options {
    let (tcp, http, quic) = (ready.tcp().unwrap(), ready.http().unwrap(), ready.quic().unwrap());
    let endpoints = [
        format!("tcp://{tcp}"),
        format!("ws://{http}/ws"),
        format!("tls://{tcp}"),
        format!("wss://{http}/ws"),
        format!("quic://{quic}"),
        format!("wt://{quic}"),
    ];
    let mut options = Options::new(user, token).endpoint(endpoints[at % endpoints.len()].parse().unwrap());
    options.tls = Some(ClientTls::pinned(vec![ready.certificate().unwrap()]).unwrap());
    options
}
