//! Instances that fail, hang, die and return. All times are virtual.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_gateway::upstream::InstanceSnapshot;
use trunkline_service::Code;

use crate::fake::{Bench, Fake, Health, Mode, call, caller, registration, within};

/// Check U2's limit, for a fault to take an instance out of service.
const U2: Duration = Duration::from_secs(2);

/// Calls at a steady rate, none of which waits for another. Ends them all when dropped.
struct Load {
    _tasks: JoinSet<()>,
}

impl Load {
    fn begin(bench: &Bench) -> Self {
        let router = bench.router.clone();
        let mut load = JoinSet::new();
        load.spawn(async move {
            let mut calls = JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                let router = router.clone();
                calls.spawn(async move {
                    let _whatever = router.call(&caller(), call("put")).await;
                });
            }
        });
        Load { _tasks: load }
    }
}

/// One of three turns bad under load: out within 2 s, back after it is well.
async fn u2(mode: Mode, why: &str) {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(3, "003").await;
    let _load = Load::begin(&bench);
    fakes[1].until(|seen| seen.calls.len() > 5).await;
    fakes[1].set(mode);
    let fault = Instant::now();
    let gone = |all: &[InstanceSnapshot]| all[1].state != "up";
    within("its ejection", bench.router.until(gone)).await;
    assert!(fault.elapsed() <= U2, "out of service after {:?}", fault.elapsed());
    let snapshot = bench.router.snapshot();
    assert!(snapshot.instances[1].why.contains(why), "{:?}", snapshot.instances[1]);
    assert!([0, 2].iter().all(|at| snapshot.instances[*at].state == "up"), "the others serve on");
    fakes[1].set(Mode::Good);
    bench.until_states(&["up"; 3]).await;
    let before = fakes[1].calls();
    fakes[1].until(|seen| seen.calls.len() > before + 5).await;
}

#[tokio::test(start_paused = true)]
async fn u2_an_instance_that_hangs_is_ejected_within_2_s_and_returns() {
    u2(Mode::Hang, "slow").await;
}

#[tokio::test(start_paused = true)]
async fn u2_an_instance_that_is_5_s_slow_is_ejected_within_2_s_and_returns() {
    u2(Mode::Slow(Duration::from_secs(5)), "slow").await;
}

#[tokio::test(start_paused = true)]
async fn u2_an_instance_that_fails_half_its_calls_is_ejected_within_2_s_and_returns() {
    u2(Mode::HalfFail, "fail").await;
}

#[tokio::test(start_paused = true)]
async fn u2_an_instance_that_fails_all_its_calls_is_ejected_within_2_s_and_returns() {
    u2(Mode::Fail(tonic::Code::Internal), "fail").await;
}

#[tokio::test(start_paused = true)]
async fn u2_an_instance_that_answers_nothing_at_all_is_out_within_2_s_and_returns() {
    u2(Mode::Silent, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_is_slow_by_nature_stays_in_service() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(3, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Slow(Duration::from_secs(4))));
    let _load = Load::begin(&bench);
    fakes[0].until(|seen| seen.calls.len() > 200).await;
    assert!(bench.router.snapshot().instances.iter().all(|one| one.ejections == 0));
}

#[tokio::test(start_paused = true)]
async fn u1_killing_one_of_three_fails_no_idempotent_call() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(3, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Slow(Duration::from_millis(30))));
    let mut calls = JoinSet::new();
    for worker in 0..32 {
        let router = bench.router.clone();
        calls.spawn(async move {
            let mut failed = Vec::new();
            for _ in 0..60 {
                let action = if worker % 2 == 0 { "get.thing" } else { "put" };
                if let Err(status) = router.call(&caller(), call(action)).await {
                    failed.push((action, status));
                }
            }
            failed
        });
    }
    fakes[0].until(|seen| seen.calls.len() > 100 && seen.running > 5).await;
    let running = bench.router.snapshot().instances[0].in_flight as usize;
    bench.net.deafen(&fakes[0]);
    fakes[0].kill();
    let mut failed = Vec::new();
    while let Some(worker) = within("the workers", calls.join_next()).await {
        failed.extend(worker.unwrap());
    }
    assert!(failed.iter().all(|(action, _)| *action == "put"), "idempotent calls failed: {failed:?}");
    assert!(failed.len() <= running, "only what was running there: {} of {running}", failed.len());
    assert!(failed.iter().all(|(_, status)| status.code == Code::UpstreamFailed), "{failed:?}");
    assert_ne!(bench.router.snapshot().instances[0].state, "up");
    bench.net.listen(&fakes[0]);
    fakes[0].set(Mode::Good);
    let _load = Load::begin(&bench);
    bench.until_states(&["up"; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_lone_instance_that_restarts() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    bench.net.deafen(&fake);
    fake.kill();
    bench.until_states(&["down"]).await;
    let router = bench.router.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { router.call(&caller(), call("put")).await });
    tokio::task::yield_now().await;
    bench.net.listen(&fake);
    let reply = within("the call", waiting.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().data, "u1:1");
}

