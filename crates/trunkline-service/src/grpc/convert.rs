//! The contract's words as the schema's messages, and back.
//!
//! What the wire can say and the contract cannot becomes the least that it could mean: an unknown role is a
//! user, an unknown outcome is no success. A [`Status`] keeps its code by name in gRPC metadata, since gRPC's
//! own codes are fewer and taken by its machinery.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use trunkline_proto::wire;

use crate::{
    Call, Caller, Code, ContextError, Member, Push, PushOutcome, Reply, Role, SessionEvent, Status, SyncHint,
    Target,
};

/// Metadata with the name of a [`Code`].
pub const CODE_METADATA: &str = "x-trunkline-code";
/// Metadata with [`Status::retry_after`] in milliseconds.
pub const RETRY_AFTER_METADATA: &str = "x-trunkline-retry-after-ms";
/// The name of [`PushOutcome::Dropped`] as an error code.
const DROPPED: &str = "DROPPED";
/// The deadline of a call whose gateway names none, as seed 003's does: its own time-out for upstreams.
const SEED_DEADLINE: Duration = Duration::from_secs(30);

/// A caller for the wire.
pub fn caller_to_wire(caller: &Caller) -> wire::Caller {
    wire::Caller {
        user: caller.user.clone(),
        session_id: caller.session.clone(),
        fence: caller.fence,
        device_id: caller.device.clone(),
        platform: caller.platform.clone(),
        role: caller.role.as_str().to_owned(),
        claims: caller.claims.clone(),
        transport: caller.transport.clone(),
        remote_address: caller.remote_address.clone(),
        node: caller.node.clone(),
    }
}

/// A caller from the wire. An unknown role is a user's.
pub fn caller_from_wire(caller: wire::Caller) -> Caller {
    Caller {
        user: caller.user,
        session: caller.session_id,
        fence: caller.fence,
        device: caller.device_id,
        platform: caller.platform,
        role: Role::parse(&caller.role).unwrap_or_default(),
        claims: caller.claims,
        transport: caller.transport,
        remote_address: caller.remote_address,
        node: caller.node,
    }
}

/// A call for the wire; `deadline` is what remains of it when it leaves.
pub fn call_to_wire(caller: &Caller, call: &Call, deadline: Duration) -> wire::UpstreamRequest {
    wire::UpstreamRequest {
        session_id: caller.session.clone(),
        openid: caller.user.clone(),
        action: call.action.clone(),
        params: call.params.clone(),
        data: call.data.clone(),
        headers: call.headers.clone(),
        client_seq_id: call.client_seq,
        caller: Some(caller_to_wire(caller)),
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1),
        retry: call.retry,
    }
}

/// A call from the wire. A gateway of the seed's names no caller beyond user and session.
pub fn call_from_wire(request: wire::UpstreamRequest) -> (Caller, Call) {
    let caller = match request.caller {
        Some(caller) => caller_from_wire(caller),
        None => Caller { user: request.openid, session: request.session_id, ..Caller::default() },
    };
    let deadline = match request.deadline_ms {
        0 => SEED_DEADLINE,
        ms => Duration::from_millis(ms.into()),
    };
    let call = Call {
        action: request.action,
        params: request.params,
        data: request.data,
        headers: request.headers,
        client_seq: request.client_seq_id,
        retry: request.retry,
        deadline,
    };
    (caller, call)
}

/// A reply for the wire.
pub fn reply_to_wire(reply: Reply, client_seq: u64) -> wire::UpstreamResponse {
    wire::UpstreamResponse {
        code: reply.code,
        message: reply.message,
        data: reply.data,
        headers: reply.headers,
        client_seq_id: client_seq,
        notifies: reply.pushes.into_iter().map(|(target, push)| push_to_wire(target, push)).collect(),
    }
}

/// A reply from the wire.
///
/// # Errors
/// [`Code::UpstreamFailed`] where a push in it names no target.
pub fn reply_from_wire(response: wire::UpstreamResponse) -> Result<Reply, Status> {
    let pushes = response.notifies.into_iter().map(push_from_wire);
    let pushes = pushes.collect::<Result<_, ContextError>>().map_err(|error| {
        Status::new(Code::UpstreamFailed, format!("the upstream's reply has a bad push: {}", error.message))
    })?;
    Ok(Reply {
        code: response.code,
        message: response.message,
        data: response.data,
        headers: response.headers,
        pushes,
    })
}

