//! The faults: what each does, what it must be answered, and how often it is done.
//!
//! An act checks the node's answer to it and fails where that is not the typed one. It leaves nothing running.

mod handshakes;
mod readers;
mod sessions;
mod starts;
mod upstreams;
mod wire;

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};
use trunkline_testkit::{DEADLINE, Signal};

use crate::rig::Rig;

type Act = fn(Arc<Rig>, usize) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Something that clients, upstreams or the machine do wrong.
pub(crate) struct Fault {
    pub(crate) what: &'static str,
    /// In how many ways it is done, each with a number of its own: nine are one for each transport and dialect.
    ways: usize,
    /// How often it is done where times are measured, one way after the other. So seldom that it takes no hundredth of
    /// this machine's cores: what a fault costs in processor time is its own matter, who else waits for it is not.
    every: Duration,
    act: Act,
    /// Whether times under it say anything about the node. They do not while it stands still.
    pub(crate) timed: bool,
}

/// How often each way is gone where nothing is measured.
const AT_ONCE: usize = 2;

macro_rules! fault {
    ($what:literal, of $ways:literal, every $millis:literal ms, $act:path) => {
        Fault {
            what: $what,
            ways: $ways,
            every: Duration::from_millis($millis),
            act: |rig, number| Box::pin(async move { $act(&rig, number).await }),
            timed: true,
        }
    };
}

/// All of them.
pub(crate) fn all() -> Vec<Fault> {
    vec![
        fault!("nothing at all, by how much the measurement varies", of 1, every 1_000 ms, nothing),
        fault!("frames that are empty, undecodable, of no type", of 9, every 1_000 ms, wire::nonsense),
        fault!("frames of 1 MiB, a byte more, and 2^32-1", of 5, every 2_000 ms, wire::sizes),
        fault!("frames split at every byte", of 5, every 1_000 ms, wire::splits),
        fault!("missing, wrong, forged, expired tokens", of 9, every 2_000 ms, starts::bad_tokens),
        fault!("stolen and doubled resume tokens", of 4, every 2_000 ms, starts::resume_tokens),
        fault!("START positions in others' channels", of 9, every 1_000 ms, starts::positions),
        fault!("8 STARTs at once as one device", of 2, every 2_000 ms, starts::one_device),
        fault!("8 STARTs on one connection", of 4, every 2_000 ms, starts::one_connection),
        fault!("acks of the future", of 9, every 1_000 ms, sessions::acks),
        fault!("seq jumps, repeats and reuse", of 9, every 1_000 ms, sessions::numbers),
        fault!("half-open handshakes on every transport", of 10, every 1_000 ms, handshakes::half_open),
        fault!("streams that nobody takes", of 2, every 1_000 ms, wire::streams),
        fault!("clients that stop reading, windows overrun", of 3, every 2_000 ms, readers::overrun),
        fault!("clients that ask and do not read", of 3, every 2_000 ms, readers::greedy),
        fault!("an upstream that hangs", of 8, every 1_000 ms, upstreams::hangs),
        fault!("an upstream that answers 2 MiB", of 1, every 2_000 ms, upstreams::answers_too_much),
        fault!("an upstream that dies in a call", of 1, every 1_000 ms, upstreams::dies),
        fault!("an upstream of garbage", of 1, every 1_000 ms, upstreams::garbage),
        fault!("an upstream registered before it listens", of 1, every 1_000 ms, upstreams::late),
        fault!("an upstream registered twice", of 1, every 1_000 ms, upstreams::twice),
        Fault { timed: false, ..fault!("SIGSTOP for 200 ms, SIGCONT", of 1, every 1_000 ms, stand_still) },
    ]
}

impl Fault {
    /// How often it is done, for people.
    pub(crate) fn rate(&self) -> String {
        format!("every {} s", self.every.as_secs())
    }

    /// Every way at once, some times.
    pub(crate) async fn at_once(&self, rig: &Arc<Rig>) -> Result<()> {
        let mut ways = JoinSet::new();
        for way in 0..self.ways {
            let (rig, act) = (Arc::clone(rig), self.act);
            ways.spawn(async move {
                for done in 0..AT_ONCE {
                    act(Arc::clone(&rig), way).await.with_context(|| format!("way {way}, act {done}"))?;
                }
                anyhow::Ok(())
            });
        }
        let all = async {
            while let Some(ended) = ways.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        self.within(2 * DEADLINE, all).await
    }

    /// One way after the other at its pace, for so long; `turn` is where it goes on the next time.
    pub(crate) async fn in_turns(&self, rig: &Arc<Rig>, lasting: Duration, turn: &mut usize) -> Result<()> {
        let (begin, first) = (Instant::now(), *turn);
        let acts = async {
            let mut ticks = interval(self.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick is at once.
            while *turn == first || begin.elapsed() + self.every <= lasting {
                ticks.tick().await;
                let way = *turn % self.ways;
                (self.act)(Arc::clone(rig), way).await.with_context(|| format!("way {way}"))?;
                *turn += 1;
            }
            tokio::time::sleep_until(begin + lasting).await;
            anyhow::Ok(())
        };
        self.within(lasting + 2 * DEADLINE, acts).await
    }

    async fn within(&self, time: Duration, acts: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::time::timeout(time, acts).await.context("it hangs")?.context(self.what)
    }
}

/// What the figures of the others are to be read beside.
async fn nothing(_: &Rig, _: usize) -> Result<()> {
    Ok(())
}

/// The machine stops the process and lets it go on.
async fn stand_still(rig: &Rig, _: usize) -> Result<()> {
    rig.server.signal(Signal::Freeze)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.server.signal(Signal::Thaw)
}