#[tokio::test(start_paused = true)]
async fn a_lone_instance_that_stays_away_is_a_503_after_a_second() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    bench.net.deafen(&fake);
    fake.kill();
    bench.until_states(&["down"]).await;
    let lost = Instant::now();
    let status = bench.call("put").await.unwrap_err();
    assert_eq!(status.code, Code::Overloaded);
    assert!(lost.elapsed() <= Duration::from_secs(1), "{:?}", lost.elapsed());
    let at_once = Instant::now();
    assert_eq!(bench.call("put").await.unwrap_err().code, Code::Overloaded);
    assert!(at_once.elapsed() <= Duration::from_secs(1));
    tokio::time::advance(Duration::from_secs(2)).await;
    let at_once = Instant::now();
    assert_eq!(bench.call("put").await.unwrap_err().code, Code::Overloaded);
    assert_eq!(at_once.elapsed(), Duration::ZERO, "nobody waits for one that is known to be dead");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_ejected_all_are_used() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(2, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Fail(tonic::Code::Internal)));
    while bench.router.snapshot().instances.iter().any(|one| one.state == "up") {
        assert_eq!(bench.call("put").await.unwrap_err().code, Code::UpstreamFailed);
    }
    let before: usize = fakes.iter().map(|fake| fake.calls()).sum();
    for _ in 0..20 {
        assert_eq!(bench.call("put").await.unwrap_err().code, Code::UpstreamFailed);
    }
    let after: usize = fakes.iter().map(|fake| fake.calls()).sum();
    assert_eq!(after - before, 20, "every call still reaches one");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_instance_gets_one_call_at_a_time() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(2, "003").await;
    fakes[0].set(Mode::Fail(tonic::Code::Internal));
    while bench.router.snapshot().instances[0].state == "up" {
        let _either = bench.call("put").await;
    }
    fakes[0].set(Mode::Hang);
    fakes[1].set(Mode::Slow(Duration::from_millis(500)));
    bench.until_state("u1:1", "half-open").await;
    let before = fakes[0].calls();
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let router = bench.router.clone();
        calls.spawn(async move { router.call(&caller(), call("put")).await.map(|reply| reply.data) });
    }
    fakes[1].until(|seen| seen.running == 49).await;
    assert_eq!(fakes[0].calls() - before, 1);
    bench.until_state("u1:1", "ejected").await;
    assert_eq!(bench.router.snapshot().instances[0].ejections, 2, "a trial that hangs ejects again");
}

#[tokio::test(start_paused = true)]
async fn what_get_status_says_counts_in_any_case() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    for bad in ["draining", "", "unhealthy", "not ok"] {
        *fake.health.lock() = Health::Says(bad);
        bench.until_states(&["down"]).await;
        *fake.health.lock() = Health::Says("Serving");
        bench.until_states(&["half-open"]).await;
    }
    for good in ["healthy", "OK", "Serving", "RUNNING"] {
        let other = Fake::new(&format!("{good}:1"));
        *other.health.lock() = Health::Says(good);
        bench.net.listen(&other);
        bench.register(registration(&other.address, "001")).await;
        bench.until_state(&other.address, "up").await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_without_get_status_is_well_when_it_can_be_connected_to() {
    let bench = Bench::new(|_| {});
    let fake = Fake::new("u1:1");
    *fake.health.lock() = Health::Unimplemented;
    bench.net.listen(&fake);
    bench.register(registration("u1:1", "003")).await;
    bench.until_states(&["up"]).await;
    assert_eq!(bench.who("echo").await, "u1:1");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_impatient_ejects_nobody() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Slow(Duration::from_millis(100)));
    for _ in 0..40 {
        let mut call = call("put");
        call.headers.insert("x-timeout-ms".into(), "1".into());
        let status = within("the timeout", bench.router.call(&caller(), call)).await.unwrap_err();
        assert_eq!(status.code, Code::UpstreamTimeout);
    }
    assert_eq!(bench.router.snapshot().instances[0].ejections, 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_registers_before_it_listens_is_waited_for() {
    let bench = Bench::new(|_| {});
    bench.register(registration("u1:1", "003")).await;
    let router = bench.router.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { router.call(&caller(), call("put")).await });
    // Longer than anything but the call's own deadline.
    tokio::time::sleep(Duration::from_secs(20)).await;
    bench.until_states(&["unprobed"]).await;
    bench.net.listen(&Fake::new("u1:1"));
    let reply = within("the call", waiting.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().data, "u1:1");
}

#[tokio::test(start_paused = true)]
async fn one_that_never_listens_is_waited_for_until_the_calls_deadline() {
    let bench = Bench::new(|_| {});
    bench.register(registration("u1:1", "003")).await;
    let begun = Instant::now();
    assert_eq!(bench.call("put").await.unwrap_err().code, Code::Overloaded, "it did not run");
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
}

/// Whoever dies with its calls running is ejected for them first; it must be found dead all the same.
#[tokio::test(start_paused = true)]
async fn an_ejected_instance_that_is_dead_is_forgotten_with_its_lease() {
    let bench = Bench::new(|options| options.lease = Duration::from_secs(10));
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Hang);
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let router = bench.router.clone();
        calls.spawn(async move { router.call(&caller(), call("put")).await.map(drop) });
    }
    fake.until(|seen| seen.calls.len() == 8).await;
    bench.net.deafen(&fake);
    fake.kill();
    while let Some(ended) = within("the calls", calls.join_next()).await {
        ended.unwrap().unwrap_err();
    }
    assert_eq!(bench.router.snapshot().instances[0].ejections, 1, "its calls failed all at once");
    let died = Instant::now();
    within("its end", bench.router.until(|all| all.is_empty())).await;
    assert!(died.elapsed() <= Duration::from_secs(30), "forgotten after {:?}", died.elapsed());
}
