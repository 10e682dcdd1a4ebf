//! Registrations: said twice, said wrong, kept over a restart, seen by other nodes, forgotten.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_broker::names::NodeId;
use trunkline_broker::{MemoryBroker, MemoryOptions, Outage};
use trunkline_proto::wire;
use trunkline_service::Code;

use crate::fake::{Bench, Fake, Mode, Net, call, caller, registration, within};

#[tokio::test(start_paused = true)]
async fn registering_twice_changes_nothing() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    for _ in 0..3 {
        let response = bench.router.register(registration("u1:1", "003")).await;
        assert!(response.success);
        assert_eq!(response.lease_ms, 600_000);
    }
    assert_eq!(bench.router.snapshot().instances.len(), 1);
    assert_eq!(bench.who("echo").await, "u1:1");
    assert_eq!(fake.seen.lock().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_address_in_a_zone_joins_the_first() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(2, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Slow(Duration::from_millis(5))));
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let router = bench.router.clone();
        calls.spawn(async move { router.call(&caller(), call("put")).await.map(|_| ()) });
    }
    while let Some(result) = within("the calls", calls.join_next()).await {
        result.unwrap().unwrap();
    }
    assert!(fakes.iter().all(|fake| fake.calls() > 10), "both serve");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_said_in_the_answer() {
    let bench = Bench::new(|options| options.max_registrations = 1);
    for (address, zone, code) in [
        ("nowhere", "001", "INVALID_ADDRESS"),
        ("0.0.0.0:9000", "001", "INVALID_ADDRESS"),
        ("u1:1", "007", "INVALID_ZONE_ID"),
        ("u1:1", "", "INVALID_ZONE_ID"),
    ] {
        let response = bench.router.register(registration(address, zone)).await;
        assert!(!response.success);
        assert_eq!(response.error_code, code);
        assert!(!response.message.is_empty());
    }
    bench.register(registration("u1:1", "001")).await;
    let response = bench.router.register(registration("u2:1", "001")).await;
    assert_eq!((response.success, response.error_code.as_str()), (false, "REGISTER_FAILED"));
    let nothing = bench.router.deregister(wire::UpstreamDeregisterRequest::default()).await;
    assert_eq!((nothing.success, nothing.error_code.as_str()), (false, "REGISTER_FAILED"));
}

fn durable(folder: &std::path::Path) -> Arc<MemoryBroker> {
    let mut options = MemoryOptions::new(NodeId(1));
    options.data_dir = Some(folder.to_owned());
    Arc::new(MemoryBroker::open(options).unwrap())
}

#[tokio::test(start_paused = true)]
async fn u3_a_restarted_gateway_routes_its_first_call_without_the_upstreams_doing() {
    let folder = tempfile::tempdir().unwrap();
    let net = Net::default();
    let before = Bench::on(net.clone(), durable(folder.path()), |_| {});
    let fake = before.fakes(1, "003").await.remove(0);
    assert_eq!(before.who("echo").await, "u1:1");
    before.router.shutdown(Instant::now() + Duration::from_secs(1)).await;
    drop(before);
    let after = Bench::on(net, durable(folder.path()), |_| {});
    assert_eq!(after.who("echo").await, "u1:1", "the very first call");
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_node_knows_every_upstream() {
    let net = Net::default();
    let one =
        Bench::on(net.clone(), Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(1))).unwrap()), |_| {});
    let two = Bench::on(net, Arc::new(one.broker.peer(NodeId(2))), |_| {});
    one.fakes(1, "003").await;
    two.until_states(&["up"]).await;
    assert_eq!(two.who("echo").await, "u1:1");
    let gone = wire::UpstreamDeregisterRequest { address: "u1:1".into(), ..Default::default() };
    assert!(two.router.deregister(gone).await.success);
    within("node one hears of it", one.router.until(<[_]>::is_empty)).await;
    assert_eq!(one.call("echo").await.unwrap_err().code, Code::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn a_deregistered_instance_ends_its_calls_and_gets_no_new_ones() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    bench.register(registration("u1:1", "001")).await;
    fake.set(Mode::Slow(Duration::from_secs(2)));
    let router = bench.router.clone();
    let mut running = JoinSet::new();
    running.spawn(async move { router.call(&caller(), call("put")).await });
    fake.until(|seen| seen.running == 1).await;
    let leave = |zone: &str| wire::UpstreamDeregisterRequest {
        address: "u1:1".into(),
        zone_id: zone.into(),
        ..Default::default()
    };
    assert!(bench.router.deregister(leave("003")).await.success);
    assert_eq!(bench.call("put").await.unwrap_err().code, Code::Overloaded);
    assert_eq!(bench.router.snapshot().instances.len(), 1, "zone 001 stays");
    let reply = within("the running call", running.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().code, 200);
    assert!(bench.router.deregister(leave("")).await.success);
    assert!(bench.router.snapshot().instances.is_empty());
    let again = bench.router.deregister(leave("")).await;
    assert!(again.success && again.message.contains("nothing"), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn deregistering_the_last_zone_does_not_cut_a_running_call() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Slow(Duration::from_secs(2)));
    let router = bench.router.clone();
    let mut running = JoinSet::new();
    running.spawn(async move { router.call(&caller(), call("put")).await });
    fake.until(|seen| seen.running == 1).await;
    let leave = wire::UpstreamDeregisterRequest { address: "u1:1".into(), ..Default::default() };
    assert!(bench.router.deregister(leave).await.success);
    let reply = within("the running call", running.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().code, 200);
}

