//! What listeners on a network have in common: names, and the first address that can be bound.

use std::{io, net::SocketAddr};

use tokio::net::lookup_host;

use crate::BuildError;

/// The addresses of `host:port`.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, BuildError> {
    let fail = |error| BuildError::Address { address: address.to_owned(), error };
    let found: Vec<SocketAddr> = lookup_host(address).await.map_err(fail)?.collect();
    if found.is_empty() {
        return Err(fail(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Binds the first of the name's addresses that can be bound.
pub(super) fn bind_first<T>(
    address: &str,
    found: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T, BuildError> {
    let mut failed = None;
    for candidate in found {
        match bind(*candidate) {
            Ok(bound) => return Ok(bound),
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(BuildError::Bind { address: address.to_owned(), error })
}
