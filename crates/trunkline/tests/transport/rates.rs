//! A16: a rate of packets is exact, and one peer's excess is nobody else's loss. Full size: `./prove A16`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trunkline_transport::{
    RateLimiterConfig, Session, TransportClient, TransportClientBuilder, TransportServerBuilder,
};

use crate::machine::Gauge;
use crate::rig::{DEADLINE, Rig, Way, compared, until, within};
use crate::sizes::{reading, size};
use crate::steady::{self, Compared, Ended};

/// Packets a second, and at once.
const RATE: u32 = 1_000;
const BURST: u32 = 10;

/// Those who keep to it: each asks so often.
const OTHERS: u32 = 10;
const EVERY: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a16_a_rate_is_exact_and_others_are_not_affected() {
    let (rounds, phase) = (size("A16_ROUNDS", 1), Duration::from_millis(size("A16_PHASE_MS", 100)));
    for way in Way::ALL {
        let taken = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&taken);
        let builder = TransportServerBuilder::new().rate_limiter(RateLimiterConfig::new(RATE, BURST));
        let serve = move |mut session: Session| {
            let taken = Arc::clone(&counts);
            async move {
                while let Some(packet) = session.recv().await? {
                    if packet.is_request() {
                        session.send(packet.reply("")).await?;
                    } else {
                        taken.fetch_add(1, Relaxed);
                    }
                }
                Ok(())
            }
        };
        let rig = Rig::start(builder, &[way], serve).await;
        let others = Others::start(&rig, way).await;
        let (mut calm, mut disturbed, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        let gauge = Gauge::start();
        for _ in 0..rounds {
            others.take();
            calm.push(others.during(phase).await);
            let greedy = Greedy::start(&rig, way, &taken).await;
            others.take();
            let (first, begun) = (taken.load(Relaxed), Instant::now());
            disturbed.push(others.during(phase).await);
            let passed = taken.load(Relaxed) - first;
            rates.push(passed as f64 / begun.elapsed().as_secs_f64());
            greedy.end(&rig).await;
        }
        let machine = gauge.end();
        let asked = others.stop().await;
        let stats = rig.server.stats();
        // Each question has come, once.
        assert_eq!(stats.received_requests, asked, "{way:?}");
        assert!(stats.rate_delayed > 0, "{way:?}: {stats:?}");
        let name = format!("a16_{}", way.name());
        let farthest = rates.iter().copied().max_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap();
        reading(&format!("{name}_off_percent"), format!("{:.3}", off(farthest)));
        reading(&format!("{name}_rate"), format!("{farthest:.1}"));
        let even = Compared::of(&steady::rounds(&calm, &disturbed, &machine));
        compared(&format!("{name}_p99"), even, machine.slow_share());
    }
}

/// How far it is from the rate that was asked for, in hundredths of that.
fn off(rate: f64) -> f64 {
    (rate / f64::from(RATE) - 1.0).abs() * 100.0
}

/// Clients within the rate, which ask on a schedule.
struct Others {
    times: Arc<Mutex<Vec<Ended>>>,
    stop: CancellationToken,
    asking: JoinSet<u64>,
}

impl Others {
    async fn start(rig: &Rig, way: Way) -> Others {
        let mut clients = Vec::new();
        for _ in 0..OTHERS {
            clients.push(rig.client(way).await);
        }
        let (times, stop) = (Arc::<Mutex<Vec<Ended>>>::default(), CancellationToken::new());
        let (mut asking, begun) = (JoinSet::new(), Instant::now());
        for (at, client) in (0..OTHERS).zip(clients) {
            asking.spawn(ask(client, begun + EVERY * at / OTHERS, Arc::clone(&times), stop.clone()));
        }
        Others { times, stop, asking }
    }

    fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.times.lock())
    }

    /// What they have had in a phase, which lasts until there is something at least.
    async fn during(&self, phase: Duration) -> Vec<Ended> {
        tokio::time::sleep(phase).await;
        until(|| !self.times.lock().is_empty()).await;
        self.take()
    }

    /// How many questions they have asked.
    async fn stop(mut self) -> u64 {
        self.stop.cancel();
        let mut asked = 0;
        while let Some(one) = within(self.asking.join_next()).await {
            asked += one.unwrap();
        }
        asked
    }
}

/// Asks when it is due: a question's time counts from then.
async fn ask(
    client: TransportClient,
    mut due: Instant,
    times: Arc<Mutex<Vec<Ended>>>,
    stop: CancellationToken,
) -> u64 {
    let mut asked = 0;
    while !stop.is_cancelled() {
        sleep_until(due).await;
        client.request("x").timeout(DEADLINE).await.unwrap();
        asked += 1;
        times.lock().push(Ended { at: std::time::Instant::now(), took: due.elapsed() });
        // Who is late does not make up for it: that would be over the rate.
        due = (due + EVERY).max(Instant::now());
    }
    asked
}

/// A client that sends as fast as it is let.
struct Greedy {
    session: Session,
    sending: JoinSet<()>,
}

impl Greedy {
    /// It has had its burst when this returns.
    async fn start(rig: &Rig, way: Way, taken: &AtomicU64) -> Greedy {
        let before = rig.server.active_sessions();
        let builder = TransportClientBuilder::new().with_protocol(rig.reach(way)).connect_timeout(DEADLINE);
        let client = builder.build().await.unwrap();
        within(client.connect()).await.unwrap();
        let newcomer = || rig.server.active_sessions().into_iter().find(|id| !before.contains(id));
        until(|| newcomer().is_some()).await;
        let session = rig.server.session(newcomer().unwrap()).unwrap();
        let first = taken.load(Relaxed);
        let mut sending = JoinSet::new();
        // Until its connection is closed.
        sending.spawn(async move { while client.send(vec![b'x'; 64]).await.is_ok() {} });
        until(|| taken.load(Relaxed) >= first + 2 * u64::from(BURST)).await;
        Greedy { session, sending }
    }

    /// Cuts it off: what it has sent ahead would take its turn for minutes.
    async fn end(mut self, rig: &Rig) {
        self.session.close(1000, "enough");
        within(self.session.closed()).await;
        within(self.sending.join_next()).await.unwrap().unwrap();
        let rest = usize::try_from(OTHERS).unwrap();
        until(|| rig.server.session_count() == rest).await;
    }
}
