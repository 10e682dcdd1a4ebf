//! A host with several addresses, or a server with several protocols: the first that answers is used (RFC 8305, "happy
//! eyeballs").
//!
//! An address that swallows packets costs [`ATTEMPT_DELAY`], not the whole time-out. It resolves names; what an attempt
//! is, its caller says.

use std::{future::Future, io, net::SocketAddr};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::lookup_host, time::sleep};

use crate::{ConnectError, Endpoint, defaults::ATTEMPT_DELAY};

/// The addresses of an endpoint's host, families in turn, so that one that is broken costs one delay.
pub(crate) async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ConnectError> {
    let fail = |error| ConnectError::Resolve { host: endpoint.host.clone(), error };
    let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(fail)?;
    let found = in_turn(found.collect());
    if found.is_empty() {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    Ok(found)
}

/// Addresses of the two families in turn, beginning with the resolver's first; in each family its order stays.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first().map(SocketAddr::is_ipv4) else { return found };
    let (preferred, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| at.is_ipv4() == first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let (one, another) = (preferred.next(), other.next());
        if one.is_none() && another.is_none() {
            return turns;
        }
        turns.extend(one.into_iter().chain(another));
    }
}

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
    use tokio::time::Instant;

    use super::*;

    fn at(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let found = at(&["[::1]:1", "[::2]:1", "[::3]:1", "192.0.2.1:1"]);
        assert_eq!(in_turn(found), at(&["[::1]:1", "192.0.2.1:1", "[::2]:1", "[::3]:1"]));
        assert_eq!(in_turn(at(&["192.0.2.1:1", "[::1]:1"])), at(&["192.0.2.1:1", "[::1]:1"]));
        assert!(in_turn(Vec::new()).is_empty());
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
