//! What a node says of itself to people and programs: whether it is ready, and its figures.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};

use super::Http;
use crate::serve::status::Phase;

/// True only while the node serves.
pub(super) async fn ready(State(http): State<Http>) -> Response {
    match http.status.phase() {
        Phase::Ready => (StatusCode::OK, "ready\n").into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

pub(super) async fn status(State(http): State<Http>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(http.status.read())).into_response()
}
