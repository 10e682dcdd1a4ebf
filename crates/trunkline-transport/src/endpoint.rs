//! Where a client connects to, or a server listens, chosen at run time by a URL.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use http::Uri;

use crate::Protocol;

/// An address with its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// How to connect.
    pub protocol: Protocol,
    /// A host name or address, an IPv6 one without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query of the request, for WebSocket and WebTransport; the path of a Unix socket. Begins with `/`.
    pub path_and_query: String,
}

/// Why a URL names no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url:?} names no endpoint: {reason}; write tcp|tls|ws|wss|quic|wt://host:port[/path], or unix:///path"
)]
pub struct EndpointError {
    url: String,
    reason: &'static str,
}

impl Endpoint {
    /// Reads `tcp|tls|ws|wss|quic|wt://host:port/path`. The web's schemes have the web's default ports
    /// (`ws` 80, `wss` and `wt` 443); `https` stands for `wt`. `unix:///path` is a Unix socket.
    ///
    /// # Errors
    /// The scheme is unknown, the host or a needed port is missing, or a user stands before the host, of whom nobody would be
    /// told.
    pub fn from_url(url: &str) -> Result<Self, EndpointError> {
        let fail = |reason| EndpointError { url: without_user(url), reason };
        if let Some(path) = url.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::unix(path));
        }
        let uri: Uri = url.parse().map_err(|_| fail("it is not a URL"))?;
        let (protocol, default_port) = match uri.scheme_str().ok_or_else(|| fail("the scheme is missing"))? {
            "tcp" => (Protocol::Tcp, None),
            "tls" => (Protocol::Tls, None),
            "ws" => (Protocol::WebSocket, Some(80)),
            "wss" => (Protocol::WebSocketTls, Some(443)),
            "quic" => (Protocol::Quic, None),
            "unix" => return Err(fail("a Unix socket has a path and nothing else")),
            "wt" | "https" => (Protocol::WebTransport, Some(443)),
            _ => return Err(fail("the scheme is unknown")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(fail("a user or password has no place in it"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| fail("the host is missing"))?;
        let bare = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if is_ipv6(address) => address,
            // Brackets are around an IPv6 address and nowhere else: of `host[::1]:8` the URL's parser makes the host `host[:`.
            None if !host.contains(['[', ']']) => host,
            Some(_) | None => return Err(fail("the host is malformed")),
        };
        // It takes `[::1]80` too, for the host without a port.
        let behind = authority.strip_prefix(host);
        if behind.is_none_or(|port| !port.is_empty() && !port.starts_with(':')) {
            return Err(fail("the host is malformed"));
        }
        let port = uri.port_u16().or(default_port).ok_or_else(|| fail("the port is missing"))?;
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            protocol,
            host: bare.to_owned(),
            port,
            path_and_query: if path_and_query.is_empty() { "/" } else { path_and_query }.to_owned(),
        })
    }

    /// A Unix socket: it has neither host nor port.
    pub(crate) fn unix(path: &str) -> Self {
        Self { protocol: Protocol::Unix, host: String::new(), port: 0, path_and_query: path.to_owned() }
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The URL as an error may show it: what stands before the host may be a password.
fn without_user(url: &str) -> String {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find('/').map_or(url.len(), |at| begin + at);
    match url[begin..end].rfind('@') {
        Some(at) => format!("{}...{}", &url[..begin], &url[begin + at..]),
        None => url.to_owned(),
    }
}

/// An address, perhaps with the zone that it is of: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Self::from_url(url)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::WebSocket => "ws",
            Protocol::WebSocketTls => "wss",
            Protocol::Quic => "quic",
            Protocol::WebTransport => "wt",
            Protocol::Memory => "memory",
            Protocol::Custom(name) => name,
            Protocol::Unix => return write!(f, "unix://{}", self.path_and_query),
        };
        let path = if self.path_and_query == "/" { "" } else { &self.path_and_query };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;
    use crate::Protocol;

    #[test]
    fn urls_name_protocol_host_port_and_path() {
        let cases = [
            ("tcp://127.0.0.1:8090", Protocol::Tcp, "127.0.0.1", 8090, "/"),
            ("unix:///run/chat.sock", Protocol::Unix, "", 0, "/run/chat.sock"),
            ("tls://example.org:1", Protocol::Tls, "example.org", 1, "/"),
            ("ws://example.org", Protocol::WebSocket, "example.org", 80, "/"),
            ("wss://44:443", Protocol::WebSocketTls, "44", 443, "/"),
            ("wss://example.org/ws?x=1", Protocol::WebSocketTls, "example.org", 443, "/ws?x=1"),
            ("quic://[::1]:8453", Protocol::Quic, "::1", 8453, "/"),
            ("tcp://[fe80::1%eth0]:1", Protocol::Tcp, "fe80::1%eth0", 1, "/"),
            ("wt://localhost:8453/a", Protocol::WebTransport, "localhost", 8453, "/a"),
            ("https://localhost:8453/a", Protocol::WebTransport, "localhost", 8453, "/a"),
        ];
        for (url, protocol, host, port, path) in cases {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!(endpoint.protocol, protocol, "{url}");
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{url}");
            assert_eq!(endpoint.path_and_query, path, "{url}");
            assert_eq!(Endpoint::from_url(&endpoint.to_string()).unwrap(), endpoint, "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_says_what_to_write() {
        for url in [
            "",
            "localhost:1",
            "tcp://localhost",
            "quic://h",
            "ftp://h:1",
            "tcp://:1",
            "tcp://h:99999",
            "/x",
            "quic://h[::1]:8",
            "ws://[%001]80/path",
            "ws://[::1]80",
            "ws://[host]:80",
            "ws://[@%00::1]:80",
            "wss://alice:secret@host/ws",
            "tcp://[]:80",
        ] {
            let error = Endpoint::from_url(url).unwrap_err().to_string();
            assert!(error.contains("tcp|tls|ws|wss|quic|wt://host:port"), "{url}: {error}");
        }
    }

    #[test]
    fn an_error_shows_no_password() {
        for url in ["wss://alice:secret@host/a@b", "alice:secret@host:1", "tcp://a:secret@b:secret@:1"] {
            let error = Endpoint::from_url(url).unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains("...@"), "{url}: {error}");
        }
    }
}