/// A target as (`target_type`, `target_id`).
pub fn target_to_wire(target: Target) -> (String, String) {
    let (kind, id) = match target {
        Target::Session(id) => ("session", id),
        Target::User(id) => ("openid", id),
        Target::Group(id) => ("gid", id),
        Target::Device(id) => ("device", id),
    };
    (kind.to_owned(), id)
}

/// A target from (`target_type`, `target_id`).
///
/// # Errors
/// `BAD_REQUEST` for an unknown type or an empty id.
pub fn target_from_wire(target_type: &str, target_id: String) -> Result<Target, ContextError> {
    if target_id.is_empty() {
        return Err(bad_request("target_id is empty"));
    }
    match target_type {
        "session" => Ok(Target::Session(target_id)),
        "openid" => Ok(Target::User(target_id)),
        "gid" => Ok(Target::Group(target_id)),
        "device" => Ok(Target::Device(target_id)),
        other => Err(bad_request(&format!("target_type {other:?} is none of session, openid, gid, device"))),
    }
}

/// A push for the wire.
pub fn push_to_wire(target: Target, push: Push) -> wire::UnicastPushRequest {
    let (target_type, target_id) = target_to_wire(target);
    let hint = match push.hint {
        SyncHint::Immediately => wire::NotifySyncHint::NshImmediately,
        SyncHint::BeforeResponse => wire::NotifySyncHint::NshBeforeResponse,
        SyncHint::AfterResponse => wire::NotifySyncHint::NshAfterResponse,
    };
    wire::UnicastPushRequest {
        target_type,
        target_id,
        msg_type: push.msg_type,
        title: push.title,
        content: push.content,
        data: push.data,
        metadata: push.metadata,
        sync_hint: hint.into(),
        bind_client_seq_id: push.bind_client_seq,
        idempotency_key: push.idempotency_key,
        wait_ack_ms: push.wait_ack_ms,
    }
}

/// A push from the wire.
///
/// # Errors
/// `BAD_REQUEST` for a target or a hint that the schema does not have.
pub fn push_from_wire(request: wire::UnicastPushRequest) -> Result<(Target, Push), ContextError> {
    let hint = match wire::NotifySyncHint::try_from(request.sync_hint) {
        Ok(wire::NotifySyncHint::NshImmediately) => SyncHint::Immediately,
        Ok(wire::NotifySyncHint::NshBeforeResponse) => SyncHint::BeforeResponse,
        Ok(wire::NotifySyncHint::NshAfterResponse) => SyncHint::AfterResponse,
        Err(_) => return Err(bad_request(&format!("sync_hint {} is unknown", request.sync_hint))),
    };
    let target = target_from_wire(&request.target_type, request.target_id)?;
    let push = Push {
        msg_type: request.msg_type,
        title: request.title,
        content: request.content,
        data: request.data,
        metadata: request.metadata,
        hint,
        bind_client_seq: request.bind_client_seq_id,
        idempotency_key: request.idempotency_key,
        wait_ack_ms: request.wait_ack_ms,
    };
    Ok((target, push))
}

/// An outcome for the wire.
pub fn outcome_to_wire(outcome: PushOutcome) -> wire::PushOutcome {
    match outcome {
        PushOutcome::Delivered => wire::PushOutcome::OutcomeDelivered,
        PushOutcome::Queued => wire::PushOutcome::OutcomeQueued,
        PushOutcome::Offline => wire::PushOutcome::OutcomeOffline,
        PushOutcome::NotFound => wire::PushOutcome::OutcomeNotFound,
        PushOutcome::Dropped => wire::PushOutcome::OutcomeDropped,
        PushOutcome::Acked => wire::PushOutcome::OutcomeAcked,
        PushOutcome::Bound => wire::PushOutcome::OutcomeBound,
    }
}

