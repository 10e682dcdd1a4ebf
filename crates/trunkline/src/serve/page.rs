//! The files that the HTTP surface gives to browsers: the status page and the browser's SDK, from the binary.
//!
//! Nothing is read from the disk and nothing is made from what a request says.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

use super::http::Http;

/// What the page may do: its own scripts, styles and pictures, its own node, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! web {
    ($path:literal) => {
        include_str!(concat!("../../../../web/", $path))
    };
}

/// Every file at its path.
pub(super) fn files() -> Router<Http> {
    Router::new()
        .route("/", file(HTML, web!("status/index.html")))
        .route("/status/status.css", file(CSS, web!("status/status.css")))
        .route("/status/status.js", file(SCRIPT, web!("status/status.js")))
        .route("/status/history.js", file(SCRIPT, web!("status/history.js")))
        .route("/status/words.js", file(SCRIPT, web!("status/words.js")))
        .route("/status/icon.svg", file(SVG, web!("status/icon.svg")))
        .route("/sdk/trunkline.js", module(web!("sdk/trunkline.js")))
        .route("/sdk/session.js", module(web!("sdk/session.js")))
        .route("/sdk/links.js", module(web!("sdk/links.js")))
}

fn file(kind: &'static str, content: &'static str) -> MethodRouter<Http> {
    get(async move || (headers(kind), content).into_response())
}

/// A script that pages of any origin may import.
fn module(content: &'static str) -> MethodRouter<Http> {
    let any_origin = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))];
    get(async move || (any_origin, headers(SCRIPT), content).into_response())
}

fn headers(kind: &'static str) -> [(HeaderName, HeaderValue); 4] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // The files change with the binary, and are small.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ]
}
