//! A storm in small: clients are cut at random bytes again and again while pushes and calls run, and the history
//! checker says whether every promise held. The full size is `./prove storm`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use trunkline_client::{Backoff, CallError, Client, Event, Options};
use trunkline_testkit::chaos::{Ending, TcpFaults, TcpProxy};
use trunkline_testkit::checker::{End, History, Place, Seen};
use trunkline_testkit::{DEADLINE, TestUpstream};

use crate::common::open_server;

/// Clients, rounds of cutting them all, and publications in each round. `./prove storm` asks for more of each.
const USUAL: Size = Size { clients: 50, cuts: 5, pushes: 20 };

struct Size {
    clients: usize,
    cuts: usize,
    pushes: usize,
}

impl Size {
    fn asked() -> Size {
        let number = |name: &str, usual| match std::env::var(name) {
            Ok(text) => text.parse().expect(name),
            Err(_) => usual,
        };
        Size {
            clients: number("STORM_CLIENTS", USUAL.clients),
            cuts: number("STORM_CUTS", USUAL.cuts),
            pushes: number("STORM_PUSHES", USUAL.pushes),
        }
    }

    /// How much longer than the usual storm it may take.
    fn patience(&self) -> u32 {
        let more = self.clients.div_ceil(USUAL.clients) * self.cuts.div_ceil(USUAL.cuts);
        u32::try_from(more).expect("a storm of some size")
    }
}

/// One record for all parties.
type Record = Arc<Mutex<History>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_cut_at_random_bytes_lose_nothing_untold() {
    let size = Size::asked();
    let (server, upstream) = open_server().await;
    // A START, its answer and its proof are about 700 bytes: some connections die within them, some long after.
    let faults = TcpFaults { cut_after: Some(400..20_000), ending: Ending::Reset, ..TcpFaults::default() };
    let calm = TcpFaults::default();
    let proxy = TcpProxy::start(server.ready().tcp().unwrap(), 42, calm.clone()).await.unwrap();
    let record: Record = Arc::default();
    let mut clients = Vec::new();
    let mut readers = JoinSet::new();
    for number in 0..size.clients {
        let user = format!("storm{number}");
        let mut options =
            Options::new(user.as_str(), "").endpoint(format!("tcp://{}", proxy.address()).parse().unwrap());
        options.backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
        let client = Client::connect(options).await.unwrap();
        let subscribed = client.subscribe("room:storm", None).await.unwrap().position;
        let after = Place { epoch: subscribed.epoch, offset: subscribed.offset };
        record.lock().saw(Seen::Subscribed { client: user.clone(), channel: subscribed.channel, after });
        readers.spawn(read(client.clone(), user.clone(), Arc::clone(&record)));
        clients.push((user, client));
    }
    proxy.set_faults(faults);
    proxy.cut_all(Ending::Reset);
    let work = async {
        for round in 0..size.cuts {
            let mut calls = JoinSet::new();
            for (user, client) in &clients {
                calls.spawn(call(client.clone(), user.clone(), round, Arc::clone(&record)));
            }
            for number in 0..size.pushes {
                publish(&upstream, format!("{round}/{number}"), &record).await;
            }
            proxy.cut_all(Ending::Reset);
            while let Some(called) = calls.join_next().await {
                called.unwrap();
            }
        }
    };
    tokio::time::timeout(DEADLINE * 4 * size.patience(), work).await.expect("the storm does not end");
    // Calm again: everybody catches up with the last publication.
    proxy.set_faults(calm);
    proxy.cut_all(Ending::Close);
    publish(&upstream, "last".into(), &record).await;
    let finished = async { while readers.join_next().await.is_some() {} };
    tokio::time::timeout(DEADLINE * 2 * size.patience(), finished)
        .await
        .expect("somebody never hears the last");
    let accepted = proxy.accepted();
    let mut history = std::mem::take(&mut *record.lock());
    for request in upstream.requests() {
        if let Some(call) = request.params.get("key") {
            history.saw(Seen::Ran { call: call.clone() });
        }
    }
    let summary =
        history.check().unwrap_or_else(|violations| panic!("{}: {violations:#?}", violations.len()));
    println!("{summary:?} over {accepted} connections");
    assert_eq!(summary.accepted, size.cuts * size.pushes + 1);
    assert!(summary.delivered + summary.told_lost >= size.clients * summary.accepted, "{summary:?}");
    assert!(accepted as usize > size.clients * 2, "there was no storm: {accepted} connections");
}

/// Publishes as a service and records the place.
async fn publish(upstream: &TestUpstream, content: String, record: &Record) {
    let request = trunkline_proto::wire::ServicePublishRequest {
        channel: "room:storm".into(),
        data: content.clone().into(),
        ..Default::default()
    };
    let placed = upstream.gateway().publish(request).await.unwrap().into_inner();
    assert!(placed.error.is_none(), "{placed:?}");
    let at = Place { epoch: placed.epoch, offset: placed.offset };
    record.lock().saw(Seen::Accepted { channel: "room:storm".into(), at, content });
}

async fn call(client: Client, user: String, round: usize, record: Record) {
    let call = format!("{user}/{round}");
    record.lock().saw(Seen::Called { client: user, call: call.clone() });
    let answer = client.call("count").param("key", call.as_str()).timeout(DEADLINE * 2).send().await;
    let end = match answer {
        Ok(reply) => {
            assert_eq!(reply.data, "1", "{call} ran more than once");
            End::Reply
        }
        Err(CallError::ResultUnknown(_)) => End::Unknown,
        Err(CallError::Refused(_)) => End::Error,
        Err(other) => panic!("{call}: {other}"),
    };
    record.lock().saw(Seen::Ended { call, end });
}

/// Records what a client is told, until it hears the last publication.
async fn read(client: Client, user: String, record: Record) {
    let mut pushes = client.pushes();
    while let Some(event) = pushes.next().await {
        let mut record = record.lock();
        match event {
            Event::Publication(publication) => {
                let at = Place { epoch: publication.position.epoch, offset: publication.position.offset };
                let content = String::from_utf8_lossy(&publication.data).into_owned();
                let last = content == "last";
                let channel = publication.position.channel;
                record.saw(Seen::Delivered { client: user.clone(), channel, at, content });
                if last {
                    return;
                }
            }
            Event::Gap(gap) if gap.from.channel == "room:storm" => {
                let after = Place { epoch: gap.from.epoch, offset: gap.from.offset };
                let next = gap.next.map(|next| Place { epoch: next.epoch, offset: next.offset });
                record.saw(Seen::Gap { client: user.clone(), channel: gap.from.channel, after, next });
            }
            Event::Closed(closed) => panic!("{user} was closed: {closed}"),
            _ => {}
        }
    }
    panic!("{user}'s events have ended");
}
