//! `GatewayService`: each method is one of the context's, or of the upstreams', with the schema's words around it.
//!
//! Who may ask was decided before a request comes here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use trunkline_proto::wire::gateway_service_server::GatewayService;
use trunkline_proto::{ErrorCode, wire};
use trunkline_service::grpc::convert;
use trunkline_service::{Code, Context, ContextError, PublishOptions, Target};

use super::broadcast;
use super::options::{BATCH_WAIT, BATCH_WAITING, MAX_TARGETS};
use crate::gateway::{Gateway, Node};
use crate::upstream::Peer;

/// What a push that failed inside the node is called, as in the seed.
const PUSH_FAILED: &str = "PUSH_FAILED";
/// What a registration is refused with, as in the seed.
const REGISTER_FAILED: &str = "REGISTER_FAILED";

/// The gateway, as gRPC peers see it.
pub(super) struct Surface {
    node: Arc<Node>,
    context: Arc<dyn Context>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Surface {
    pub(super) fn new(gateway: &Gateway) -> Self {
        Surface { node: Arc::clone(gateway.node()), context: gateway.context() }
    }

    async fn push(&self, request: wire::UnicastPushRequest) -> wire::UnicastPushResponse {
        let answer = match convert::push_from_wire(request) {
            Ok((target, push)) => self.context.push(target, push).await,
            Err(error) => Err(error),
        };
        convert::push_answer_to_wire(answer.map_err(failed))
    }

    async fn push_one(
        &self,
        target: wire::UnicastTarget,
        push: wire::UnicastPushRequest,
    ) -> wire::UnicastResult {
        let wire::UnicastTarget { target_type, target_id } = target;
        let request = wire::UnicastPushRequest {
            target_type: target_type.clone(),
            target_id: target_id.clone(),
            ..push
        };
        let answer = self.push(request).await;
        let error_message = match answer.success {
            true => String::new(),
            false => format!("{}: {}", answer.error_code, answer.message),
        };
        let wire::UnicastPushResponse { success, outcome, .. } = answer;
        wire::UnicastResult { target_type, target_id, success, error_message, outcome }
    }
}

/// Where a registration without a host comes from.
fn host_of<T>(request: &Request<T>) -> Option<IpAddr> {
    match request.extensions().get::<Peer>() {
        Some(Peer::Tcp(address)) => Some(address.ip()),
        Some(Peer::Local) | None => None,
    }
}

#[tonic::async_trait]
impl GatewayService for Surface {
    async fn push_to_client(
        &self,
        request: Request<wire::UnicastPushRequest>,
    ) -> Answer<wire::UnicastPushResponse> {
        Ok(Response::new(self.push(request.into_inner()).await))
    }

    async fn broadcast_to_clients(
        &self,
        request: Request<wire::BroadcastRequest>,
    ) -> Answer<wire::BroadcastResponse> {
        Ok(broadcast::broadcast(self.context.as_ref(), request.into_inner()).await)
    }

    async fn register_upstream(
        &self,
        request: Request<wire::UpstreamRegisterRequest>,
    ) -> Answer<wire::UpstreamRegisterResponse> {
        let peer = host_of(&request);
        let answer = match self.node.services.upstreams() {
            Some(upstreams) => upstreams.register_from(request.into_inner(), peer).await,
            None => no_upstreams(),
        };
        Ok(Response::new(answer))
    }

    async fn deregister_upstream(
        &self,
        request: Request<wire::UpstreamDeregisterRequest>,
    ) -> Answer<wire::UpstreamRegisterResponse> {
        let peer = host_of(&request);
        let answer = match self.node.services.upstreams() {
            Some(upstreams) => upstreams.deregister_from(request.into_inner(), peer).await,
            None => no_upstreams(),
        };
        Ok(Response::new(answer))
    }

