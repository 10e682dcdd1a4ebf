//! How fast a server's peers may send: token buckets per connection, address and `biz_type`, and what happens beyond.
//!
//! Buckets are data: time is an input. Control packets and answers to our own requests never cost anything, so that no
//! limit ends a connection by silence.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::defaults::RATE_ADDRESSES;

/// What happens to a packet that comes too fast. Each outcome is counted in its connection's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// It waits for its turn, and so does everything behind it on its connection: the peer is held up.
    #[default]
    Delay,
    /// It is dropped; a v2 peer's request is refused with [`crate::codes::OVERLOADED`].
    Drop,
    /// Its connection is closed with [`crate::codes::POLICY`].
    Close,
}

/// Packets a second, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// Nothing at all could ever pass at 0.
    fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.max(1), burst: burst.max(1) }
    }

    /// What `amount` costs in time.
    fn cost(self, amount: u32) -> Duration {
        Duration::from_secs(1) * amount / self.per_second
    }
}

/// Limits of rates. Plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimiterConfig {
    connection: Rate,
    bytes: Option<Rate>,
    address: Option<Rate>,
    /// Few, so a search is quicker than a map.
    biz_types: Vec<(u8, Rate)>,
    excess: Excess,
}

impl RateLimiterConfig {
    /// So many packets a second on each connection, and `burst` at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let connection = Rate::new(per_second, burst);
        Self { connection, bytes: None, address: None, biz_types: Vec::new(), excess: Excess::default() }
    }

    /// Bytes of packets on each connection as well. A packet larger than `burst` passes when nothing has for a while.
    #[must_use]
    pub fn bytes(self, per_second: u32, burst: u32) -> Self {
        Self { bytes: Some(Rate::new(per_second, burst)), ..self }
    }

    /// Packets of all connections of one address together: an IPv4 address, or a /64 of IPv6. Peers without an address have
    /// no such limit. Of more than 65,536 busy addresses the rest share one bucket.
    #[must_use]
    pub fn per_address(self, per_second: u32, burst: u32) -> Self {
        Self { address: Some(Rate::new(per_second, burst)), ..self }
    }

    /// Packets of one `biz_type` on each connection.
    #[must_use]
    pub fn per_biz_type(mut self, biz_type: u8, per_second: u32, burst: u32) -> Self {
        self.biz_types.retain(|(other, _)| *other != biz_type);
        self.biz_types.push((biz_type, Rate::new(per_second, burst)));
        self
    }

    /// What happens beyond; [`Excess::Delay`] unless told.
    #[must_use]
    pub fn on_excess(self, excess: Excess) -> Self {
        Self { excess, ..self }
    }
}

/// A token bucket as one instant (the "theoretical arrival time" of ITU-T I.371's GCRA): exact at any rate, and full
/// whenever that instant has passed.
#[derive(Clone, Copy, Debug)]
struct Bucket(Option<Instant>);

impl Bucket {
    /// When `amount` may pass; now or earlier means at once. Nothing is taken.
    fn ready_at(self, rate: Rate, amount: u32, now: Instant) -> Instant {
        // A whole burst may pass when the bucket is full; more than that counts as one.
        let tolerance = rate.cost(rate.burst.saturating_sub(amount));
        let at = self.0.unwrap_or(now).max(now);
        at.checked_sub(tolerance).unwrap_or(now)
    }

    fn take(&mut self, rate: Rate, amount: u32, now: Instant) {
        self.0 = Some(self.0.unwrap_or(now).max(now) + rate.cost(amount));
    }

    fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|at| at <= now)
    }
}

/// The limiter of one server.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    config: RateLimiterConfig,
    addresses: Mutex<HashMap<Key, Arc<Mutex<Bucket>>>>,
    /// For everybody else, once there are too many addresses.
    rest: Arc<Mutex<Bucket>>,
}

/// An address as limits know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4([u8; 4]),
    V6Network([u8; 8]),
}

