//! A protocol of one's own, disturbed.

use std::{io, net::SocketAddr};

use super::StreamChaos;
use crate::{CustomProtocol, Link};

/// A custom protocol whose clients connect through a [`StreamChaos`]. Servers listen as ever.
#[derive(Clone, Debug)]
pub struct Disturbed<P> {
    protocol: P,
    chaos: StreamChaos,
}

impl<P: CustomProtocol> Disturbed<P> {
    /// Disturbs this protocol.
    pub fn new(protocol: P, chaos: &StreamChaos) -> Self {
        Self { protocol, chaos: chaos.clone() }
    }
}

impl<P: CustomProtocol> CustomProtocol for Disturbed<P> {
    type Listener = P::Listener;

    fn name(&self) -> &'static str {
        self.protocol.name()
    }

    async fn bind(&self) -> io::Result<Self::Listener> {
        self.protocol.bind().await
    }

    async fn accept(listener: &mut Self::Listener) -> io::Result<Link> {
        P::accept(listener).await
    }

    async fn connect(&self) -> io::Result<Link> {
        Ok(self.protocol.connect().await?.through(&self.chaos))
    }

    fn local_addr(listener: &Self::Listener) -> Option<SocketAddr> {
        P::local_addr(listener)
    }
}
