//! What a client connects to over a network or a Unix socket: an endpoint, what it trusts, and what it says.

#[cfg(feature = "quic")]
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::{ClientKind, ClientProtocol, DialOptions};
use crate::{
    ConnectError, ConnectOptions, Connection, Endpoint, Framing, Protocol, Role, Wire, connect,
    session::driver::frame_limit,
};
#[cfg(feature = "quic")]
use crate::{connect::connect_early, quic::V2_ALPN};

/// A destination that may be wrong; it is judged when the client is built.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    endpoint: Result<Endpoint, String>,
    #[cfg(feature = "tls")]
    tls: Option<crate::ClientTls>,
    headers: HeaderMap,
    #[cfg(feature = "quic")]
    early: Option<Arc<EarlyDial>>,
    /// In a box, since few have one and every client has the room for it.
    #[cfg(feature = "qlog")]
    qlog: Option<Box<crate::Qlog>>,
}

/// What a client that sends early remembers of its server, from one connection to the next.
#[cfg(feature = "quic")]
#[derive(Debug, Default)]
struct EarlyDial {
    /// It has agreed on the second wire, which says what may be handled twice.
    speaks_v2: AtomicBool,
    /// What is trusted where nothing else is said: it has to be the same each time, since it keeps the tickets.
    roots: OnceLock<crate::ClientTls>,
}

impl Dial {
    #[cfg(feature = "tcp")]
    pub(super) fn to(url: &str) -> Self {
        Self::maybe(Endpoint::from_url(url).map_err(|error| error.to_string()))
    }

    pub(super) fn endpoint(endpoint: Endpoint) -> Self {
        Self::maybe(Ok(endpoint))
    }

