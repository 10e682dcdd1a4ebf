//! `/metrics`, in the text format of Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Http;
use crate::serve::metrics;

/// Every metric of the node.
pub(super) async fn metrics(State(http): State<Http>) -> Response {
    let text = metrics::text(&http.status.read());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
