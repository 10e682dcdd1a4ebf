//! A port of its own for WebSocket: a [`StreamListener`] and the smallest HTTP service that upgrades.
//!
//! It serves nothing else. Where WebSocket shares the HTTP port, that port's own service calls
//! [`super::upgrade`].

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Extensions, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Upgrade, WebSocketOptions, handshake, upgrade};
use crate::{
    Accepted, Connection, ConnectionInfo, Handshake, IsFull, Protocol, Refusal, ServerStream, Socket,
    StreamListener, StreamOptions, accept::sleep_until, defaults::MAX_HTTP_HEAD, handshakes::Handshakes,
};

/// Accepts WebSocket connections on a port of its own, whatever the path. Dropping it stops listening and
/// drops the handshakes under way.
#[derive(Debug)]
pub struct WebSocketListener {
    streams: StreamListener,
    options: Arc<WebSocketOptions>,
    handshake_timeout: Duration,
    upgrades: Upgrades,
}

struct Upgrades(Handshakes<Connection>);

impl std::fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Upgrades").field(&self.0.len()).finish()
    }
}

impl WebSocketListener {
    /// Binds and listens. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`StreamListener::bind`].
    pub fn bind(
        socket: Socket<std::net::TcpListener>,
        streams: StreamOptions,
        options: WebSocketOptions,
    ) -> io::Result<Self> {
        let handshake_timeout = streams.handshake_timeout;
        let upgrades = Upgrades(Handshakes::new(streams.max_handshakes));
        let streams = StreamListener::bind(socket, streams)?;
        Ok(Self { streams, options: Arc::new(options), handshake_timeout, upgrades })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.streams.local_addr()
    }

    /// The next connection; `None` once cancelled. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            let wait_until = self.upgrades.0.room_at();
            tokio::select! {
                biased;
                // Ended handshakes first: they make room for new ones.
                ended = self.upgrades.0.ended() => {
                    if ended.is_some() {
                        return ended;
                    }
                }
                () = sleep_until(wait_until), if wait_until.is_some() => {}
                accepted = self.streams.accept(), if wait_until.is_none() => self.admit(accepted?),
            }
        }
    }

    fn admit(&mut self, accepted: Accepted) {
        let limit = self.handshake_timeout;
        match accepted {
            Accepted::Stream(stream) => {
                let options = Arc::clone(&self.options);
                self.upgrades.0.begin(async move {
                    let peer = stream.peer();
                    match timeout(limit, serve(stream, &options)).await {
                        Ok(Ok(connection)) => Some(connection),
                        Ok(Err(error)) => {
                            tracing::debug!(%peer, %error, "no WebSocket handshake");
                            None
                        }
                        Err(_) => {
                            tracing::debug!(%peer, "WebSocket handshake timed out");
                            None
                        }
                    }
                });
            }
            #[cfg(feature = "tls")]
            Accepted::PlainRefused(stream) => self.upgrades.0.begin(async move {
                super::redirect_to_https(stream, limit).await;
                None
            }),
        }
    }
}

/// One request, one answer: the connection if it was an upgrade.
async fn serve(stream: ServerStream, options: &WebSocketOptions) -> io::Result<Connection> {
    let pending: Mutex<Option<(Upgrade, Option<Extensions>)>> = Mutex::new(None);
    let info = stream.info(Protocol::WebSocket, Protocol::WebSocketTls);
    let service = service_fn(async |mut request: Request<Incoming>| {
        if let Some(refusal) = refuse(&request, options) {
            return Ok::<_, Infallible>(refusal);
        }
        let extensions = match judge(&request, &info, options).await {
            Ok(extensions) => extensions,
            Err(refusal) => return Ok(closing(refusal.http_status(), format!("{}\n", refusal.reason))),
        };
        Ok::<_, Infallible>(match upgrade(&mut request, options) {
            Ok((response, upgrade)) => {
                *pending.lock() = Some((upgrade, extensions));
                response.map(|()| Full::default())
            }
            Err(error) => {
                let mut response = error.response().map(|text| Full::new(Bytes::from(text)));
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
        })
    });
    http1(stream, service).await?;
    match pending.into_inner() {
        Some((upgrade, extensions)) => {
            let mut connection = upgrade.await?;
            connection.judged = extensions.map(Box::new);
            Ok(connection)
        }
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the request was no upgrade")),
    }
}

/// The answer to a request that is not even judged.
fn refuse(request: &Request<Incoming>, options: &WebSocketOptions) -> Option<Response<Full<Bytes>>> {
    let (status, text) = if options.path.as_deref().is_some_and(|path| path != request.uri().path()) {
        (StatusCode::NOT_FOUND, "nothing is served at this path\n")
    } else if options.is_full.as_ref().is_some_and(IsFull::get) {
        (StatusCode::SERVICE_UNAVAILABLE, "the server is full\n")
    } else {
        return None;
    };
    Some(closing(status, text.to_owned()))
}

fn closing(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Asks the middleware about a request that is a handshake: what it keeps for the session. A request that is none is
/// not worth its time.
async fn judge(
    request: &Request<Incoming>,
    info: &ConnectionInfo,
    options: &WebSocketOptions,
) -> Result<Option<Extensions>, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    if options.middleware.is_empty()
        || handshake::judge(method, request.version(), headers, &options.subprotocols).is_err()
    {
        return Ok(None);
    }
    let mut info = info.clone();
    info.path = Some(request.uri().path().to_owned());
    info.query = request.uri().query().map(str::to_owned);
    let origin = headers.get(header::ORIGIN);
    info.origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    let mut handshake = Handshake::new(info, headers.clone());
    options.middleware.judge(&mut handshake).await?;
    Ok(Some(handshake.extensions))
}

/// Drives one connection until it is upgraded or a response closes it. Keep-alive stays on: switched off,
/// hyper would say `Connection: close` beside our `upgrade`, which clients refuse.
pub(super) async fn http1<S, E>(stream: ServerStream, service: S) -> io::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HTTP_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}