#[tokio::test(start_paused = true)]
async fn leaving_and_coming_again_at_once_is_one_instance() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    let leave = || wire::UpstreamDeregisterRequest { address: "u1:1".into(), ..Default::default() };
    for _ in 0..5 {
        assert!(bench.router.deregister(leave()).await.success);
        bench.register(registration("u1:1", "003")).await;
    }
    assert_eq!(bench.who("echo").await, "u1:1");
    let connections = fake.seen.lock().connections;
    // Whatever the broker has to tell of it comes now, and must not end it once more.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.seen.lock().connections, connections);
    assert_eq!(bench.who("echo").await, "u1:1");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_moves_replaces_itself() {
    let bench = Bench::new(|_| {});
    let named = |address: &str, id: &str| wire::UpstreamRegisterRequest {
        instance_id: id.into(),
        ..registration(address, "003")
    };
    for address in ["old:1", "new:1"] {
        bench.net.listen(&Fake::new(address));
        bench.register(named(address, "game-7")).await;
    }
    bench.until_states(&["up"]).await;
    assert_eq!(bench.router.snapshot().instances[0].address, "new:1");
    bench.register(named("new:1", "game-8")).await;
    let instances = bench.router.snapshot().instances;
    assert_eq!(instances.len(), 1, "a new name at the old place is no second instance");
    assert_eq!(instances[0].instance, "game-8");
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_for_its_lease_is_forgotten() {
    let bench = Bench::new(|options| options.lease = Duration::from_secs(60));
    let fakes = bench.fakes(2, "003").await;
    let begun = Instant::now();
    // Long beyond the lease, both live on, and are renewed.
    tokio::time::sleep(Duration::from_secs(300)).await;
    bench.until_states(&["up"; 2]).await;
    bench.net.deafen(&fakes[0]);
    fakes[0].kill();
    bench.until_states(&["down", "up"]).await;
    let lost = Instant::now();
    within("it is forgotten", bench.router.until(|all| all.len() == 1)).await;
    assert!(lost.elapsed() >= Duration::from_secs(40), "not before its lease: {:?}", lost.elapsed());
    assert!(lost.elapsed() <= Duration::from_secs(90), "{:?}", lost.elapsed());
    assert!(begun.elapsed() >= Duration::from_secs(340));
    assert_eq!(bench.who("put").await, "u2:1");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_refuses_registrations_and_calls_go_on() {
    let bench = Bench::new(|_| {});
    bench.fakes(1, "003").await;
    bench.broker.play(Outage::Begin);
    let response = bench.router.register(registration("u2:1", "003")).await;
    assert_eq!((response.success, response.error_code.as_str()), (false, "REGISTER_FAILED"));
    assert_eq!(bench.who("echo").await, "u1:1");
    bench.broker.play(Outage::End);
    bench.net.listen(&Fake::new("u2:1"));
    bench.register(registration("u2:1", "003")).await;
    bench.until_states(&["up"; 2]).await;
}
