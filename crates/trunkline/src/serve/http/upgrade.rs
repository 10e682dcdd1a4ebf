//! `/ws`: an HTTP connection becomes a client's.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use trunkline_transport::websocket;

use super::Http;

/// Answers the handshake; the gateway serves what comes of it.
pub(super) async fn upgrade(State(http): State<Http>, mut request: Request) -> Response {
    match websocket::upgrade(&mut request, &http.websocket) {
        Ok((response, upgrade)) => {
            let gateway = http.gateway.clone();
            http.tasks.spawn(async move {
                match upgrade.await {
                    Ok(connection) => gateway.serve(connection),
                    Err(error) => tracing::debug!(%error, "a WebSocket upgrade failed"),
                }
            });
            response.map(|()| Body::empty())
        }
        Err(error) => {
            let mut response = error.response().map(Body::from);
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            response
        }
    }
}
