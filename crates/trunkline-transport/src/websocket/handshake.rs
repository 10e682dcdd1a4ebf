//! The opening handshake (RFC 6455 §4) as a pure function of a request's head.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request,
};
use sha1::{Digest, Sha1};

/// Why a request does not become a WebSocket connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Only GET can be upgraded.
    #[error("a WebSocket request is a GET")]
    Method,
    /// Only HTTP/1.1 can be upgraded here.
    #[error("a WebSocket request needs HTTP/1.1")]
    Version,
    /// `Connection: upgrade` or `Upgrade: websocket` is missing: an ordinary request.
    #[error("this address expects a WebSocket upgrade")]
    NotAnUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("only version 13 of WebSocket is spoken")]
    WebSocketVersion,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key is missing or malformed")]
    Key,
    /// The server cannot give the connection away: it was not driven by one of our listeners.
    #[error("this connection cannot be upgraded")]
    NotUpgradable,
}

impl UpgradeError {
    /// The response that says so; the text is [`UpgradeError`]'s own.
    #[must_use]
    pub fn response(self) -> Response<String> {
        let mut response = Response::new(format!("{self}\n"));
        *response.status_mut() = match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::NotAnUpgrade | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::Key => StatusCode::BAD_REQUEST,
            Self::NotUpgradable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let headers = response.headers_mut();
        match self {
            Self::Method => insert(headers, ALLOW, "GET"),
            Self::NotAnUpgrade => insert(headers, UPGRADE, "websocket"),
            Self::WebSocketVersion => {
                insert(headers, UPGRADE, "websocket");
                insert(headers, SEC_WEBSOCKET_VERSION, "13");
            }
            Self::Version | Self::Key | Self::NotUpgradable => {}
        }
        response
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// The answer to a request that may be upgraded.
#[derive(Clone, PartialEq, Eq)]
pub struct Accept {
    key: String,
    /// The subprotocol that both sides know, the client's first choice.
    pub subprotocol: Option<String>,
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("subprotocol", &self.subprotocol).finish_non_exhaustive()
    }
}

impl Accept {
    /// `101 Switching Protocols`.
    #[must_use]
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        insert(headers, CONNECTION, "upgrade");
        insert(headers, UPGRADE, "websocket");
        // base64 is always a header value; a subprotocol came out of one.
        if let Ok(key) = HeaderValue::from_str(&self.key) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, key);
        }
        if let Some(value) = self.subprotocol.as_deref().and_then(|name| HeaderValue::from_str(name).ok()) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        response
    }
}

/// Judges the head of a request. A subprotocol is agreed on only if one of `subprotocols` was asked for.
///
/// # Errors
/// The request is not a proper WebSocket handshake.
pub fn accept_request(head: &request::Parts, subprotocols: &[String]) -> Result<Accept, UpgradeError> {
    judge(&head.method, head.version, &head.headers, subprotocols)
}

pub(super) fn judge(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    subprotocols: &[String],
) -> Result<Accept, UpgradeError> {
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        return Err(UpgradeError::NotAnUpgrade);
    }
    if method != Method::GET {
        return Err(UpgradeError::Method);
    }
    if version != Version::HTTP_11 {
        return Err(UpgradeError::Version);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UpgradeError::WebSocketVersion);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(UpgradeError::Key)?;
    if STANDARD.decode(key).ok().is_none_or(|key| key.len() != 16) {
        return Err(UpgradeError::Key);
    }
    let subprotocol = tokens(headers, &SEC_WEBSOCKET_PROTOCOL)
        .find(|asked| subprotocols.iter().any(|known| known == asked))
        .map(str::to_owned);
    Ok(Accept { key: accept_key(key.as_bytes()), subprotocol })
}

/// `Sec-WebSocket-Accept` of a key (§4.2.2).
pub(super) fn accept_key(key: &[u8]) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}

/// Whether a comma-separated header has this word.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|word| word.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};

    use super::{UpgradeError, accept_request};

    /// The request of RFC 6455 §1.3.
    fn request() -> http::request::Builder {
        Request::get("/chat")
            .header("host", "server.example.com")
            .header("upgrade", "websocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", "chat, superchat")
            .header("sec-websocket-version", "13")
    }

    fn head(builder: http::request::Builder) -> http::request::Parts {
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_sample_handshake_of_the_rfc_gives_its_sample_answer() {
        let accept = accept_request(&head(request()), &["superchat".to_owned()]).unwrap();
        let response = accept.response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "superchat");
        assert_eq!(response.headers()["upgrade"], "websocket");
        assert_eq!(response.headers()["connection"], "upgrade");
    }

    #[test]
    fn an_unknown_subprotocol_is_left_out() {
        let accept = accept_request(&head(request()), &["other".to_owned()]).unwrap();
        assert_eq!(accept.subprotocol, None);
        assert!(!accept.response().headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn each_broken_handshake_has_its_own_answer() {
        let without = |name: &str| {
            let mut head = head(request());
            head.headers.remove(name);
            head
        };
        let with = |name: &'static str, value: &'static str| {
            let mut head = head(request());
            head.headers.insert(name, value.parse().unwrap());
            head
        };
        let mut post = head(request());
        post.method = http::Method::POST;
        let mut old = head(request());
        old.version = http::Version::HTTP_10;
        let cases = [
            (without("upgrade"), UpgradeError::NotAnUpgrade, 426),
            (without("connection"), UpgradeError::NotAnUpgrade, 426),
            (with("upgrade", "h2c"), UpgradeError::NotAnUpgrade, 426),
            (post, UpgradeError::Method, 405),
            (old, UpgradeError::Version, 505),
            (without("sec-websocket-version"), UpgradeError::WebSocketVersion, 426),
            (with("sec-websocket-version", "8"), UpgradeError::WebSocketVersion, 426),
            (without("sec-websocket-key"), UpgradeError::Key, 400),
            (with("sec-websocket-key", "c2hvcnQ="), UpgradeError::Key, 400),
            (with("sec-websocket-key", "!"), UpgradeError::Key, 400),
        ];
        for (head, expected, status) in cases {
            let error = accept_request(&head, &[]).unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(error.response().status(), status);
        }
        assert_eq!(UpgradeError::WebSocketVersion.response().headers()["sec-websocket-version"], "13");
    }
}
