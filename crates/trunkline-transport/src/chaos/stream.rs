//! Faults on byte streams. Bytes stay in order and none is ever lost in the middle: no stream would do that.

use std::{
    fmt,
    future::{Future, ready},
    io,
    num::NonZeroU32,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split},
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes between one side's read and the other side's write: enough for latency to pass a few windows, little
/// enough that a stalled side is felt by the other.
const CHUNK: usize = 8 << 10;
const CHUNKS: usize = 16;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// FIN, as after a regular close.
    #[default]
    Close,
    /// RST, as after a crash of the peer's host.
    Reset,
    /// Nothing at all: both sides see an open connection on which nothing moves any more.
    HalfOpen,
}

/// What happens to connections accepted from now on.
#[derive(Debug, Clone, Default)]
pub struct StreamFaults {
    /// Added to every byte, each way.
    pub latency: Duration,
    /// Up to so much more, drawn anew for every chunk; bytes stay in order.
    pub jitter: Duration,
    /// Each connection ends once it has carried a number of bytes, both ways together, drawn from this range.
    pub cut_after: Option<Range<u64>>,
    /// How it ends then.
    pub ending: Ending,
    /// How fast the client reads.
    pub down_bytes_per_second: Option<NonZeroU32>,
}

/// Faults between the two ends of byte streams, whatever carries them. Clones share it; dropping the last one ends its
/// connections.
#[derive(Clone, Debug)]
pub struct StreamChaos(Arc<Owner>);

struct Owner {
    carrier: Carrier,
}

/// What its tasks have: they do not keep it alive.
#[derive(Clone)]
pub(super) struct Carrier {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    faults: Mutex<StreamFaults>,
    rng: Mutex<StdRng>,
    accepted: AtomicU64,
    living: watch::Sender<Living>,
    stalled: watch::Sender<bool>,
    cuts: broadcast::Sender<Cut>,
}

/// Connections, and among them those that were there when the last cut was asked for.
#[derive(Debug, Default)]
struct Living {
    open: usize,
    doomed: usize,
    cuts: u64,
}

/// What the connections that live are told.
#[derive(Debug, Clone)]
enum Cut {
    Now(Ending),
    Within(Range<u64>, Ending),
}

impl StreamChaos {
    /// Carries nothing yet: give it to [`crate::MemoryClientConfig::through`], [`crate::Link::through`] or
    /// [`super::Disturbed`], or use [`StreamChaos::link`].
    #[must_use]
    pub fn new(seed: u64, faults: StreamFaults) -> Self {
        let shared = Arc::new(Shared {
            faults: Mutex::new(faults),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            accepted: AtomicU64::new(0),
            living: watch::Sender::new(Living::default()),
            stalled: watch::Sender::new(false),
            cuts: broadcast::Sender::new(16),
        });
        let carrier = Carrier { shared, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        Self(Arc::new(Owner { carrier }))
    }

    /// Another end of this stream: what is written there arrives at `far` with the faults between, and the other way.
    /// Needs a tokio runtime. There is no reset here: it just ends.
    pub fn link(&self, far: impl AsyncRead + AsyncWrite + Send + 'static) -> DuplexStream {
        let (near, inner) = tokio::io::duplex(CHUNK);
        self.0.carrier.carry(inner, ready(Ok(Box::pin(far))), |_, _| {});
        near
    }

    /// Runs an accept loop until this is dropped.
    pub(super) fn accept<F: Future<Output = ()> + Send + 'static>(
        &self,
        serve: impl FnOnce(Carrier) -> F + Send,
    ) {
        let carrier = &self.0.carrier;
        let (stop, serving) = (carrier.stop.clone(), serve(carrier.clone()));
        carrier.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = serving => {}
            }
        });
    }

    /// What happens to connections from now on; those that live keep their faults.
    pub fn set_faults(&self, faults: StreamFaults) {
        *self.shared().faults.lock() = faults;
    }

    /// Ends every connection that lives now.
    pub fn cut_all(&self, ending: Ending) {
        self.cut(Cut::Now(ending));
    }

    /// Ends every connection that lives now after a further number of bytes, both ways together, drawn from this
    /// range for each: wherever in a frame that is.
    pub fn cut_all_within(&self, bytes: Range<u64>, ending: Ending) {
        self.cut(Cut::Within(bytes, ending));
    }

    fn cut(&self, cut: Cut) {
        self.shared().living.send_modify(|living| {
            living.cuts += 1;
            living.doomed = living.open;
        });
        // Nobody listens where no connection lives.
        let _ = self.shared().cuts.send(cut);
    }

    /// Waits until all connections have ended that lived when the last cut was asked for.
    pub async fn until_cut(&self) {
        let mut living = self.shared().living.subscribe();
        // The sender lives in self.
        let _ = living.wait_for(|living| living.doomed == 0).await;
    }

    /// Holds back all bytes of all connections, until [`StreamChaos::go_on`].
    pub fn stall(&self) {
        self.shared().stalled.send_replace(true);
    }

    /// Lets all bytes go on.
    pub fn go_on(&self) {
        self.shared().stalled.send_replace(false);
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared().accepted.load(Ordering::Relaxed)
    }

    /// How many live now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared().living.borrow().open
    }

    /// Waits until exactly so many connections live.
    pub async fn until_open(&self, count: usize) {
        let mut living = self.shared().living.subscribe();
        // The sender lives in self.
        let _ = living.wait_for(|living| living.open == count).await;
    }

    fn shared(&self) -> &Shared {
        &self.0.carrier.shared
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.carrier.stop.cancel();
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { accepted, living, .. } = &*self.carrier.shared;
        f.debug_struct("Owner")
            .field("accepted", accepted)
            .field("open", &living.borrow().open)
            .finish_non_exhaustive()
    }
}