/// An outcome from the wire; `None` where it says nothing that we know.
pub fn outcome_from_wire(outcome: i32) -> Option<PushOutcome> {
    match wire::PushOutcome::try_from(outcome).ok()? {
        wire::PushOutcome::OutcomeUnspecified => None,
        wire::PushOutcome::OutcomeDelivered => Some(PushOutcome::Delivered),
        wire::PushOutcome::OutcomeQueued => Some(PushOutcome::Queued),
        wire::PushOutcome::OutcomeOffline => Some(PushOutcome::Offline),
        wire::PushOutcome::OutcomeNotFound => Some(PushOutcome::NotFound),
        wire::PushOutcome::OutcomeDropped => Some(PushOutcome::Dropped),
        wire::PushOutcome::OutcomeAcked => Some(PushOutcome::Acked),
        wire::PushOutcome::OutcomeBound => Some(PushOutcome::Bound),
    }
}

/// What became of a push, for the wire: an outcome without success has its name as `error_code`, so that an
/// upstream that knows no outcomes can tell them apart too.
pub fn push_answer_to_wire(answer: Result<PushOutcome, ContextError>) -> wire::UnicastPushResponse {
    match answer {
        Ok(outcome) => {
            let (error_code, message) = match outcome {
                PushOutcome::Delivered => ("", "delivered"),
                PushOutcome::Queued => ("", "queued: the target's client is away and can resume"),
                PushOutcome::Acked => ("", "acknowledged by a client"),
                PushOutcome::Bound => ("", "bound: it goes out with the call's reply"),
                PushOutcome::Offline => ("OFFLINE", "nobody is there; it is kept as history only"),
                PushOutcome::NotFound => ("NOT_FOUND", "there is no such session, device or group"),
                PushOutcome::Dropped => (DROPPED, "refused by a limit"),
            };
            wire::UnicastPushResponse {
                success: error_code.is_empty(),
                message: message.to_owned(),
                error_code: error_code.to_owned(),
                outcome: outcome_to_wire(outcome).into(),
            }
        }
        Err(error) => {
            let outcome = match error.code.as_str() {
                "TOO_LARGE" | "FULL" | "OVERLOADED" | "RATE_LIMITED" => wire::PushOutcome::OutcomeDropped,
                _ => wire::PushOutcome::OutcomeUnspecified,
            };
            wire::UnicastPushResponse {
                success: false,
                message: error.message,
                error_code: error.code,
                outcome: outcome.into(),
            }
        }
    }
}

/// The same from the wire. A gateway of the seed's knows no outcomes, only success.
///
/// # Errors
/// What the gateway says, where it did not even try.
pub fn push_answer_from_wire(response: wire::UnicastPushResponse) -> Result<PushOutcome, ContextError> {
    let error =
        ContextError { code: response.error_code, message: response.message, ..ContextError::default() };
    match outcome_from_wire(response.outcome) {
        None if response.success => Ok(PushOutcome::Delivered),
        None => Err(error),
        Some(PushOutcome::Dropped) if error.code != DROPPED => Err(error),
        Some(outcome) => Ok(outcome),
    }
}

/// How many sessions were concerned, for the wire.
pub fn affected_to_wire(answer: Result<u32, ContextError>) -> wire::MembershipResponse {
    match answer {
        Ok(affected) => {
            let message = match affected {
                0 => "the target has no session here".to_owned(),
                1 => "1 session".to_owned(),
                affected => format!("{affected} sessions"),
            };
            wire::MembershipResponse { success: true, message, affected, ..Default::default() }
        }
        Err(error) => wire::MembershipResponse {
            success: false,
            message: error.message,
            error_code: error.code,
            affected: 0,
        },
    }
}

/// The same from the wire.
///
/// # Errors
/// What the gateway says.
pub fn affected_from_wire(response: wire::MembershipResponse) -> Result<u32, ContextError> {
    if response.success {
        Ok(response.affected)
    } else {
        Err(ContextError { code: response.error_code, message: response.message, ..ContextError::default() })
    }
}

/// A member for the wire.
pub fn member_to_wire(member: Member) -> wire::Member {
    wire::Member { user: member.user, session_id: member.session, info: member.info }
}

/// A member from the wire.
pub fn member_from_wire(member: wire::Member) -> Member {
    Member { user: member.user, session: member.session_id, info: member.info }
}

/// An event for the wire; `at_ms` is Unix time.
pub fn event_to_wire(caller: &Caller, event: SessionEvent, at_ms: i64) -> wire::SessionEvent {
    use wire::session_event::Kind;
    let (kind, close_code) = match event {
        SessionEvent::Started => (Kind::Started, 0),
        SessionEvent::Resumed => (Kind::Resumed, 0),
        SessionEvent::Lost => (Kind::Lost, 0),
        SessionEvent::Ended(code) => (Kind::Ended, code),
    };
    wire::SessionEvent { kind: kind.into(), caller: Some(caller_to_wire(caller)), at: at_ms, close_code }
}

