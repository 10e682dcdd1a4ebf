//! What a client connects to over a network or a Unix socket: an endpoint, what it trusts, and what it says.

use http::{HeaderMap, HeaderName, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::{ClientKind, ClientProtocol, DialOptions};
use crate::{
    ClientTls, ConnectError, ConnectOptions, Connection, Endpoint, Framing, Protocol, Role, Wire, connect,
    session::driver::frame_limit,
};

/// A destination that may be wrong; it is judged when the client is built.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    endpoint: Result<Endpoint, String>,
    tls: Option<ClientTls>,
    headers: HeaderMap,
}

impl Dial {
    pub(super) fn to(url: &str) -> Self {
        Self { endpoint: Endpoint::from_url(url).map_err(|error| error.to_string()), ..Self::nowhere() }
    }

    pub(super) fn endpoint(endpoint: Endpoint) -> Self {
        Self { endpoint: Ok(endpoint), ..Self::nowhere() }
    }

    pub(super) fn trusting(self, tls: ClientTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Takes the protocol that is encrypted instead.
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

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
            }
            _ => self.endpoint = Err(format!("{name:?} is no header, or its value is none")),
        }
        self
    }

    /// Whether it is a destination at all, and of one of these protocols.
    pub(crate) fn judge(&self) -> Result<(), String> {
        self.endpoint.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    pub(super) fn is_over_udp(&self) -> bool {
        let protocol = self.endpoint.as_ref().map(|endpoint| endpoint.protocol);
        matches!(protocol, Ok(Protocol::Quic | Protocol::WebTransport))
    }

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
        let is_encrypted = !matches!(
            endpoint.protocol,
            Protocol::Tcp | Protocol::WebSocket | Protocol::Unix | Protocol::Memory | Protocol::Custom(_)
        );
        let tls = match &self.tls {
            Some(tls) => Some(tls.clone()),
            None if is_encrypted => Some(ClientTls::system_roots()?),
            None => None,
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
            tls,
            alpns: alpns.iter().map(|alpn| (*alpn).to_owned()).collect(),
            timeout: options.timeout,
            max_frame: frame_limit(framing, options.max_message),
            framing,
            headers,
            keep_alive: Some(crate::defaults::HEARTBEAT),
            ..ConnectOptions::default()
        };
        connect(endpoint, &connect_options).await
    }

    fn nowhere() -> Self {
        Self { endpoint: Err("no address".to_owned()), tls: None, headers: HeaderMap::new() }
    }
}

impl From<Dial> for ClientProtocol {
    fn from(dial: Dial) -> Self {
        Self(ClientKind::Dial(dial))
    }
}

impl From<Endpoint> for ClientProtocol {
    /// What is encrypted is verified by the machine's own root certificates.
    fn from(endpoint: Endpoint) -> Self {
        Dial::endpoint(endpoint).into()
    }
}
