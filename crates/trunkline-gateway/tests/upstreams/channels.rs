//! HTTP/2 connections to one instance: more where it takes no more calls on those that are there, and no more than that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use trunkline_gateway::upstream::{Address, Dial, Stream, UpstreamOptions, Upstreams};

use crate::fake::{Bench, Fake, Mode, Net, call, caller, fixed, registration, within};

/// Calls that run in tasks of their own until they are answered or the set is dropped.
fn calls(router: &Arc<Upstreams>, count: usize) -> JoinSet<String> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let router = router.clone();
        calls.spawn(async move {
            let reply = router.call(&caller(), call("put")).await;
            reply.map_or_else(|status| status.to_string(), |reply| reply.code.to_string())
        });
    }
    calls
}

/// An instance in service that lets so many requests run on each connection, and does this with calls.
async fn instance(streams: u32, mode: Mode, change: impl FnOnce(&mut UpstreamOptions)) -> (Bench, Arc<Fake>) {
    let bench = Bench::new(change);
    let fake = Fake::new("u1:1");
    *fake.streams.lock() = streams;
    fake.set(mode);
    bench.net.listen(&fake);
    bench.register(registration("u1:1", "003")).await;
    bench.until_state("u1:1", "up").await;
    (bench, fake)
}

/// One with four that answers none of its calls, and slowness ejects nobody.
async fn hanging(channels: usize) -> (Bench, Arc<Fake>) {
    let patient = |options: &mut UpstreamOptions| {
        options.channels = channels;
        options.health.slow_after = None;
        options.call_timeout = Duration::from_secs(3_600);
    };
    instance(4, Mode::Hang, patient).await
}

fn connections(bench: &Bench) -> usize {
    bench.router.snapshot().instances[0].connections
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_takes_no_more_on_a_connection_gets_another() {
    let (bench, fake) = hanging(5).await;
    let _few = calls(&bench.router, 3);
    fake.until(|seen| seen.running == 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(connections(&bench), 1, "a stream is left for the probes, and three are enough");
    let many = calls(&bench.router, 20);
    fake.until(|seen| seen.running == 15).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((connections(&bench), fake.seen.lock().connections), (5, 5), "as many as may be");
    assert_eq!(fake.seen.lock().running, 15, "the others wait");
    fake.set(Mode::Good);
    drop(many);
    fake.until(|seen| seen.running == 3).await;
    for _ in 0..20 {
        assert_eq!(bench.who("put").await, "u1:1");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_not_needed_any_more_are_given_up() {
    let (bench, fake) = hanging(5).await;
    let many = calls(&bench.router, 15);
    fake.until(|seen| seen.running == 15).await;
    drop(many);
    fake.until(|seen| seen.running == 0).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(connections(&bench), 5, "they may be needed again");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(connections(&bench), 1, "one stays");
    assert_eq!(fake.seen.lock().connections, 5, "it is the same");
}

#[tokio::test(start_paused = true)]
async fn calls_on_every_stream_keep_no_probe_away() {
    let (bench, fake) = hanging(1).await;
    let mut calls = calls(&bench.router, 50);
    fake.until(|seen| seen.running == 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let instance = bench.router.snapshot().instances.remove(0);
    assert_eq!((instance.state, instance.why.as_str(), instance.in_flight), ("up", "", 50));
    assert!(calls.try_join_next().is_none(), "none has failed");
    bench.net.deafen(&fake);
    fake.kill();
    within("its being down", bench.router.until(|all| all[0].state == "down")).await;
}

/// One call and one probe: nobody needs more for calls that come one after the other.
#[tokio::test(start_paused = true)]
async fn calls_one_after_the_other_need_one_connection_however_few_streams_it_has() {
    for streams in [1, 2] {
        let often = |options: &mut UpstreamOptions| options.health.probe_interval = Duration::from_millis(3);
        let (bench, fake) = instance(streams, Mode::Slow(Duration::from_millis(2)), often).await;
        for _ in 0..200 {
            assert_eq!(bench.who("put").await, "u1:1");
        }
        assert_eq!(fake.seen.lock().connections, 1, "{streams} streams");
    }
}

/// On several threads, with callers that go away: no call waits for a stream while there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_come_and_go_on_few_streams_are_all_answered() {
    let (bench, _fake) =
        instance(3, Mode::Slow(Duration::from_millis(1)), |options| options.channels = 3).await;
    for _ in 0..20 {
        let mut going = calls(&bench.router, 40);
        let mut staying = calls(&bench.router, 40);
        // Some of them run, some wait.
        assert_eq!(within("a call", staying.join_next()).await.unwrap().unwrap(), "200");
        going.abort_all();
        while let Some(ended) = within("the calls", staying.join_next()).await {
            assert_eq!(ended.unwrap(), "200");
        }
        // Each round begins on connections that are at rest.
        while within("those that go", going.join_next()).await.is_some() {}
    }
    assert!(connections(&bench) <= 3);
}

/// A network on which only the first connection is answered.
struct OnlyOne {
    net: Net,
    dialled: Arc<AtomicUsize>,
    silent: Mutex<Vec<tokio::io::DuplexStream>>,
}

#[async_trait]
impl Dial for OnlyOne {
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Stream>> {
        if self.dialled.fetch_add(1, Ordering::Relaxed) == 0 {
            return self.net.dial(address).await;
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.silent.lock().push(theirs);
        Ok(Box::new(ours))
    }
}

#[tokio::test(start_paused = true)]
async fn a_further_connection_that_is_not_answered_gets_no_call_and_is_not_asked_for_with_each() {
    let bench = Bench::new(|_| {});
    let fake = Fake::new("u1:1");
    *fake.streams.lock() = 2;
    fake.set(Mode::Slow(Duration::from_millis(100)));
    bench.net.listen(&fake);
    let dialled = Arc::new(AtomicUsize::new(0));
    let dial = OnlyOne { net: bench.net.clone(), dialled: dialled.clone(), silent: Mutex::default() };
    let mut options =
        UpstreamOptions { statics: vec![fixed(&registration("u1:1", "*"))], ..Default::default() };
    options.health.slow_after = None;
    let router = Upstreams::with_dial(options, bench.broker.clone(), Arc::new(dial));
    within("its being up", router.until(|all| all[0].state == "up")).await;
    let mut calls = calls(&router, 100);
    while let Some(ended) = within("the calls", calls.join_next()).await {
        assert_eq!(ended.unwrap(), "200", "one after the other");
    }
    let further = dialled.load(Ordering::Relaxed) - 1;
    assert!((1..=10).contains(&further), "{further} in the ten seconds that they took");
    assert_eq!(router.snapshot().instances[0].connections, 1);
}
