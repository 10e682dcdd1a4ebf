//! A client process of a stage: one-way messages at a pace, over all its connections in turn, each echoed by the server.
//!
//! A message carries the moment at which it was due, and its time counts from then to its echo: a generator or a server
//! that falls behind cannot hide it. One task sends for all connections; the connections' own tasks take the echoes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use trunkline_transport::{Packet, Session, TransportClientBuilder, TransportError, Wire};

use super::load::Told;
use super::ours::{Client, ECHOED};
use super::stack::Over;
use super::times::Times;
use crate::bench::child::{GO, READY, told};
use crate::bench::clock::{Moment, Timer};
use crate::bench::latency::Latencies;
use crate::bench::machine::Gauge;
use crate::bench::{CONNECTING, OVERTIME, descriptors};
use crate::cli::output;

/// Messages in a row before the connections have their turn.
const IN_A_ROW: u64 = 64;

/// Messages that are due within so long go together: a timer for each of 50,000 a second is a fifth of a core, which the
/// clients do not have. Their times begin when each was due all the same.
const STEP: Duration = Duration::from_micros(100);

/// What one process is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) server: SocketAddr,
    pub(crate) wire: Wire,
    pub(crate) connections: u32,
    /// Messages a second over all of them.
    pub(crate) rate: u32,
    /// Bytes of each payload.
    pub(crate) size: usize,
    pub(crate) lasting: Duration,
}

struct Heard {
    times: Latencies,
    count: AtomicU64,
}

/// Needs a thread of its own.
pub(crate) async fn run(pace: Pace) -> anyhow::Result<()> {
    descriptors(pace.connections as usize)?;
    let mut told = told()?;
    let heard = Arc::new(Heard { times: Latencies::timed()?, count: AtomicU64::new(0) });
    let sessions = connect(pace, &heard).await?;
    output::result(READY);
    // Whoever started it may want no more of it.
    let Some(line) = told.line().await else { return Ok(()) };
    ensure!(line == GO, "what is {line:?}?");
    let (begun, gauge) = (Instant::now(), Gauge::start());
    let sent = pace.send(&sessions).await?;
    // The last echoes are on their way.
    let mut looks = interval(Duration::from_millis(10));
    let deadline = Instant::now() + OVERTIME;
    while heard.count.load(Relaxed) < sent.count && Instant::now() < deadline {
        looks.tick().await;
    }
    let count = heard.count.load(Relaxed);
    let at_end = Told {
        count,
        seconds: begun.elapsed().as_secs_f64(),
        times: heard.times.recorded(),
        steady: heard.times.steady_recorded(&gauge.end())?,
        late: sent.late.recorded(),
        lost: sent.count.saturating_sub(count),
        unsent: pace.all().saturating_sub(sent.count),
    };
    output::result(&serde_json::to_string(&at_end)?);
    while told.line().await.is_some() {}
    Ok(())
}

async fn connect(pace: Pace, heard: &Arc<Heard>) -> anyhow::Result<Vec<Session>> {
    let client = Client::new(Over::Tcp, pace.server, None)?;
    let places = Arc::new(Semaphore::new(CONNECTING));
    let (tell, mut connected) = mpsc::channel(pace.connections as usize);
    let mut tasks = JoinSet::new();
    for at in 0..pace.connections as usize {
        let builder = TransportClientBuilder::new().with_protocol(client.protocol()).wire(pace.wire);
        let (heard, places, tell) = (Arc::clone(heard), Arc::clone(&places), tell.clone());
        tasks.spawn(async move {
            let place = places.acquire().await?;
            let client = builder.build().await?;
            let handler = move |session: Session| async move {
                // Both sides have then done once what is measured.
                session.request("warm up").await?;
                // There is a place for each.
                let _ = tell.send(session.clone()).await;
                heard.listen(session, at).await
            };
            client.connect_with(handler).await?;
            drop(place);
            // It lives until the process ends.
            std::future::pending::<anyhow::Result<()>>().await
        });
    }
    let mut sessions = Vec::new();
    while sessions.len() < pace.connections as usize {
        tokio::select! {
            Some(session) = connected.recv() => sessions.push(session),
            Some(failed) = tasks.join_next() => failed?.context("a client cannot connect")?,
        }
    }
    // They belong to their connections, which end with the process.
    tasks.detach_all();
    Ok(sessions)
}

struct Sent {
    count: u64,
    late: Times,
}

impl Pace {
    fn all(self) -> u64 {
        u64::from(self.rate) * self.lasting.as_secs()
    }

    /// When a message is due, after the first.
    fn due(self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate.max(1)))
    }

    async fn send(self, sessions: &[Session]) -> anyhow::Result<Sent> {
        let (mut timer, mut sent) = (Timer::new()?, Sent { count: 0, late: Times::new()? });
        let begun = Moment::now();
        let mut now = begun;
        for (number, session) in (0..self.all()).zip(sessions.iter().cycle()) {
            let due = begun.after(self.due(number));
            if due > now {
                timer.until(due.max(now.after(STEP))).await?;
                now = Moment::now();
            } else if number % IN_A_ROW == 0 {
                tokio::task::yield_now().await;
                now = Moment::now();
                if now > begun.after(self.lasting + OVERTIME) {
                    break;
                }
            }
            sent.late.record(0, now.since(due));
            let mut payload = vec![b'x'; self.size.max(8)];
            payload[..8].copy_from_slice(&due.0.to_be_bytes());
            session.try_send(Packet::new(payload).with_biz_type(ECHOED))?;
            sent.count += 1;
        }
        Ok(sent)
    }
}

impl Heard {
    async fn listen(&self, mut session: Session, at: usize) -> Result<(), TransportError> {
        while let Some(packet) = session.recv().await? {
            let stamp: [u8; 8] = *packet.payload.first_chunk().unwrap_or(&[0; 8]);
            self.times.record(at, Moment::now().since(Moment(u64::from_be_bytes(stamp))));
            self.count.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}
