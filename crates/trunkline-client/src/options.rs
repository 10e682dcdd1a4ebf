//! What a client is told before it connects.

use std::time::Duration;

use trunkline_proto::Dialect;
use trunkline_transport::{ClientTls, Endpoint};

use crate::defaults;

/// How to reach a gateway, and as whom.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use trunkline_client::Options;
///
/// let mut options = Options::new("alice", "eyJhbGciOi…");
/// options.endpoints = vec!["quic://gateway.example:8453".parse()?, "wss://gateway.example/ws".parse()?];
/// options.tls = Some(trunkline_client::ClientTls::pinned(vec![[0x3f; 32]])?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// In order of preference. The first gets a head start; then all are tried at once, and the first whose
    /// handshake is done is used. Only handshakes are raced: one START goes out.
    pub endpoints: Vec<Endpoint>,
    /// The user that the token is for.
    pub user: String,
    /// A JWT, or what the gateway's authenticator understands; may be empty where the gateway lets anybody in.
    pub token: String,
    /// The device. One session per user and device: a second client of the same device replaces the first.
    pub device: String,
    /// `web`, `ios`, `android`, `desktop`, …: for login policies and people.
    pub platform: String,
    /// What the client calls itself, for people.
    pub name: String,
    /// How frames are written.
    pub dialect: Dialect,
    /// What to trust on `tls`, `wss`, `quic` and `wt` endpoints. Once one of them shows a certificate that is not
    /// trusted, no plain endpoint is used in that attempt.
    pub tls: Option<ClientTls>,
    /// How much earlier the first endpoint starts.
    pub head_start: Duration,
    /// For one attempt to connect, over all endpoints together: those that start later have less of it.
    pub connect_timeout: Duration,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// For calls and requests that do not say otherwise.
    pub call_timeout: Duration,
    /// How many bytes of unread events are kept; see [`crate::Pushes`] for what happens beyond.
    pub event_bytes: usize,
}

/// Waits between attempts: each is random between zero and a bound that doubles ("full jitter"), so that
/// thousands of clients that lost the same gateway do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first bound.
    pub first: Duration,
    /// The last one.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: defaults::FIRST_BACKOFF, longest: defaults::LONGEST_BACKOFF }
    }
}

impl Options {
    /// A user and a token; endpoints are still to be named.
    pub fn new(user: impl Into<String>, token: impl Into<String>) -> Self {
        Options {
            endpoints: Vec::new(),
            user: user.into(),
            token: token.into(),
            device: String::new(),
            platform: String::new(),
            name: concat!("trunkline-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            dialect: Dialect::Protobuf,
            tls: None,
            head_start: defaults::HEAD_START,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            backoff: Backoff::default(),
            call_timeout: defaults::CALL_TIMEOUT,
            event_bytes: defaults::EVENT_BYTES,
        }
    }

    /// One endpoint more, behind those that are there.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }
}

impl Backoff {
    /// The bound of the wait before attempt `attempt` (0 is the first after a loss).
    pub(crate) fn bound(self, attempt: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(attempt.min(31))).min(self.longest)
    }

    /// The wait itself; `share` is random in `0.0..1.0`.
    pub(crate) fn wait(self, attempt: u32, share: f64) -> Duration {
        self.bound(attempt).mul_f64(share.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(30) };
        let bounds: Vec<_> = (0..10).map(|attempt| backoff.bound(attempt).as_millis()).collect();
        assert_eq!(bounds, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(backoff.bound(u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn a_wait_is_anything_below_its_bound() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.wait(3, 0.5), backoff.bound(3) / 2);
        assert!(backoff.wait(3, 0.999) < backoff.bound(3));
    }
}
