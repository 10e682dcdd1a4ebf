//! `/api/admin/trace`, for operators: GET says what became of a message, or whether a trace is kept; PUT switches it.
//! By PUT, which no page of another origin can send unasked. There is no such path on the public surface: the answer names
//! users' channels and actions.

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use trunkline_gateway::TraceQuestion;
use trunkline_session::SessionId;

use super::Http;

/// Which message; without a session the trace itself is meant.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    session: Option<String>,
    call: Option<u64>,
    channel: Option<String>,
    epoch: Option<u64>,
    offset: Option<u64>,
}

/// What to switch it to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    on: bool,
}

pub(super) async fn answer(State(http): State<Http>, Query(asked): Query<Asked>) -> Response {
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    match question(asked) {
        Ok(None) => (no_store, Json(http.gateway.trace_status())).into_response(),
        Ok(Some((session, question))) => {
            (no_store, Json(http.gateway.trace(session, &question))).into_response()
        }
        Err(wrong) => (StatusCode::BAD_REQUEST, no_store, format!("{wrong}\n")).into_response(),
    }
}

pub(super) async fn switch(State(http): State<Http>, Query(Switch { on }): Query<Switch>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(http.gateway.trace_switch(on))).into_response()
}

fn question(asked: Asked) -> Result<Option<(SessionId, TraceQuestion)>, &'static str> {
    const WANTED: &str =
        "wanted session=ID with call=NUMBER, or with channel=NAME and offset=NUMBER (and epoch=NUMBER)";
    let question = match asked {
        Asked { session: None, call: None, channel: None, epoch: None, offset: None } => return Ok(None),
        Asked { session: Some(session), call: Some(call), channel: None, epoch: None, offset: None } => {
            (session, TraceQuestion::Call(call))
        }
        Asked { session: Some(session), call: None, channel: Some(channel), epoch, offset: Some(offset) } => {
            (session, TraceQuestion::Publication { channel, epoch, offset })
        }
        _ => return Err(WANTED),
    };
    let session =
        question.0.parse().map_err(|_bad| "session: wanted the 32 hexadecimal digits of a session id")?;
    Ok(Some((session, question.1)))
}