/// An event from the wire; `None` for a kind of a later schema.
pub fn event_from_wire(event: wire::SessionEvent) -> Option<(Caller, SessionEvent)> {
    use wire::session_event::Kind;
    let kind = match Kind::try_from(event.kind).ok()? {
        Kind::Unknown => return None,
        Kind::Started => SessionEvent::Started,
        Kind::Resumed => SessionEvent::Resumed,
        Kind::Lost => SessionEvent::Lost,
        Kind::Ended => SessionEvent::Ended(event.close_code),
    };
    Some((caller_from_wire(event.caller.unwrap_or_default()), kind))
}

/// A failure as a gRPC status, with its name in the metadata.
pub fn status_to_grpc(status: &Status) -> tonic::Status {
    let code = match status.code {
        Code::BadRequest => tonic::Code::InvalidArgument,
        Code::Forbidden => tonic::Code::PermissionDenied,
        Code::NotFound => tonic::Code::NotFound,
        Code::TooLarge => tonic::Code::OutOfRange,
        Code::Internal => tonic::Code::Internal,
        Code::UpstreamFailed => tonic::Code::Unavailable,
        Code::Overloaded => tonic::Code::ResourceExhausted,
        Code::UpstreamTimeout => tonic::Code::DeadlineExceeded,
        Code::ResultUnknown => tonic::Code::Aborted,
    };
    let mut grpc = tonic::Status::new(code, status.message.clone());
    grpc.metadata_mut().insert(CODE_METADATA, MetadataValue::from_static(status.code.name()));
    if let Some(after) = status.retry_after {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        grpc.metadata_mut().insert(RETRY_AFTER_METADATA, after.into());
    }
    grpc
}

/// The failure that a [`Remote`](super::Remote) service answered with; `None` where the status comes from gRPC's
/// machinery, or from an upstream that does not name codes.
pub fn status_from_grpc(grpc: &tonic::Status) -> Option<Status> {
    let text = |key| grpc.metadata().get(key).and_then(|value| value.to_str().ok());
    let code = Code::from_name(text(CODE_METADATA)?)?;
    let retry_after = text(RETRY_AFTER_METADATA).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    Some(Status { code, message: grpc.message().to_owned(), retry_after })
}

/// A publication's own time. Less than a millisecond is one, since 0 stands for none.
pub fn ttl_to_wire(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// The same back.
pub fn ttl_from_wire(ttl_ms: u32) -> Option<Duration> {
    (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms.into()))
}

