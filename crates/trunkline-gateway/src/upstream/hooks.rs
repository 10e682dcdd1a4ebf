//! The questions that the gateway asks upstreams: who is this (`Authenticate`), may they (`Authorize`).
//!
//! Both may be asked twice. What cannot be answered is an error, never a yes.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use trunkline_proto::wire;
use trunkline_service::{Code, Status};

use super::defaults;
use super::dispatch::{Dispatch, Plan, Whom};
use super::health::Outcome;
use super::registration::AUTH_SERVICE;
use super::unary::{AUTHENTICATE, AUTHORIZE};
use crate::zone::Zone;

/// Asks the instances of service `auth` whose START this is.
///
/// # Errors
/// [`Code::Overloaded`] where none answers: the client comes back.
pub(super) async fn authenticate(
    dispatch: &Dispatch,
    request: wire::AuthenticateRequest,
) -> Result<wire::AuthenticateResponse, Status> {
    let plan = Plan {
        // Its instances are registered for zone *, which every zone's group has.
        group: &|registry| registry.table().group(Some(AUTH_SERVICE), &Zone::numbered(1)),
        whom: Whom::Service(AUTH_SERVICE),
        deadline: Instant::now() + dispatch.options.authenticate_timeout,
        patience: dispatch.options.authenticate_timeout,
        idempotent: &|_| true,
    };
    let good = |answer: Result<wire::AuthenticateResponse, tonic::Status>| {
        answer.map(|answer| (answer, Outcome::Good))
    };
    let answer = dispatch.send(plan, &AUTHENTICATE, |_, _| request.clone(), good).await;
    answer.map_err(|status| {
        // An authenticator that fails has not refused anybody.
        super::dispatch::overloaded(&format!("the authenticator does not answer: {}", status.message))
    })
}

/// Asks the user's zone whether a session may do something with a channel.
pub(super) async fn authorize(
    dispatch: &Dispatch,
    zone: &Zone,
    request: &wire::AuthorizeRequest,
) -> Result<wire::AuthorizeResponse, Status> {
    let plan = Plan {
        group: &|registry| registry.table().group(None, zone),
        whom: Whom::Zone(zone),
        deadline: Instant::now() + dispatch.options.authorize_timeout,
        patience: dispatch.options.authorize_timeout,
        idempotent: &|_| true,
    };
    let read = |answer: Result<wire::AuthorizeResponse, tonic::Status>| match answer {
        Ok(answer) => Ok((answer, Outcome::Good)),
        // Upstreams of the seed have no such method. That is an answer, and no fault of theirs.
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            let error = wire::ErrorMessage {
                error_message: "the upstream of this zone authorizes nothing".to_owned(),
                ..refusal()
            };
            let answer = wire::AuthorizeResponse { allowed: false, error: Some(error), cache_ms: 0 };
            Ok((answer, Outcome::Good))
        }
        Err(status) => Err(status),
    };
    dispatch.send(plan, &AUTHORIZE, |_, _| request.clone(), read).await
}

fn refusal() -> wire::ErrorMessage {
    wire::ErrorMessage { error_code: 403, name: Code::Forbidden.name().to_owned(), ..Default::default() }
}

/// Answers of `Authorize`, for as long as the upstream allows. Bounded: when it is full the expired ones go, and
/// if there are none, all of them: a cache that is empty is only slow.
#[derive(Default)]
pub(super) struct AuthorizeCache {
    answers: Mutex<HashMap<Question, (Instant, wire::AuthorizeResponse)>>,
}

/// (user, session, channel, what).
type Question = (String, String, String, String);

impl AuthorizeCache {
    pub(super) fn find(&self, request: &wire::AuthorizeRequest) -> Option<wire::AuthorizeResponse> {
        let answers = self.answers.lock();
        let (until, answer) = answers.get(&question(request))?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    pub(super) fn keep(&self, request: &wire::AuthorizeRequest, answer: &wire::AuthorizeResponse) {
        if answer.cache_ms == 0 {
            return;
        }
        let now = Instant::now();
        let ttl = Duration::from_millis(answer.cache_ms.into()).min(defaults::AUTHORIZE_CACHE_TTL);
        let mut answers = self.answers.lock();
        if answers.len() >= defaults::AUTHORIZE_CACHE {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() >= defaults::AUTHORIZE_CACHE {
            answers.clear();
        }
        answers.insert(question(request), (now + ttl, answer.clone()));
    }

    /// The session is over: nothing it was told is asked again.
    pub(super) fn forget_session(&self, session: &str) {
        self.answers.lock().retain(|(_, of, _, _), _| of != session);
    }
}

fn question(request: &wire::AuthorizeRequest) -> Question {
    let (user, session) = match &request.caller {
        Some(caller) => (caller.user.clone(), caller.session_id.clone()),
        None => Default::default(),
    };
    (user, session, request.channel.clone(), request.what.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: &str, channel: &str) -> wire::AuthorizeRequest {
        let caller = wire::Caller { user: "u".into(), session_id: session.into(), ..Default::default() };
        wire::AuthorizeRequest { caller: Some(caller), channel: channel.into(), what: "subscribe".into() }
    }

    fn yes(cache_ms: u32) -> wire::AuthorizeResponse {
        wire::AuthorizeResponse { allowed: true, error: None, cache_ms }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_for_its_time_and_its_session_only() {
        let cache = AuthorizeCache::default();
        cache.keep(&request("s", "a"), &yes(100));
        cache.keep(&request("s", "b"), &yes(0));
        assert!(cache.find(&request("s", "a")).is_some());
        assert!(cache.find(&request("s", "b")).is_none());
        assert!(cache.find(&request("other", "a")).is_none());
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(cache.find(&request("s", "a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded() {
        let cache = AuthorizeCache::default();
        for at in 0..=defaults::AUTHORIZE_CACHE {
            cache.keep(&request("s", &at.to_string()), &yes(1_000));
        }
        assert!(cache.answers.lock().len() <= defaults::AUTHORIZE_CACHE);
        let last = defaults::AUTHORIZE_CACHE.to_string();
        assert!(cache.find(&request("s", &last)).is_some());
        cache.forget_session("s");
        assert!(cache.answers.lock().is_empty());
    }
}
