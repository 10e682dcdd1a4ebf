//! The answer to plain HTTP where TLS is required.

use std::{convert::Infallible, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use tokio::time::timeout;

use super::listener::http1;
use crate::ServerStream;

/// Answers one plain HTTP request with a redirect to the same address under https, and closes; for
/// [`crate::Accepted::PlainRefused`] on a port that speaks HTTP. Gives up after `limit`.
pub async fn redirect_to_https(stream: ServerStream, limit: Duration) {
    let service = service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(redirect(&request)));
    let peer = stream.peer();
    match timeout(limit, http1(stream, service)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "plain request failed"),
        Err(_) => tracing::debug!(%peer, "plain request timed out"),
    }
}

fn redirect(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"TLS is required here\n")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let location = host.and_then(|host| HeaderValue::from_str(&format!("https://{host}{path}")).ok());
    if let Some(location) = location {
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