impl Key {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6Network([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl RateLimiter {
    pub(crate) fn new(config: RateLimiterConfig) -> Self {
        Self { config, addresses: Mutex::default(), rest: Arc::new(Mutex::new(Bucket(None))) }
    }

    /// The limits of one connection.
    pub(crate) fn connection(self: &Arc<Self>, peer: Option<IpAddr>, now: Instant) -> ConnectionLimiter {
        let address =
            peer.filter(|_| self.config.address.is_some()).map(|peer| self.bucket(Key::of(peer), now));
        ConnectionLimiter {
            packets: Bucket(None),
            bytes: Bucket(None),
            biz_types: vec![Bucket(None); self.config.biz_types.len()],
            address,
            shared: Arc::clone(self),
        }
    }

    fn bucket(&self, key: Key, now: Instant) -> Arc<Mutex<Bucket>> {
        let mut addresses = self.addresses.lock();
        if let Some(bucket) = addresses.get(&key) {
            return Arc::clone(bucket);
        }
        if addresses.len() >= RATE_ADDRESSES {
            // Without a connection a full bucket says nothing that a new one would not say.
            addresses.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.lock().is_full(now));
        }
        if addresses.len() >= RATE_ADDRESSES {
            return Arc::clone(&self.rest);
        }
        Arc::clone(addresses.entry(key).or_insert_with(|| Arc::new(Mutex::new(Bucket(None)))))
    }
}

/// The buckets of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    packets: Bucket,
    bytes: Bucket,
    /// Beside those of the configuration.
    biz_types: Vec<Bucket>,
    address: Option<Arc<Mutex<Bucket>>>,
    shared: Arc<RateLimiter>,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    /// Its place is taken: it passes at this instant.
    At(Instant),
    Drop,
    Close,
}

impl ConnectionLimiter {
    /// A packet has come. What passes, now or later, is taken from every bucket; what does not, from none.
    pub(crate) fn packet(&mut self, biz_type: u8, size: usize, now: Instant) -> Turn {
        let config = &self.shared.config;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let biz = config.biz_types.iter().position(|(limited, _)| *limited == biz_type);
        // One lock over question and answer, so that two connections never take one place.
        let mut address = self.address.as_ref().map(|bucket| bucket.lock());
        let mut ready = self.packets.ready_at(config.connection, 1, now);
        if let Some(rate) = config.bytes {
            ready = ready.max(self.bytes.ready_at(rate, size.min(rate.burst), now));
        }
        if let (Some(rate), Some(bucket)) = (config.address, &address) {
            ready = ready.max(bucket.ready_at(rate, 1, now));
        }
        if let Some(at) = biz {
            ready = ready.max(self.biz_types[at].ready_at(config.biz_types[at].1, 1, now));
        }
        if ready > now {
            match config.excess {
                Excess::Delay => {}
                Excess::Drop => return Turn::Drop,
                Excess::Close => return Turn::Close,
            }
        }
        self.packets.take(config.connection, 1, now);
        if let Some(rate) = config.bytes {
            self.bytes.take(rate, size, now);
        }
        if let (Some(rate), Some(bucket)) = (config.address, &mut address) {
            bucket.take(rate, 1, now);
        }
        if let Some(at) = biz {
            self.biz_types[at].take(config.biz_types[at].1, 1, now);
        }
        if ready > now { Turn::At(ready) } else { Turn::Now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(config: RateLimiterConfig) -> Arc<RateLimiter> {
        Arc::new(RateLimiter::new(config))
    }

    /// How many of a packet each millisecond pass within `seconds`, none of them delayed.
    fn passed(limiter: &mut ConnectionLimiter, seconds: u64, biz_type: u8) -> usize {
        let begin = Instant::now();
        (0..seconds * 1000)
            .filter(|ms| limiter.packet(biz_type, 100, begin + Duration::from_millis(*ms)) == Turn::Now)
            .count()
    }

    #[test]
    fn after_a_burst_the_rate_is_exact() {
        for (rate, burst) in [(1, 1), (7, 3), (100, 50), (333, 3)] {
            let config = RateLimiterConfig::new(rate, burst).on_excess(Excess::Drop);
            let got = passed(&mut limiter(config).connection(None, Instant::now()), 20, 0);
            let expected = (burst - 1 + 20 * rate) as usize;
            assert!(got.abs_diff(expected) <= 1, "{rate}/s, burst {burst}: {got} of {expected}");
        }
    }

    #[test]
    fn delayed_packets_pass_one_by_one() {
        let limiter = limiter(RateLimiterConfig::new(10, 2));
        let now = Instant::now();
        let mut connection = limiter.connection(None, now);
        let turns: Vec<Turn> = (0..4).map(|_| connection.packet(0, 1, now)).collect();
        let after = |ms| Turn::At(now + Duration::from_millis(ms));
        assert_eq!(turns, [Turn::Now, Turn::Now, after(100), after(200)]);
    }

    #[test]
    fn connections_of_one_address_share_and_others_do_not() {
        let limiter = limiter(RateLimiterConfig::new(1000, 1000).per_address(10, 10).on_excess(Excess::Drop));
        let now = Instant::now();
        let take = |address: &str, count: usize| {
            let mut connection = limiter.connection(Some(address.parse().unwrap()), now);
            (0..count).filter(|_| connection.packet(0, 1, now) == Turn::Now).count()
        };
        assert_eq!(take("192.0.2.1", 6), 6);
        assert_eq!(take("192.0.2.1", 6), 4);
        assert_eq!(take("::ffff:192.0.2.1", 6), 0, "the same host by another name");
        assert_eq!(take("192.0.2.2", 6), 6);
        assert_eq!(take("2001:db8::1", 6), 6);
        assert_eq!(take("2001:db8::ffff:1", 6), 4, "one /64");
        assert_eq!(take("2001:db8:0:1::1", 6), 6);
    }

    #[test]
    fn bytes_and_sorts_have_their_own_limits() {
        let config = RateLimiterConfig::new(1000, 1000).per_biz_type(7, 1, 2).on_excess(Excess::Drop);
        let shared = limiter(config.bytes(1000, 500));
        let now = Instant::now();
        let mut connection = shared.connection(None, now);
        let turns: Vec<Turn> = (0..3).map(|_| connection.packet(7, 1, now)).collect();
        assert_eq!(turns, [Turn::Now, Turn::Now, Turn::Drop]);
        assert_eq!(connection.packet(8, 400, now), Turn::Now);
        assert_eq!(connection.packet(8, 400, now), Turn::Drop);
        // Larger than the burst: it passes once the bucket is full, and what it was over is owed.
        let later = now + Duration::from_secs(10);
        assert_eq!(connection.packet(8, 2000, later), Turn::Now);
        assert_eq!(connection.packet(8, 1, later + Duration::from_millis(1_400)), Turn::Drop);
        assert_eq!(connection.packet(8, 1, later + Duration::from_millis(1_600)), Turn::Now);
    }

    #[test]
    fn addresses_are_bounded_and_idle_ones_forgotten() {
        let limiter = limiter(RateLimiterConfig::new(10, 10).per_address(10, 10));
        let now = Instant::now();
        for i in 0..RATE_ADDRESSES as u32 {
            drop(limiter.connection(Some(IpAddr::from(i.to_be_bytes())), now));
        }
        let mut connection = limiter.connection(Some(IpAddr::from([255, 0, 0, 1])), now);
        assert_eq!(limiter.addresses.lock().len(), 1, "idle ones went when there was no room");
        assert_eq!(connection.packet(0, 1, now), Turn::Now);
        assert!(!Arc::ptr_eq(connection.address.as_ref().unwrap(), &limiter.rest));
    }
}
