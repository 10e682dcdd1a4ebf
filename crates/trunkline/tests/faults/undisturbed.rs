//! Each fault in turn, with calm before and after it.

use std::sync::Arc;

use tokio::time::{Duration, interval, sleep};
use trunkline_testkit::DEADLINE;

use crate::acts;
use crate::crowd::Crowd;
use crate::figures::{figure, measured, ms, size};
use crate::machine::Gauge;
use crate::rig::Rig;
use crate::steady::{self, Compared};

/// What healthy clients may lose to a fault: a tenth of their p99.
const LIMIT: f64 = 1.10;

/// Where a series of rounds says more than that, up to so many are made.
const SERIES: usize = 4;

/// What memory may have kept of a fault: a twentieth.
const KEPT: f64 = 1.05;

/// How long memory may take to come back: the resume window, the windows of history, and what tidies up after them.
const COMES_BACK: Duration = Duration::from_secs(15);

/// Memory that grows by less than half a percent in this time is level: that in which the histories of all rooms are once
/// filled. It is waited for so many times.
const LEVEL_FOR: Duration = Duration::from_secs(20);
const LEVEL_LOOKS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn healthy_clients_notice_nothing_of_those_who_misbehave() {
    let clients = size("FAULTS_CLIENTS", 24);
    let rounds = size("FAULTS_ROUNDS", 1);
    let phase = Duration::from_millis(u64::try_from(size("FAULTS_PHASE_MS", 0)).unwrap());
    let rig = Arc::new(Rig::start().await);
    let crowd = Crowd::start(&rig, clients).await;
    // Everything once, so that what is set up for the first time is no fault's memory.
    for fault in acts::all() {
        println!("{}", fault.what);
        fault.at_once(&rig).await.unwrap();
        let wrong = crowd.wrong();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", fault.what);
    }
    if measured() {
        memory_is_level(&rig).await;
    }
    for fault in acts::all().into_iter().filter(|_| measured()) {
        sleep(phase).await;
        let before = rig.server.resident_bytes().unwrap();
        let (mut told, mut slow, mut turn) = (Vec::new(), Vec::new(), 0);
        loop {
            let (mut calm, mut disturbed) = (Vec::new(), Vec::new());
            let gauge = Gauge::start();
            for _ in 0..rounds {
                crowd.take();
                sleep(phase).await;
                calm.push(crowd.take());
                fault.in_turns(&rig, phase, &mut turn).await.unwrap();
                disturbed.push(crowd.take());
            }
            let machine = gauge.end();
            slow.push(machine.slow_share());
            told.extend(steady::rounds(&calm, &disturbed, &machine));
            // Rounds spread widely where the machine does not run evenly, and so does the median of few. All of them count.
            let is_within = Compared::of(&told).is_some_and(|compared| compared.ratio <= LIMIT);
            if is_within || !fault.timed || told.len() >= SERIES * rounds {
                break;
            }
        }
        if fault.timed {
            let what = format!("{}, {}: p99 of {clients} healthy clients", fault.what, fault.rate());
            compare(&what, &told, slow.iter().sum::<f64>() / slow.len() as f64);
        }
        let kept = memory_comes_back(&rig, before).await;
        figure(
            &format!("{}: memory afterwards", fault.what),
            &format!("{:+.1} %", (kept - 1.0) * 100.0),
            "within 5 %",
            kept <= KEPT,
        );
    }
    let (calls, heard, wrong) = crowd.stop().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(calls > clients as u64 && heard > clients as u64, "the healthy clients did nothing");
    figure(
        "what healthy clients noticed of all faults",
        &format!("nothing in {calls} calls and {heard} publications"),
        "no error, loss, gap or cut",
        true,
    );
}

/// Compares the rounds with the fault to the calm before each.
fn compare(what: &str, rounds: &[steady::Round], slow_share: f64) {
    let limit = format!("at most {LIMIT:.2} x");
    let slow = slow_share * 100.0;
    let Some(compared) = Compared::of(rounds) else {
        figure(what, &format!("none: the machine was slow for {slow:.0} % of the time"), &limit, false);
        return;
    };
    let (with, without) = (ms(compared.disturbed), ms(compared.calm));
    let reading = format!("{compared}, {with} against {without}; the machine slow for {slow:.0} %");
    figure(what, &reading, &limit, compared.ratio <= LIMIT);
}

/// Waits until the node's memory grows no more: histories, caches and what the allocator keeps fill at first, whoever is
/// there.
async fn memory_is_level(rig: &Rig) {
    for _ in 0..LEVEL_LOOKS {
        let before = rig.server.resident_bytes().unwrap();
        sleep(LEVEL_FOR).await;
        if rig.server.resident_bytes().unwrap() <= before + before / 200 {
            return;
        }
    }
}

/// Waits for the node's memory to be what it was; how much it is of that.
async fn memory_comes_back(rig: &Rig, before: u64) -> f64 {
    let now = || rig.server.resident_bytes().unwrap() as f64 / before as f64;
    let wait = async {
        let mut ticks = interval(Duration::from_millis(250));
        while now() > KEPT {
            ticks.tick().await;
        }
    };
    let _ = tokio::time::timeout(COMES_BACK.min(DEADLINE), wait).await;
    now()
}
