//! What a server listens on by a URL: the configuration that its scheme stands for.
//!
//! It knows no more of a protocol than its name: the rest is the configuration's.

use super::{Acceptor, Listen, ListenOptions, ServerProtocol};
use crate::{BoxFuture, BuildError, ConnectError, Endpoint, Protocol};

impl From<Endpoint> for ServerProtocol {
    /// Listens where the URL says, on its path alone if it names one; port 0 takes any free one. What is encrypted needs
    /// [`Endpoint::server_tls`].
    fn from(endpoint: Endpoint) -> Self {
        Self::of(At {
            endpoint,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }
}

#[cfg(feature = "tls")]
impl Endpoint {
    /// What a server listens on, and what it presents where the URL is of an encrypted protocol. `tcp`, `ws` and `unix` stay
    /// plain, so that one call serves every URL.
    #[must_use]
    pub fn server_tls(self, tls: crate::Tls) -> ServerProtocol {
        ServerProtocol::of(At { endpoint: self, tls: Some(tls) })
    }
}

/// An endpoint to listen on; it is judged when the server is built.
#[derive(Clone, Debug)]
struct At {
    endpoint: Endpoint,
    #[cfg(feature = "tls")]
    tls: Option<crate::Tls>,
}

impl Listen for At {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { self.protocol()?.bind(options).await })
    }
}

impl At {
    fn protocol(&self) -> Result<ServerProtocol, BuildError> {
        let at = &self.endpoint;
        match at.protocol {
            #[cfg(feature = "tcp")]
            Protocol::Tcp => Ok(super::TcpServerConfig::new(at.authority()).into()),
            #[cfg(feature = "tls")]
            Protocol::Tls => {
                Ok(super::TcpServerConfig::new(at.authority()).tls(self.tls("a TLS server")?).into())
            }
            #[cfg(feature = "websocket")]
            Protocol::WebSocket => Ok(self.websocket()?.into()),
            #[cfg(all(feature = "websocket", feature = "tls"))]
            Protocol::WebSocketTls => Ok(self.websocket()?.tls(self.tls("a WSS server")?).into()),
            #[cfg(feature = "quic")]
            Protocol::Quic => {
                Ok(super::QuicServerConfig::new(at.authority()).tls(self.tls("a QUIC server")?).into())
            }
            #[cfg(feature = "webtransport")]
            Protocol::WebTransport => {
                let config = super::WebTransportServerConfig::new(at.authority());
                let config = config.tls(self.tls("a WebTransport server")?);
                Ok(match self.path()? {
                    Some(path) => config.path(path).into(),
                    None => config.into(),
                })
            }
            #[cfg(all(unix, feature = "unix"))]
            Protocol::Unix => Ok(super::UnixServerConfig::new(&at.path_and_query).into()),
            Protocol::Memory | Protocol::Custom(_) => {
                Err(BuildError::Endpoint("there is no address to listen on".to_owned()))
            }
            #[allow(unreachable_patterns, reason = "with every feature there is no other")]
            other => Err(BuildError::Endpoint(ConnectError::NotCompiledIn(other).to_string())),
        }
    }

    #[cfg(feature = "websocket")]
    fn websocket(&self) -> Result<super::WebSocketServerConfig, BuildError> {
        let config = super::WebSocketServerConfig::new(self.endpoint.authority());
        Ok(match self.path()? {
            Some(path) => config.path(path),
            None => config,
        })
    }

    /// The one path that is served, or any: a URL that ends behind its port has none.
    #[cfg(any(feature = "websocket", feature = "webtransport"))]
    fn path(&self) -> Result<Option<&str>, BuildError> {
        let path = self.endpoint.path_and_query.as_str();
        if path.contains('?') {
            return Err(BuildError::Endpoint(format!("{}: a server has no query", self.endpoint)));
        }
        Ok(Some(path).filter(|path| *path != "/"))
    }

    #[cfg(feature = "tls")]
    fn tls(&self, who: &'static str) -> Result<crate::Tls, BuildError> {
        self.tls.clone().ok_or(BuildError::NoCertificate(who))
    }
}
