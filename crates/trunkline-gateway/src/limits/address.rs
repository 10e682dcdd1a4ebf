//! The pace at which frames are read: of each connection, and of all connections of one address together.
//!
//! Nothing is refused here, since a heartbeat or an ack may be among the frames: each frame takes the next place in time
//! at the rate, and a connection whose place lies ahead reads no further until then. That is fair among the
//! connections of an address, costs one number each, and leaves the surplus in the client's own socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// How far ahead of its rate an address may run: two seconds' worth, as a session may.
const BURST_SECONDS: u32 = 2;

/// A pace: frames one after another, each at its place in time (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the frames so far would have come at the rate, in nanoseconds.
    expected: AtomicU64,
}

impl Pace {
    /// Takes a frame's place at `per_second`, with so many at once; how long to read nothing after it. A rate of 0 is
    /// no limit.
    pub(crate) fn take(&self, now: Duration, per_second: u32, burst: u32) -> Duration {
        if per_second == 0 {
            return Duration::ZERO;
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let interval = 1_000_000_000 / u64::from(per_second);
        let next = |expected: u64| Some(expected.max(now).saturating_add(interval));
        // The number is all there is, so no other memory has to be ordered with it.
        let before = self.expected.fetch_update(Relaxed, Relaxed, next).unwrap_or_default();
        let ahead = before.max(now).saturating_add(interval) - now;
        Duration::from_nanos(ahead.saturating_sub(interval * u64::from(burst)))
    }
}

/// The addresses that have connections now.
#[derive(Default)]
pub(crate) struct Addresses {
    per_second: AtomicU64,
    live: Mutex<HashMap<IpAddr, Weak<AddressPace>>>,
}

/// The pace of one address. It lives as long as one of its connections.
pub(crate) struct AddressPace {
    all: Arc<Addresses>,
    network: IpAddr,
    pace: Pace,
}

impl Addresses {
    pub(super) fn configure(&self, frames_per_second: u32) {
        self.per_second.store(frames_per_second.into(), Relaxed);
    }

    /// The pace of a peer's address. Loopback has none: load balancers and tests are there.
    pub(crate) fn pace(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<AddressPace>> {
        let network = network(peer);
        if network.is_loopback() {
            return None;
        }
        let mut live = self.live.lock();
        if let Some(pace) = live.get(&network).and_then(Weak::upgrade) {
            return Some(pace);
        }
        let pace = Arc::new(AddressPace { all: Arc::clone(self), network, pace: Pace::default() });
        live.insert(network, Arc::downgrade(&pace));
        Some(pace)
    }
}

impl AddressPace {
    /// As [`Pace::take`].
    pub(crate) fn take(&self, now: Duration) -> Duration {
        let per_second = u32::try_from(self.all.per_second.load(Relaxed)).unwrap_or(u32::MAX);
        self.pace.take(now, per_second, per_second.saturating_mul(BURST_SECONDS))
    }
}

impl Drop for AddressPace {
    fn drop(&mut self) {
        let mut live = self.all.live.lock();
        // Another may have taken its place while this one was on its way out.
        if live.get(&self.network).is_some_and(|pace| pace.strong_count() == 0) {
            live.remove(&self.network);
        }
    }
}

/// Whom limits by address are about: an IPv4 address, or the IPv6 network of one customer, a /64.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.into(),
            None if address.is_loopback() => peer,
            None => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_lets_a_burst_pass_and_then_one_frame_after_another() {
        let pace = Pace::default();
        let now = Duration::from_secs(5);
        assert!((0..200).all(|_| pace.take(now, 100, 200).is_zero()), "two seconds' worth");
        let waits: Vec<u128> = (0..4).map(|_| pace.take(now, 100, 200).as_millis()).collect();
        assert_eq!(waits, [10, 20, 30, 40], "each has its own place in time");
        assert_eq!(pace.take(now + Duration::from_millis(50), 100, 200), Duration::ZERO);
        assert!(pace.take(now, 0, 0).is_zero(), "no limit");
    }

    #[test]
    fn a_network_is_one_and_is_forgotten_with_its_last_connection() {
        let addresses = Arc::<Addresses>::default();
        addresses.configure(10);
        let of = |address: &str| addresses.pace(address.parse().unwrap());
        let (one, neighbour) = (of("2001:db8::1").unwrap(), of("2001:db8::2").unwrap());
        assert!(Arc::ptr_eq(&one, &neighbour));
        assert!(!Arc::ptr_eq(&one, &of("2001:db8:0:1::1").unwrap()), "another customer's");
        let mapped = of("::ffff:192.0.2.1").unwrap();
        assert!(Arc::ptr_eq(&mapped, &of("192.0.2.1").unwrap()));
        let now = Duration::from_secs(1);
        assert!((0..20).all(|_| one.take(now).is_zero()));
        assert!(neighbour.take(now) > Duration::ZERO, "they share it");
        addresses.configure(0);
        assert!(neighbour.take(now).is_zero(), "a new rate holds for who is there");
        addresses.configure(10);
        assert!(mapped.take(now).is_zero());
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(of(loopback).is_none(), "{loopback}");
        }
        drop((one, neighbour, mapped));
        assert_eq!(addresses.live.lock().len(), 0);
    }
}
