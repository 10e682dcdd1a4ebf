//! A host with several addresses, or a server with several protocols: the first that answers is used (RFC 8305, "happy
//! eyeballs").
//!
//! One that swallows packets costs [`ATTEMPT_DELAY`], not the whole time-out. What an attempt is, its caller says.

use std::future::Future;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::sleep;

use crate::defaults::ATTEMPT_DELAY;

/// The result of the first attempt that succeeds. Each begins [`ATTEMPT_DELAY`] after the one before it, or when one
/// fails; those that lose are dropped. `None`: there is no address. Otherwise the first failure is told: that of the
/// address which the resolver prefers, unless it answers nothing.
pub(crate) async fn first_to_answer<A, T, E, F: Future<Output = Result<T, E>>>(
    addresses: Vec<A>,
    attempt: impl Fn(A) -> F,
) -> Option<Result<T, E>> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    running.push(attempt(waiting.next()?));
    let mut failed = None;
    loop {
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some(Ok(won)) => return Some(Ok(won)),
                Some(Err(error)) => {
                    failed.get_or_insert(error);
                    running.extend(waiting.next().map(&attempt));
                }
                None => return failed.map(Err),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => running.extend(waiting.next().map(&attempt)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::Instant;

    use super::*;

    fn at(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Addresses by their last byte: 1 swallows packets, 2 refuses, 3 answers after a second, 4 at once.
    async fn reach(address: SocketAddr) -> Result<SocketAddr, &'static str> {
        match address.port() {
            1 => std::future::pending().await,
            2 => Err("refused"),
            3 => {
                sleep(std::time::Duration::from_secs(1)).await;
                Ok(address)
            }
            _ => Ok(address),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_one_delay_and_a_refusal_none() {
        let begin = Instant::now();
        let won = first_to_answer(at(&["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:4"]), reach).await;
        assert_eq!(won, Some(Ok(at(&["192.0.2.1:4"])[0])));
        assert_eq!(begin.elapsed().as_millis(), ATTEMPT_DELAY.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_goes_on_beside_the_next() {
        let begin = Instant::now();
        let won = first_to_answer(at(&["192.0.2.1:3", "192.0.2.1:1"]), reach).await;
        assert_eq!(won, Some(Ok(at(&["192.0.2.1:3"])[0])));
        assert_eq!(begin.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_first_failure_is_told() {
        assert_eq!(first_to_answer(at(&["192.0.2.1:2", "192.0.2.2:2"]), reach).await, Some(Err("refused")));
        assert_eq!(first_to_answer(Vec::new(), reach).await, None);
    }
}
