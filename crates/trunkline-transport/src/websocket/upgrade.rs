//! From an HTTP request to a connection: hyper answers 101, gives the stream back, and its buffers go.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header::ORIGIN};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;

use super::handshake::{UpgradeError, judge};
use crate::{
    Connection, Framing, IsFull, MiddlewareStack, Protocol, Role, ServerStream, defaults::MAX_FRAME,
};

/// Options of a WebSocket connection.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// The limit of one message, over all its fragments.
    pub max_frame: usize,
    /// Subprotocols that may be agreed on.
    pub subprotocols: Vec<String>,
    /// On a port of its own ([`super::WebSocketListener`]): the one path that is served, any other is 404. Without it
    /// any path will do.
    pub path: Option<String>,
    /// On a port of its own: whether newcomers are answered 503.
    pub is_full: Option<IsFull>,
    /// On a port of its own: its `on_handshake` judges requests before they are answered.
    pub middleware: MiddlewareStack,
}

impl Default for WebSocketOptions {
    /// Messages of 1 MiB, no subprotocol, any path, never full.
    fn default() -> Self {
        Self {
            max_frame: MAX_FRAME,
            subprotocols: Vec::new(),
            path: None,
            is_full: None,
            middleware: MiddlewareStack::default(),
        }
    }
}

/// Answers a request with `101 Switching Protocols`: send the response, and await the connection beside it (it
/// comes once hyper has written the response). Works for requests of a hyper HTTP/1 server, with upgrades,
/// that drives a [`ServerStream`] in a `TokioIo`.
///
/// # Errors
/// The request is not a proper WebSocket handshake; [`UpgradeError::response`] is the answer.
pub fn upgrade<B>(
    request: &mut Request<B>,
    options: &WebSocketOptions,
) -> Result<(Response<()>, Upgrade), UpgradeError> {
    let accept = judge(request.method(), request.version(), request.headers(), &options.subprotocols)?;
    if request.extensions().get::<OnUpgrade>().is_none() {
        return Err(UpgradeError::NotUpgradable);
    }
    let origin = request.headers().get(ORIGIN);
    let upgrade = Upgrade {
        origin: origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()),
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        subprotocol: accept.subprotocol.clone(),
        max_frame: options.max_frame,
        pending: hyper::upgrade::on(request),
    };
    Ok((accept.response(), upgrade))
}

/// The connection that an upgraded request becomes. Dropping it drops the connection.
#[derive(Debug)]
#[must_use = "the connection comes out of this future"]
pub struct Upgrade {
    origin: Option<String>,
    path: String,
    query: Option<String>,
    subprotocol: Option<String>,
    max_frame: usize,
    pending: OnUpgrade,
}

impl Future for Upgrade {
    type Output = io::Result<Connection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let upgraded = ready!(Pin::new(&mut self.pending).poll(cx)).map_err(io::Error::other)?;
        let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<ServerStream>>() else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, UpgradeError::NotUpgradable);
            return Poll::Ready(Err(error));
        };
        let stream = io.into_inner();
        let mut info = stream.info(Protocol::WebSocket, Protocol::WebSocketTls);
        info.origin = self.origin.take();
        info.path = Some(std::mem::take(&mut self.path));
        info.query = self.query.take();
        info.subprotocol = self.subprotocol.take();
        let framing = Framing::WebSocket { role: Role::Server };
        // What the client sent right behind its request is the beginning of its first frame.
        Poll::Ready(Ok(stream.into_io().into_connection(info, framing, self.max_frame, &read_buf)))
    }
}
