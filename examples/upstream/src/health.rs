//! The health page: HTTP on the gRPC port plus 1000, `GET /health`, as the seed's containers ask for it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// How far above the gRPC port it is.
pub(crate) const PORT_OFFSET: u16 = 1_000;
/// A request's head must come within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A health check is over after this time, whatever happens.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Checks come one at a time; more at once wait for these.
const MAX_CONNECTIONS: usize = 64;

/// The page's address for a gRPC address, if there is such a port.
pub(crate) fn address(grpc: SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(grpc.ip(), grpc.port().checked_add(PORT_OFFSET)?))
}

/// Serves the page until dropped.
pub(crate) async fn serve(listener: TcpListener) {
    let tasks = TaskTracker::new();
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the peer is gone already: the next one may do better.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tasks.spawn(async move {
            let _place = place;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(false)
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| std::future::ready(answer(&request))),
                );
            // Whoever asks notices a broken connection itself.
            let _ended = tokio::time::timeout(HEADER_TIMEOUT * 2, connection).await;
        });
    }
}

fn answer(request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/health" => (StatusCode::OK, r#"{"status": "healthy", "service": "upstream"}"#),
        _ => (StatusCode::NOT_FOUND, r#"{"error": "only /health is here"}"#),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Asks the page of an upstream on this machine.
///
/// # Errors
/// It does not answer, or not with 200.
pub async fn check_health(grpc_port: u16) -> Result<()> {
    let port = grpc_port.checked_add(PORT_OFFSET).context("there is no port 1000 above this one")?;
    let asked = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4_096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(CHECK_TIMEOUT, asked)
        .await
        .context("no answer in time")?
        .with_context(|| format!("no upstream answers on port {port}"))?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !String::from_utf8_lossy(line).contains(" 200 ") {
        bail!("the upstream says {:?}", String::from_utf8_lossy(line));
    }
    Ok(())
}