    #[cfg(feature = "tls")]
    pub(super) fn trusting(self, tls: crate::ClientTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Sends idempotent requests early.
    #[cfg(feature = "quic")]
    pub(super) fn early(self) -> Self {
        Self { early: Some(Arc::default()), ..self }
    }

    #[cfg(feature = "qlog")]
    pub(super) fn recorded(self, qlog: crate::Qlog) -> Self {
        Self { qlog: Some(Box::new(qlog)), ..self }
    }

    /// Takes the protocol that is encrypted instead.
    #[cfg(feature = "tls")]
    pub(super) fn encrypted(mut self) -> Self {
        if let Ok(endpoint) = &mut self.endpoint {
            endpoint.protocol = match endpoint.protocol {
                Protocol::Tcp => Protocol::Tls,
                Protocol::WebSocket => Protocol::WebSocketTls,
                other => other,
            };
        }
        self
    }

    #[cfg(any(feature = "websocket", feature = "webtransport"))]
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        match (name.parse::<http::HeaderName>(), value.parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
            }
            _ => self.endpoint = Err(format!("{name:?} is no header, or its value is none")),
        }
        self
    }

    /// Whether it is a destination at all, and of a protocol that is there.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let protocol = self.endpoint.as_ref().map_err(Clone::clone)?.protocol;
        if protocol.is_available() { Ok(()) } else { Err(ConnectError::NotCompiledIn(protocol).to_string()) }
    }

    #[cfg(feature = "quic")]
    pub(super) fn sends_early(&self) -> bool {
        self.early.is_some()
    }

    #[cfg(not(feature = "quic"))]
    pub(super) fn sends_early(&self) -> bool {
        false
    }

    pub(super) fn is_over_udp(&self) -> bool {
        let protocol = self.endpoint.as_ref().map(|endpoint| endpoint.protocol);
        matches!(protocol, Ok(Protocol::Quic | Protocol::WebTransport))
    }

    /// Of one of these protocols, and no other.
    #[cfg(any(feature = "websocket", feature = "webtransport"))]
    pub(super) fn must_be(mut self, protocols: &[Protocol], scheme: &str) -> Self {
        if let Ok(endpoint) = &self.endpoint
            && !protocols.contains(&endpoint.protocol)
        {
            self.endpoint = Err(format!("{} where {scheme} is expected", endpoint.protocol));
        }
        self
    }

    pub(super) async fn connect(&self, options: &DialOptions) -> Result<Connection, ConnectError> {
        let endpoint = self.endpoint.as_ref().map_err(|error| ConnectError::Address(error.clone()))?;
        let framing = match endpoint.protocol {
            Protocol::Tcp | Protocol::Tls | Protocol::Unix | Protocol::Memory | Protocol::Custom(_) => {
                Framing::Packet
            }
            Protocol::WebSocket | Protocol::WebSocketTls => Framing::WebSocket { role: Role::Client },
            Protocol::Quic | Protocol::WebTransport => Framing::Length,
        };
        let mut headers = self.headers.clone();
        if matches!(framing, Framing::WebSocket { .. }) {
            // Both names are header values.
            let offer = match options.wire {
                Wire::V2 => HeaderValue::from_static("msgtrans.v2, msgtrans.v1"),
                Wire::V1 => HeaderValue::from_static("msgtrans.v1"),
            };
            headers.insert(SEC_WEBSOCKET_PROTOCOL, offer);
        }
        let alpns: &[&str] = match options.wire {
            Wire::V2 => &["msgtrans/2", "msgtrans/1"],
            Wire::V1 => &["msgtrans/1"],
        };
        let connect_options = ConnectOptions {
            #[cfg(feature = "tls")]
            tls: self.trust(endpoint.protocol)?,
            alpns: alpns.iter().map(|alpn| (*alpn).to_owned()).collect(),
            timeout: options.timeout,
            max_frame: frame_limit(framing, options.max_message),
            framing,
            headers,
            #[cfg(feature = "qlog")]
            qlog: self.qlog.as_deref().cloned(),
            keep_alive: Some(crate::defaults::HEARTBEAT),
            // The packet level has a use for the streams of lanes alone, and allows them itself.
            max_streams: 0,
            ..ConnectOptions::default()
        };
        #[cfg(feature = "quic")]
        if let Some(how) = &self.early {
            return how.connect(endpoint, &connect_options, options).await;
        }
        connect(endpoint, &connect_options).await
    }

    /// What was said, or the machine's own roots where something has to be trusted.
    #[cfg(feature = "tls")]
    fn trust(&self, protocol: Protocol) -> Result<Option<crate::ClientTls>, ConnectError> {
        let is_encrypted = matches!(
            protocol,
            Protocol::Tls | Protocol::WebSocketTls | Protocol::Quic | Protocol::WebTransport
        );
        #[cfg(feature = "quic")]
        if let (None, Some(how)) = (&self.tls, &self.early) {
            let roots = match how.roots.get() {
                Some(roots) => roots.clone(),
                None => {
                    let roots = crate::ClientTls::system_roots()?;
                    how.roots.get_or_init(|| roots).clone()
                }
            };
            return Ok(Some(roots));
        }
        match &self.tls {
            Some(tls) => Ok(Some(tls.clone())),
            None if is_encrypted => Ok(Some(crate::ClientTls::system_roots()?)),
            None => Ok(None),
        }
    }

    fn maybe(endpoint: Result<Endpoint, String>) -> Self {
        Self {
            endpoint,
            #[cfg(feature = "tls")]
            tls: None,
            headers: HeaderMap::new(),
            #[cfg(feature = "quic")]
            early: None,
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

#[cfg(feature = "quic")]
impl EarlyDial {
    /// Connects, and sends what is offered early if the server is known for what that takes.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        how: &ConnectOptions,
        options: &DialOptions,
    ) -> Result<Connection, ConnectError> {
        if let Some(early) = options.early.as_ref().filter(|_| options.wire == Wire::V2)
            && self.speaks_v2.load(Relaxed)
        {
            // Nothing else is offered, so that nothing is taken early under another wire.
            let how = ConnectOptions { alpns: vec![V2_ALPN.to_owned()], ..how.clone() };
            match connect_early(endpoint, &how, early).await {
                Err(ConnectError::Quic(error)) => {
                    tracing::debug!(error, "the server is not what it was: it is met as a stranger");
                    self.speaks_v2.store(false, Relaxed);
                }
                connected => return connected,
            }
        }
        let connection = connect(endpoint, how).await?;
        self.speaks_v2.store(connection.info.alpn.as_deref() == Some(V2_ALPN), Relaxed);
        Ok(connection)
    }
}

impl From<Dial> for ClientProtocol {
    fn from(dial: Dial) -> Self {
        Self(ClientKind::Dial(dial))
    }
}

#[cfg(feature = "tls")]
impl Endpoint {
    /// What a client connects with, and what it trusts where the URL is of an encrypted protocol. `tcp`, `ws` and `unix` stay
    /// plain, so that one call serves every URL.
    #[must_use]
    pub fn tls(self, tls: crate::ClientTls) -> ClientProtocol {
        Dial::endpoint(self).trusting(tls).into()
    }
}

impl From<Endpoint> for ClientProtocol {
    /// What is encrypted is verified by the machine's own root certificates; [`Endpoint::tls`] says otherwise.
    fn from(endpoint: Endpoint) -> Self {
        Dial::endpoint(endpoint).into()
    }
}