fn bad_request(message: &str) -> ContextError {
    ContextError {
        code: Code::BadRequest.name().to_owned(),
        message: message.to_owned(),
        ..ContextError::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn caller() -> Caller {
        Caller {
            user: "alice".into(),
            session: "s1".into(),
            fence: 7,
            device: "d".into(),
            platform: "ios".into(),
            role: Role::Admin,
            claims: HashMap::from([("level".into(), "9".into())]),
            transport: "quic".into(),
            remote_address: "192.0.2.1:5".into(),
            node: "n1".into(),
        }
    }

    #[test]
    fn a_call_survives_the_wire() {
        let call = Call {
            action: "echo".into(),
            params: HashMap::from([("a".into(), "1".into())]),
            data: "body".into(),
            headers: HashMap::from([("h".into(), "v".into())]),
            client_seq: 42,
            retry: true,
            deadline: Duration::from_millis(1_500),
        };
        let wire = call_to_wire(&caller(), &call, call.deadline);
        assert_eq!((wire.openid.as_str(), wire.session_id.as_str()), ("alice", "s1"));
        assert_eq!(call_from_wire(wire), (caller(), call));
    }

    #[test]
    fn a_seed_gateways_request_has_user_session_and_the_seeds_deadline() {
        let request = wire::UpstreamRequest {
            openid: "bob".into(),
            session_id: "s2".into(),
            action: "time".into(),
            ..Default::default()
        };
        let (caller, call) = call_from_wire(request);
        assert_eq!((caller.user.as_str(), caller.session.as_str()), ("bob", "s2"));
        assert_eq!(caller.role, Role::User);
        assert_eq!(call.deadline, SEED_DEADLINE);
    }

    #[test]
    fn a_reply_with_pushes_survives_the_wire() {
        let push = Push {
            msg_type: "m".into(),
            title: "t".into(),
            content: "c".into(),
            data: "d".into(),
            metadata: HashMap::from([("k".into(), "v".into())]),
            hint: SyncHint::AfterResponse,
            bind_client_seq: 3,
            idempotency_key: "i".into(),
            wait_ack_ms: 4,
        };
        let targets = [
            Target::Session("a".into()),
            Target::User("b".into()),
            Target::Group("c".into()),
            Target::Device("d".into()),
        ];
        let pushes = targets.into_iter().map(|target| (target, push.clone())).collect();
        let reply = Reply { pushes, ..Reply::ok("body") };
        let wire = reply_to_wire(reply.clone(), 9);
        assert_eq!(wire.client_seq_id, 9);
        assert_eq!(reply_from_wire(wire), Ok(reply));
    }

    #[test]
    fn a_reply_whose_push_has_no_target_is_the_upstreams_failure() {
        let notifies = vec![wire::UnicastPushRequest { target_type: "planet".into(), ..Default::default() }];
        let response = wire::UpstreamResponse { notifies, ..Default::default() };
        assert_eq!(reply_from_wire(response).map_err(|status| status.code), Err(Code::UpstreamFailed));
    }

    #[test]
    fn every_failure_survives_grpc() {
        for code in Code::ALL {
            let status = Status {
                retry_after: Some(Duration::from_millis(250)),
                ..Status::new(code, "what happened")
            };
            assert_eq!(status_from_grpc(&status_to_grpc(&status)), Some(status));
        }
        assert_eq!(status_from_grpc(&tonic::Status::internal("x")), None);
    }

    #[test]
    fn every_event_and_outcome_survives_the_wire() {
        use SessionEvent::{Ended, Lost, Resumed, Started};
        for event in [Started, Resumed, Lost, Ended(4300)] {
            assert_eq!(event_from_wire(event_to_wire(&caller(), event, 1)), Some((caller(), event)));
        }
        assert_eq!(event_from_wire(wire::SessionEvent { kind: 99, ..Default::default() }), None);
        use PushOutcome::{Acked, Bound, Delivered, Dropped, NotFound, Offline, Queued};
        for outcome in [Delivered, Queued, Offline, NotFound, Dropped, Acked, Bound] {
            assert_eq!(outcome_from_wire(outcome_to_wire(outcome).into()), Some(outcome));
        }
        for outcome in [Delivered, Queued, Offline, NotFound, Dropped, Acked, Bound] {
            let wire = push_answer_to_wire(Ok(outcome));
            assert_eq!(wire.success, matches!(outcome, Delivered | Queued | Acked | Bound), "{outcome:?}");
            assert_eq!(wire.success, wire.error_code.is_empty(), "{outcome:?}");
            assert_eq!(push_answer_from_wire(wire), Ok(outcome));
        }
        for code in ["BIND_TOO_LATE", "TOO_LARGE", "OVERLOADED", "PUSH_FAILED", "NOT_FOUND"] {
            let error =
                ContextError { code: code.to_owned(), message: "why".to_owned(), ..ContextError::default() };
            let wire = push_answer_to_wire(Err(error.clone()));
            assert!(!wire.success);
            assert_eq!(push_answer_from_wire(wire), Err(error));
        }
        let seed = wire::UnicastPushResponse { success: true, ..Default::default() };
        assert_eq!(push_answer_from_wire(seed), Ok(Delivered));
        assert_eq!(affected_from_wire(affected_to_wire(Ok(3))), Ok(3));
        let error = ContextError {
            code: "FORBIDDEN".to_owned(),
            message: "why".to_owned(),
            ..ContextError::default()
        };
        assert_eq!(affected_from_wire(affected_to_wire(Err(error.clone()))), Err(error));
        assert_eq!(outcome_from_wire(0), None);
        assert_eq!(outcome_from_wire(77), None);
    }

    #[test]
    fn an_unknown_role_grants_nothing() {
        let wire = wire::Caller { role: "Admin ".into(), ..Default::default() };
        assert_eq!(caller_from_wire(wire).role, Role::User);
    }
}