impl Carrier {
    /// Carries a connection whose server side has yet to be reached, in a task of its own.
    pub(super) fn carry<C, S>(
        &self,
        client: C,
        server: impl Future<Output = io::Result<S>> + Send + 'static,
        reset: fn(&C, &S),
    ) where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { shared, stop, tasks } = self.clone();
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        // Before it is counted, so that whatever is counted hears of a cut.
        let cuts = shared.cuts.subscribe();
        let mut born = 0;
        shared.living.send_modify(|living| {
            living.open += 1;
            born = living.cuts;
        });
        tasks.spawn(async move {
            carry(client, server, reset, &shared, cuts, stop).await;
            shared.living.send_modify(|living| {
                living.open -= 1;
                // Whoever lived when an earlier cut was asked for and still does was counted again by the last.
                living.doomed -= usize::from(born < living.cuts);
            });
        });
    }
}

/// One connection from its begin to its end.
async fn carry<C, S>(
    mut client: C,
    server: impl Future<Output = io::Result<S>>,
    reset: fn(&C, &S),
    shared: &Shared,
    mut cuts: broadcast::Receiver<Cut>,
    stop: CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let faults = shared.faults.lock().clone();
    let Ok(mut server) = server.await else { return };
    let left = AtomicU64::new(faults.cut_after.as_ref().map_or(u64::MAX, |range| shared.draw(range)));
    let ending = {
        let (client_read, client_write) = split(&mut client);
        let (server_read, server_write) = split(&mut server);
        let up = Pump { shared, faults: &faults, left: &left, bytes_per_second: None };
        let down = Pump { bytes_per_second: faults.down_bytes_per_second, ..up };
        let both = async {
            tokio::try_join!(up.run(client_read, server_write), down.run(server_read, client_write))
        };
        tokio::pin!(both);
        let mut when_spent = faults.ending;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ending::Close,
                cut = cuts.recv() => match cut {
                    Ok(Cut::Within(range, ending)) => {
                        left.fetch_min(shared.draw(&range), Ordering::Relaxed);
                        when_spent = ending;
                    }
                    Ok(Cut::Now(ending)) => break ending,
                    Err(_) => break Ending::Close,
                },
                ended = &mut both => break if ended.is_err() { when_spent } else { Ending::Close },
            }
        }
    };
    match ending {
        Ending::Close => {}
        Ending::Reset => reset(&client, &server),
        Ending::HalfOpen => {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = cuts.recv() => {}
            }
        }
    }
}

impl Shared {
    fn draw(&self, range: &Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.rng.lock().random_range(range.clone()) }
    }
}

/// The budget is used up: the connection ends.
struct Spent;

#[derive(Clone, Copy)]
struct Pump<'a> {
    shared: &'a Shared,
    faults: &'a StreamFaults,
    left: &'a AtomicU64,
    bytes_per_second: Option<NonZeroU32>,
}

impl Pump<'_> {
    /// Carries one way until its end of stream, which is passed on.
    async fn run(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), Spent> {
        let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(CHUNKS);
        let read = async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let due = Instant::now() + self.delay();
                if sender.send((due, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let write = async move {
            let mut stalled = self.shared.stalled.subscribe();
            while let Some((due, bytes)) = receiver.recv().await {
                sleep_until(due).await;
                // The sender lives as long as the proxy, and without it this connection is being ended.
                let _ = stalled.wait_for(|stalled| !stalled).await;
                let allowed = self.take(bytes.len());
                if to.write_all(&bytes[..allowed]).await.is_err() {
                    break;
                }
                if allowed < bytes.len() {
                    return Err(Spent);
                }
                if let Some(rate) = self.bytes_per_second {
                    sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate.get()))).await;
                }
            }
            // The end is held back as bytes are.
            let _ = stalled.wait_for(|stalled| !stalled).await;
            // The other side may be gone already.
            let _ = to.shutdown().await;
            Ok(())
        };
        tokio::try_join!(read, write).map(drop)
    }

    fn delay(&self) -> Duration {
        let jitter = match self.faults.jitter.as_nanos() as u64 {
            0 => 0,
            most => self.shared.rng.lock().random_range(0..most),
        };
        self.faults.latency + Duration::from_nanos(jitter)
    }

    /// How many of `length` bytes the budget still allows.
    fn take(&self, length: usize) -> usize {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(length as u64))
        });
        let before = before.unwrap_or_default();
        usize::try_from(before).map_or(length, |before| before.min(length))
    }
}
