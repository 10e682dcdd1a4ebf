//! How a refusal for load is told: its error, and a time to come back that is not everybody's.

use std::time::Duration;

use trunkline_proto::ErrorCode;
use trunkline_proto::wire::ErrorMessage;

use crate::gate::RequestRefusal;
use crate::ids::SessionId;

/// The error with its `retry_after_ms`, rounded up: who comes back when told must not be told so again.
pub(crate) fn message(why: RequestRefusal, after: Duration) -> ErrorMessage {
    let code = if why.is_pace() { ErrorCode::RateLimited } else { ErrorCode::Overloaded };
    let mut error = code.message(why.text());
    error.retry_after_ms = u32::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1);
    error
}

/// The time and up to half as much again. Sessions that were refused in one moment are told different times, without
/// a source of randomness: session ids are random, and the salt differs from one request to the next.
pub(crate) fn spread(after: Duration, session: SessionId, salt: u64) -> Duration {
    let [low, high] = [session.0 as u64, (session.0 >> 64) as u64];
    // The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    let mut mixed = low ^ high.rotate_left(32) ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let part = ((mixed ^ (mixed >> 31)) % 512) as u32;
    after + after / 1024 * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_told_different_times_and_none_too_early() {
        let after = Duration::from_millis(120);
        let told = |session: u128| spread(after, SessionId(session << 64 | 7), 1);
        let mut times: Vec<Duration> = (0..100).map(told).collect();
        assert!(times.iter().all(|time| (after..after * 3 / 2).contains(time)), "{times:?}");
        times.sort_unstable();
        times.dedup();
        assert!(times.len() > 80, "{} times for 100 sessions", times.len());
        assert_ne!(told(1), spread(after, SessionId(1 << 64 | 7), 2), "nor the same one every time");
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_nothing() {
        let told = |after| message(RequestRefusal::CallRate, after).retry_after_ms;
        assert_eq!((told(Duration::ZERO), told(Duration::from_micros(1_001))), (1, 2));
        assert_eq!(message(RequestRefusal::FrameRate, Duration::ZERO).error_code, 429);
    }
}
