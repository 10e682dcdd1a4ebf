//! The addresses of a host, in the order in which they are tried.

use std::{io, net::SocketAddr};

use tokio::net::lookup_host;

use crate::{ConnectError, Endpoint};

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

#[cfg(test)]
mod tests {
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
}
