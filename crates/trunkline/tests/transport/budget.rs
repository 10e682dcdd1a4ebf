//! A7: a peer that never reads costs the budget of its queue and no more. Full size: `./prove A7`, in a process for each
//! way and policy, since memory that one has given back would hide what the next one takes.

use trunkline_transport::{
    Limits, SendError, Session, SlowConsumer, TransportClientBuilder, TransportServerBuilder,
};

use crate::rig::{DEADLINE, Rig, Way, echo, idle, resident, until, within};
use crate::sizes::{reading, size};

/// Of each push.
const PUSH: usize = 256 << 10;

/// Pushes to one that reads, so that what is set up once is there before anything is weighed.
const WARM_UP: u32 = 20;

#[tokio::test]
async fn a7_who_never_reads_costs_the_budget_and_no_more() {
    let pushes = size("A7_PUSHES", 60);
    let budget = usize::try_from(size("A7_BUDGET_MIB", 1)).unwrap() << 20;
    let chosen = std::env::var("A7_POLICY").ok();
    for way in Way::chosen("A7_WAY") {
        for (name, policy) in [("newest", SlowConsumer::DropNewest), ("oldest", SlowConsumer::DropOldest)] {
            if chosen.as_ref().is_none_or(|chosen| chosen == name) {
                pushed_on(way, policy, pushes, budget).await;
            }
        }
    }
}

async fn pushed_on(way: Way, policy: SlowConsumer, pushes: u64, budget: usize) {
    let builder = TransportServerBuilder::new().slow_consumer(policy);
    let rig = Rig::start(builder.limits(Limits::new().queued_bytes(budget)), &[way], echo).await;
    // Its own part of this process is small, and there before.
    let limits = Limits::new().received_bytes(1);
    let builder = || TransportClientBuilder::new().with_protocol(rig.reach(way)).connect_timeout(DEADLINE);
    let reader = builder().limits(limits.clone()).build().await.unwrap();
    let reads = |mut session: Session| async move {
        while session.recv().await?.is_some() {}
        Ok(())
    };
    within(reader.connect_with(reads)).await.unwrap();
    let session = newcomer(&rig).await;
    for _ in 0..WARM_UP {
        within(session.send(vec![1; PUSH])).await.unwrap();
        within(session.flushed()).await.unwrap();
    }
    within(reader.disconnect()).await;
    until(|| rig.server.session_count() == 0).await;
    drop(session);

    let stuck = builder().limits(limits).build().await.unwrap();
    within(stuck.connect_with(idle)).await.unwrap();
    let session = newcomer(&rig).await;
    let server = rig.server.clone();
    let id = session.id();
    let (before, most, held) = rig
        .on_server(async move {
            let (before, mut most, mut held) = (resident(), 0, 0_u64);
            for _ in 0..pushes {
                match server.send_to(id, vec![2; PUSH]).await {
                    Ok(()) => held += 1,
                    Err(SendError::Full { .. }) => {}
                    Err(error) => panic!("{way:?}: {error}"),
                }
                let queued = server.queued_bytes();
                assert!(queued <= budget, "{way:?}, {policy:?}: {queued} bytes are queued");
                most = most.max(resident());
                // The connection's task has its turn.
                tokio::task::yield_now().await;
            }
            (before, most, held)
        })
        .await;
    let stats = session.stats();
    let dropped = stats.dropped_oldest + stats.dropped_newest;
    assert!(dropped > 0, "{way:?}, {policy:?}: everything had room");
    assert_eq!(stats.sent_packets, held, "{way:?}, {policy:?}");
    let name = format!("a7_{}_{}", way.name(), if stats.dropped_oldest > 0 { "oldest" } else { "newest" });
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1 << 20));
    reading(&format!("{name}_growth_mib"), mib(most.saturating_sub(before)));
    reading(&format!("{name}_before_mib"), mib(before));
    reading(&format!("{name}_dropped"), dropped);
}

/// The one session of a server, once it is there.
async fn newcomer(rig: &Rig) -> Session {
    until(|| !rig.server.active_sessions().is_empty()).await;
    rig.server.session(rig.server.active_sessions()[0]).unwrap()
}
