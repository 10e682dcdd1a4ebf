//! How many connections one address may open in a second. Loopback is exempt: it is where load balancers and tests are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::Instant;
use trunkline_gateway::network;

/// Addresses that are remembered at once; beyond it those that have rested are forgotten.
const MAX_ADDRESSES: usize = 65_536;

/// A token bucket per address: `rate` a second, and as many at once.
pub(super) struct ConnectionRate {
    rate: AtomicU32,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl ConnectionRate {
    /// 0 is no limit.
    pub(super) fn new(per_second: u32) -> Self {
        ConnectionRate { rate: per_second.into(), buckets: Mutex::default() }
    }

    /// Changes the rate. What addresses have used counts on.
    pub(super) fn set(&self, per_second: u32) {
        self.rate.store(per_second, Relaxed);
    }

    /// May this address open another connection now?
    pub(super) fn admits(&self, peer: IpAddr) -> bool {
        let rate = f64::from(self.rate.load(Relaxed));
        if rate == 0.0 || peer.is_loopback() {
            return true;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_ADDRESSES {
            buckets.retain(|_, bucket| bucket.filled(now, rate) < rate);
        }
        let bucket = buckets.entry(network(peer)).or_insert(Bucket { tokens: rate, at: now });
        bucket.tokens = bucket.filled(now, rate);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

impl Bucket {
    fn filled(&self, now: Instant, rate: f64) -> f64 {
        (self.tokens + now.duration_since(self.at).as_secs_f64() * rate).min(rate)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_stopped_and_comes_back() {
        let rate = ConnectionRate::new(10);
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..20).filter(|_| rate.admits(peer)).count(), 10);
        assert!(rate.admits("192.0.2.2".parse().unwrap()), "another address has its own");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..20).filter(|_| rate.admits(peer)).count(), 5);
    }

    #[test]
    fn an_ipv6_customer_is_one_and_loopback_is_nobody() {
        let rate = ConnectionRate::new(1);
        assert!(rate.admits("2001:db8::1".parse().unwrap()));
        assert!(!rate.admits("2001:db8::2".parse().unwrap()));
        assert!((0..100).all(|_| rate.admits("127.0.0.1".parse().unwrap())));
    }
}
