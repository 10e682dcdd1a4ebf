//! A UDP proxy with faults: loss, delay, reordering, duplicates, slow readers, black holes.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Datagrams on their way at once; more are dropped, as a router's queue drops.
const IN_FLIGHT: usize = 4096;

/// What a slow reader's socket holds.
const SOCKET_BUFFER: usize = 208 << 10;

/// What happens to every datagram, each way.
#[derive(Debug, Clone, Copy, Default)]
pub struct UdpFaults {
    /// The share that is lost, 0 to 1.
    pub loss: f64,
    /// The share that arrives twice.
    pub duplicates: f64,
    /// Added to every datagram.
    pub latency: Duration,
    /// Up to so much more, drawn for each datagram: those within it change places.
    pub jitter: Duration,
    /// How fast each client reads: what it has not read yet waits, up to the size of a socket's receive buffer (208 KiB,
    /// as Linux has it); more is lost.
    pub down_bytes_per_second: Option<NonZeroU32>,
    /// Nothing passes.
    pub black_hole: bool,
}

/// A proxy; each client address has a socket of its own towards the target. Dropping it ends them.
pub struct UdpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    faults: Mutex<UdpFaults>,
    rng: Mutex<StdRng>,
    carried: AtomicU64,
    lost: AtomicU64,
    in_flight: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl UdpProxy {
    /// Listens on a port of its own and carries datagrams to `target` and back.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: SocketAddr, seed: u64, faults: UdpFaults) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await?);
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            faults: Mutex::new(faults),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(Arc::clone(&shared).serve(socket));
        Ok(UdpProxy { address, shared })
    }

    /// Where clients send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens to datagrams from now on.
    pub fn set_faults(&self, faults: UdpFaults) {
        *self.shared.faults.lock() = faults;
    }

    /// Datagrams carried and lost so far, both ways.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.carried.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for UdpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// Clients to the target.
    async fn serve(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            // A client that is gone makes the next receive fail with its ICMP message; others go on.
            let Ok((length, client)) = received else { continue };
            let way = match ways.get(&client) {
                Some(way) => Arc::clone(way),
                None => {
                    let Ok(way) = self.open_way(Arc::clone(&socket), client).await else { continue };
                    ways.insert(client, Arc::clone(&way));
                    way
                }
            };
            self.pass(way, self.target, &buffer[..length], Duration::ZERO).await;
        }
    }

    /// A socket for one client, and the task that brings the target's datagrams back.
    async fn open_way(
        self: &Arc<Self>,
        socket: Arc<UdpSocket>,
        client: SocketAddr,
    ) -> io::Result<Arc<UdpSocket>> {
        let way = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await?);
        let (shared, back) = (Arc::clone(self), Arc::clone(&way));
        self.tasks.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            let mut reader = Reader { done: Instant::now() };
            loop {
                let received = tokio::select! {
                    biased;
                    () = shared.stop.cancelled() => return,
                    received = back.recv_from(&mut buffer) => received,
                };
                let Ok((length, _)) = received else { continue };
                let rate = shared.faults.lock().down_bytes_per_second;
                match reader.take(Instant::now(), rate, length) {
                    Some(wait) => shared.pass(Arc::clone(&socket), client, &buffer[..length], wait).await,
                    None => shared.lose(),
                }
            }
        });
        Ok(way)
    }

    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Decides one datagram's fate. It is carried after `wait` at the earliest.
    async fn pass(self: &Arc<Self>, socket: Arc<UdpSocket>, to: SocketAddr, datagram: &[u8], wait: Duration) {
        let faults = *self.faults.lock();
        let (lost, copies, delay) = {
            let mut rng = self.rng.lock();
            let jitter = match faults.jitter.as_nanos() as u64 {
                0 => 0,
                most => rng.random_range(0..most),
            };
            let copies = if rng.random::<f64>() < faults.duplicates { 2 } else { 1 };
            let delay = wait + faults.latency + Duration::from_nanos(jitter);
            (rng.random::<f64>() < faults.loss, copies, delay)
        };
        let permit = Arc::clone(&self.in_flight).try_acquire_owned();
        let (false, false, Ok(permit)) = (lost, faults.black_hole, permit) else {
            self.lose();
            return;
        };
        self.carried.fetch_add(1, Ordering::Relaxed);
        if delay.is_zero() {
            for _ in 0..copies {
                // A receiver that is gone is the network's to tell, not ours.
                let _ = socket.send_to(datagram, to).await;
            }
            return;
        }
        let (datagram, stop) = (datagram.to_vec(), self.stop.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(delay) => {}
            }
            for _ in 0..copies {
                let _ = socket.send_to(&datagram, to).await;
            }
        });
    }
}

/// A client that reads at a rate.
struct Reader {
    /// When it has read everything that waits.
    done: Instant,
}

impl Reader {
    /// When it will have read a datagram of this length, from now; `None` if there is no room for it.
    fn take(&mut self, now: Instant, rate: Option<NonZeroU32>, length: usize) -> Option<Duration> {
        let Some(rate) = rate else { return Some(Duration::ZERO) };
        let rate = f64::from(rate.get());
        let begins = self.done.max(now);
        let waiting = (begins - now).as_secs_f64() * rate;
        if waiting + length as f64 > SOCKET_BUFFER as f64 {
            return None;
        }
        self.done = begins + Duration::from_secs_f64(length as f64 / rate);
        Some(self.done - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_takes_its_time_and_no_more_than_it_has_room_for() {
        let begin = Instant::now();
        let mut reader = Reader { done: begin };
        let rate = NonZeroU32::new(1_000);
        let ms = |wait: Option<Duration>| wait.map(|wait| wait.as_millis());
        assert_eq!(ms(reader.take(begin, rate, 500)), Some(500));
        assert_eq!(ms(reader.take(begin, rate, 500)), Some(1_000));
        let later = begin + Duration::from_secs(9);
        assert_eq!(ms(reader.take(later, rate, 500)), Some(500), "it has caught up");
        assert_eq!(reader.take(later, None, 500), Some(Duration::ZERO));
        assert_eq!(reader.take(later, rate, SOCKET_BUFFER - 499), None);
        assert!(reader.take(later, rate, SOCKET_BUFFER - 500).is_some());
        assert_eq!(reader.take(later, rate, 1), None);
    }
}