    async fn push_batch(&self, request: Request<wire::PushBatchRequest>) -> Answer<wire::PushBatchResponse> {
        let wire::PushBatchRequest { targets, push } = request.into_inner();
        if targets.len() > MAX_TARGETS {
            let text = format!("a batch has at most {MAX_TARGETS} targets, not {}", targets.len());
            return Err(bad_request(text));
        }
        let push = push.ok_or_else(|| bad_request("the batch has no push".to_owned()))?;
        // What waits for acks waits together; what does not goes out in the order of the targets.
        let together = if push.wait_ack_ms > 0 { BATCH_WAITING } else { 1 };
        // One budget for the whole batch: what goes out when it is used up is not waited for, and nothing of what was
        // pushed is cut off by the request's own limit.
        let end = Instant::now() + Duration::from_millis(push.wait_ack_ms.into()).min(BATCH_WAIT);
        let pushes = stream::iter(targets).map(|target| async {
            let left = end.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
            let wait_ack_ms = u32::try_from(left).unwrap_or(u32::MAX);
            self.push_one(target, wire::UnicastPushRequest { wait_ack_ms, ..push.clone() }).await
        });
        let results = pushes.buffered(together).collect().await;
        Ok(Response::new(wire::PushBatchResponse { results }))
    }

    async fn publish(&self, request: Request<wire::ServicePublishRequest>) -> Answer<wire::ChannelResponse> {
        let wire::ServicePublishRequest { channel, data, idempotency_key, ttl_ms } = request.into_inner();
        let options = PublishOptions { idempotency_key, ttl: convert::ttl_from_wire(ttl_ms) };
        Ok(Response::new(match self.context.publish(&channel, data, options).await {
            Ok((epoch, offset)) => wire::ChannelResponse { channel, epoch, offset, ..Default::default() },
            Err(error) => refused(channel, error),
        }))
    }

    async fn subscribe(&self, request: Request<wire::MembershipRequest>) -> Answer<wire::MembershipResponse> {
        let (target, channel) = membership(request);
        let answer = match target {
            Ok(target) => self.context.subscribe(target, &channel).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::affected_to_wire(answer)))
    }

    async fn unsubscribe(
        &self,
        request: Request<wire::MembershipRequest>,
    ) -> Answer<wire::MembershipResponse> {
        let (target, channel) = membership(request);
        let answer = match target {
            Ok(target) => self.context.unsubscribe(target, &channel).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::affected_to_wire(answer)))
    }

    async fn presence(&self, request: Request<wire::ChannelRequest>) -> Answer<wire::ChannelResponse> {
        let channel = request.into_inner().channel;
        Ok(Response::new(match self.context.presence(&channel).await {
            Ok(members) => {
                let members = members.into_iter().map(convert::member_to_wire).collect();
                wire::ChannelResponse { channel, members, ..Default::default() }
            }
            Err(error) => refused(channel, error),
        }))
    }

    async fn disconnect(
        &self,
        request: Request<wire::DisconnectRequest>,
    ) -> Answer<wire::MembershipResponse> {
        let wire::DisconnectRequest { target_type, target_id, code, reason } = request.into_inner();
        let answer = match convert::target_from_wire(&target_type, target_id) {
            Ok(target) => self.context.disconnect(target, code, &reason).await,
            Err(error) => Err(error),
        };
        Ok(Response::new(convert::affected_to_wire(answer)))
    }
}

fn membership(request: Request<wire::MembershipRequest>) -> (Result<Target, ContextError>, String) {
    let wire::MembershipRequest { target_type, target_id, channel } = request.into_inner();
    (convert::target_from_wire(&target_type, target_id), channel)
}

/// The node's own failure has the seed's name.
fn failed(error: ContextError) -> ContextError {
    if error.code == ErrorCode::Internal.name() {
        ContextError { code: PUSH_FAILED.to_owned(), ..error }
    } else {
        error
    }
}

fn no_upstreams() -> wire::UpstreamRegisterResponse {
    wire::UpstreamRegisterResponse {
        success: false,
        message: "this node has no upstreams".to_owned(),
        error_code: REGISTER_FAILED.to_owned(),
        lease_ms: 0,
    }
}

fn refused(channel: String, error: ContextError) -> wire::ChannelResponse {
    let code = ErrorCode::from_name(&error.code).unwrap_or(ErrorCode::Internal);
    let mut message = code.message(error.message);
    message.name = error.code;
    message.retry_after_ms = error.retry_after_ms;
    wire::ChannelResponse { channel, error: Some(message), ..Default::default() }
}

/// A request that makes no sense and has no place for an answer.
fn bad_request(text: String) -> Status {
    convert::status_to_grpc(&trunkline_service::Status::new(Code::BadRequest, text))
}
