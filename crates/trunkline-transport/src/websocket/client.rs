//! The client's side of the opening handshake.
//!
//! It follows no redirect and keeps no cookie: the caller decides what to do about an answer that is not 101.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::handshake::{accept_key, has_token};
use crate::defaults::MAX_HTTP_HEAD;

/// Why a server does not speak WebSocket with us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientHandshakeError {
    /// The link failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer is not HTTP, or its head is too long.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The answer is not `101 Switching Protocols`.
    #[error("the server answered {status}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// Where the server sends us instead.
        location: Option<String>,
    },
    /// The answer is 101 but breaks the handshake.
    #[error("the server's handshake is wrong: {0}")]
    Invalid(&'static str),
}

/// What was agreed on, and what the server sent right behind its answer.
pub(crate) struct Agreed {
    pub(crate) subprotocol: Option<String>,
    pub(crate) read_ahead: BytesMut,
}

/// Asks for an upgrade. `headers` come on top of the handshake's own.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    authority: &str,
    path_and_query: &str,
    headers: &HeaderMap,
) -> Result<Agreed, ClientHandshakeError> {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let mut request = format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    )
    .into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut buf = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buf).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some((length, subprotocol)) = parse(&buf, &key)? {
            buf.advance(length);
            return Ok(Agreed { subprotocol, read_ahead: buf });
        }
        if buf.len() >= MAX_HTTP_HEAD {
            return Err(ClientHandshakeError::NotHttp);
        }
    }
}

/// Judges an answer: `None` while its head is not complete, else the head's length and the subprotocol.
fn parse(buf: &[u8], key: &str) -> Result<Option<(usize, Option<String>)>, ClientHandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(buf) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ClientHandshakeError::NotHttp),
    };
    let headers: HeaderMap = response
        .headers
        .iter()
        .filter_map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(header.value).ok()?))
        })
        .collect();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = response.code.unwrap_or(0);
    if status != 101 {
        let location = text(http::header::LOCATION);
        return Err(ClientHandshakeError::Status { status, location });
    }
    let invalid = |what| Err(ClientHandshakeError::Invalid(what));
    if !has_token(&headers, &UPGRADE, "websocket") || !has_token(&headers, &CONNECTION, "upgrade") {
        return invalid("it does not upgrade");
    }
    if text(SEC_WEBSOCKET_ACCEPT) != Some(accept_key(key.as_bytes())) {
        return invalid("Sec-WebSocket-Accept does not answer our key");
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return invalid("it uses an extension that was not asked for");
    }
    Ok(Some((length, text(SEC_WEBSOCKET_PROTOCOL))))
}
