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
    /// How many do it at once, each with a number of its own.
    lanes: usize,
    /// How often each does it. Modest, so that the machine's cores are not what the healthy clients lack.
    every: Duration,
    act: Act,
    /// Whether times under it say anything about the node. They do not while it stands still.
    pub(crate) timed: bool,
}

/// How often a lane does its fault at least, whatever the time.
const AT_LEAST: usize = 2;

macro_rules! fault {
    ($what:literal, $lanes:literal x $millis:literal ms, $act:path) => {
        Fault {
            what: $what,
            lanes: $lanes,
            every: Duration::from_millis($millis),
            act: |rig, number| Box::pin(async move { $act(&rig, number).await }),
            timed: true,
        }
    };
}

/// All of them. Several at a time are 9 lanes: one for each transport and dialect.
pub(crate) fn all() -> Vec<Fault> {
    vec![
        fault!("frames that are empty, undecodable, of no type", 9 x 500 ms, wire::nonsense),
        fault!("frames of 1 MiB, a byte more, and 2^32-1", 5 x 1_000 ms, wire::sizes),
        fault!("frames split at every byte", 5 x 500 ms, wire::splits),
        fault!("missing, wrong, forged, expired tokens", 9 x 500 ms, starts::bad_tokens),
        fault!("stolen and doubled resume tokens", 4 x 250 ms, starts::resume_tokens),
        fault!("START positions in others' channels", 9 x 500 ms, starts::positions),
        fault!("8 STARTs at once as one device", 2 x 500 ms, starts::one_device),
        fault!("8 STARTs on one connection", 4 x 250 ms, starts::one_connection),
        fault!("acks of the future", 9 x 500 ms, sessions::acks),
        fault!("seq jumps, repeats and reuse", 9 x 500 ms, sessions::numbers),
        fault!("half-open handshakes on every transport", 10 x 500 ms, handshakes::half_open),
        fault!("streams that nobody takes", 2 x 250 ms, wire::streams),
        fault!("clients that stop reading, windows overrun", 3 x 1_000 ms, readers::overrun),
        fault!("clients that ask and do not read", 3 x 1_000 ms, readers::greedy),
        fault!("an upstream that hangs", 8 x 200 ms, upstreams::hangs),
        fault!("an upstream that answers 2 MiB", 1 x 250 ms, upstreams::answers_too_much),
        fault!("an upstream that dies in a call", 1 x 500 ms, upstreams::dies),
        fault!("an upstream of garbage", 1 x 500 ms, upstreams::garbage),
        fault!("an upstream registered before it listens", 1 x 1_000 ms, upstreams::late),
        fault!("an upstream registered twice", 1 x 500 ms, upstreams::twice),
        Fault { timed: false, ..fault!("SIGSTOP for 200 ms, SIGCONT", 1 x 1_000 ms, stand_still) },
    ]
}

impl Fault {
    /// How often it is done, for people.
    pub(crate) fn rate(&self) -> String {
        let rate = self.lanes as f64 / self.every.as_secs_f64();
        format!("{}/s", (rate * 10.0).round() / 10.0)
    }

    /// Does it for so long, and at least twice in each lane.
    pub(crate) async fn go_on(&self, rig: &Arc<Rig>, lasting: Duration) -> Result<()> {
        let end = Instant::now() + lasting;
        let mut lanes = JoinSet::new();
        for lane in 0..self.lanes {
            let (rig, act, every) = (Arc::clone(rig), self.act, self.every);
            lanes.spawn(async move {
                let mut ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut done = 0;
                while done < AT_LEAST || Instant::now() < end {
                    // Without a phase to fill there is no pace to keep.
                    if !lasting.is_zero() {
                        ticks.tick().await;
                    }
                    act(Arc::clone(&rig), lane).await.with_context(|| format!("lane {lane}, act {done}"))?;
                    done += 1;
                }
                anyhow::Ok(())
            });
        }
        let all = async {
            while let Some(ended) = lanes.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        let all = tokio::time::timeout(lasting + 2 * DEADLINE, all).await.context("it hangs")?;
        all.context(self.what)
    }
}

/// The machine stops the process and lets it go on.
async fn stand_still(rig: &Rig, _: usize) -> Result<()> {
    rig.server.signal(Signal::Freeze)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.server.signal(Signal::Thaw)
}
