//! The gateway as a service in another process sees it: [`Context`] over `GatewayService`.
//!
//! One lazy HTTP/2 channel that reconnects by itself; nothing is queued while the gateway is away, the call
//! fails. Calls are not repeated here: whoever pushes gives an idempotency key and decides.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response};
use trunkline_proto::wire;
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;

use super::convert;
use crate::{Code, Context, ContextError, Member, PublishOptions, Push, PushOutcome, Target};

/// How long one call to the gateway may take, beyond what it was asked to wait for.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A gateway on the same network answers a SYN in milliseconds; one retransmission fits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Notices a gateway that vanished without a FIN before the next push needs it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where the gateway's gRPC listens, and the token for it.
#[derive(Clone)]
pub struct GatewayAddress {
    address: String,
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
}

/// An address or token that cannot be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayAddressError {
    /// Not `host:port`.
    #[error("{0:?} is no address of a gateway; write host:port, as the gateway prints it for gRPC")]
    Address(String),
    /// Bytes that no header can hold.
    #[error("the upstream token has characters that a header cannot hold; copy keys/upstream.token again")]
    Token,
}

impl GatewayAddress {
    /// `address` is `host:port`; `token` what `keys/upstream.token` holds, needed unless the gateway is on loopback.
    ///
    /// # Errors
    /// An address or token that cannot be one.
    pub fn new(address: &str, token: Option<&str>) -> Result<Self, GatewayAddressError> {
        let bad = || GatewayAddressError::Address(address.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        // `:8092` is this machine, as Go reads it.
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|_| bad())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(CONNECT_TIMEOUT);
        let token = match token.map(str::trim) {
            None | Some("") => None,
            Some(token) => {
                let mut value: MetadataValue<Ascii> =
                    format!("Bearer {token}").parse().map_err(|_| GatewayAddressError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(GatewayAddress { address: address.to_owned(), endpoint, token })
    }

    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.address
    }
}

impl fmt::Debug for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayAddress").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A [`Context`] in another process. Clones share one channel; dropping the last closes it.
#[derive(Clone)]
pub struct GrpcContext {
    client: GatewayServiceClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl fmt::Debug for GrpcContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrpcContext")
    }
}

impl GrpcContext {
    /// Does not connect yet, so that a service may start before its gateway. Needs a tokio runtime.
    pub fn new(gateway: &GatewayAddress) -> Self {
        let client = GatewayServiceClient::new(gateway.endpoint.connect_lazy());
        GrpcContext { client, token: gateway.token.clone() }
    }

    pub(super) fn client(&self) -> GatewayServiceClient<Channel> {
        self.client.clone()
    }

    pub(super) fn request<T>(&self, message: T, wait: Duration) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request.set_timeout(wait);
        request
    }

    fn membership(&self, target: Target, channel: &str) -> Request<wire::MembershipRequest> {
        let (target_type, target_id) = convert::target_to_wire(target);
        let message = wire::MembershipRequest { target_type, target_id, channel: channel.to_owned() };
        self.request(message, CALL_TIMEOUT)
    }
}

#[async_trait]
impl Context for GrpcContext {
    async fn push(&self, target: Target, push: Push) -> Result<PushOutcome, ContextError> {
        let wait = CALL_TIMEOUT + Duration::from_millis(push.wait_ack_ms.into());
        let request = self.request(convert::push_to_wire(target, push), wait);
        let response = answer(self.client().push_to_client(request).await)?;
        convert::push_answer_from_wire(response)
    }

    async fn broadcast(&self, zone: Option<String>, push: Push) -> Result<u32, ContextError> {
        let message = wire::BroadcastRequest {
            msg_type: push.msg_type,
            title: push.title,
            content: push.content,
            data: push.data,
            metadata: push.metadata,
            zone_id: zone.unwrap_or_default(),
        };
        let request = self.request(message, CALL_TIMEOUT);
        let response = self.client().broadcast_to_clients(request).await;
        // The answer of the seed has no place for an error.
        if let Ok(response) = &response
            && let Some(code) = response.metadata().get(convert::CODE_METADATA)
        {
            let code = code.to_str().unwrap_or_default().to_owned();
            // The text has the code too, for clients of the seed's, which do not read metadata.
            let text = response.get_ref().message.as_str();
            let message = text.strip_prefix(&format!("{code}: ")).unwrap_or(text).to_owned();
            return Err(ContextError { code, message, ..ContextError::default() });
        }
        Ok(u32::try_from(answer(response)?.sent_count).unwrap_or(0))
    }

    async fn publish(
        &self,
        channel: &str,
        data: Bytes,
        options: PublishOptions,
    ) -> Result<(u64, u64), ContextError> {
        let PublishOptions { idempotency_key, ttl } = options;
        let message = wire::ServicePublishRequest {
            channel: channel.to_owned(),
            data,
            idempotency_key,
            ttl_ms: ttl.map_or(0, convert::ttl_to_wire),
        };
        let response = answer(self.client().publish(self.request(message, CALL_TIMEOUT)).await)?;
        let response = channel_answer(response)?;
        Ok((response.epoch, response.offset))
    }

    async fn subscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError> {
        let request = self.membership(target, channel);
        convert::affected_from_wire(answer(self.client().subscribe(request).await)?)
    }

    async fn unsubscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError> {
        let request = self.membership(target, channel);
        convert::affected_from_wire(answer(self.client().unsubscribe(request).await)?)
    }

    async fn presence(&self, channel: &str) -> Result<Vec<Member>, ContextError> {
        let message = wire::ChannelRequest { channel: channel.to_owned(), since: None };
        let response = answer(self.client().presence(self.request(message, CALL_TIMEOUT)).await)?;
        let members = channel_answer(response)?.members;
        Ok(members.into_iter().map(convert::member_from_wire).collect())
    }

    async fn disconnect(&self, target: Target, code: u32, reason: &str) -> Result<u32, ContextError> {
        let (target_type, target_id) = convert::target_to_wire(target);
        let message = wire::DisconnectRequest { target_type, target_id, code, reason: reason.to_owned() };
        convert::affected_from_wire(answer(
            self.client().disconnect(self.request(message, CALL_TIMEOUT)).await,
        )?)
    }
}

fn answer<T>(response: Result<Response<T>, tonic::Status>) -> Result<T, ContextError> {
    response.map(Response::into_inner).map_err(|status| match convert::status_from_grpc(&status) {
        Some(status) => ContextError {
            code: status.code.name().to_owned(),
            message: status.message,
            ..ContextError::default()
        },
        None => ContextError {
            code: code_of(status.code()).to_owned(),
            message: status.message().to_owned(),
            ..ContextError::default()
        },
    })
}

/// The table's name for what gRPC itself says.
fn code_of(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
        tonic::Code::InvalidArgument => Code::BadRequest.name(),
        tonic::Code::PermissionDenied => Code::Forbidden.name(),
        tonic::Code::NotFound => Code::NotFound.name(),
        tonic::Code::OutOfRange => Code::TooLarge.name(),
        tonic::Code::ResourceExhausted | tonic::Code::Unavailable => Code::Overloaded.name(),
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Code::UpstreamTimeout.name(),
        _ => Code::Internal.name(),
    }
}

fn channel_answer(response: wire::ChannelResponse) -> Result<wire::ChannelResponse, ContextError> {
    match response.error {
        Some(error) => Err(ContextError {
            code: error.name,
            message: error.error_message,
            retry_after_ms: error.retry_after_ms,
        }),
        None => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for right in ["localhost:8092", "127.0.0.1:1", "[::1]:8092", ":8092"] {
            assert!(GatewayAddress::new(right, None).is_ok(), "{right}");
        }
        for wrong in ["", "localhost", "localhost:", "localhost:99999", "a b:1"] {
            assert!(GatewayAddress::new(wrong, None).is_err(), "{wrong}");
        }
        assert!(matches!(
            GatewayAddress::new("localhost:1", Some("to\nken")),
            Err(GatewayAddressError::Token)
        ));
        let secret = GatewayAddress::new("localhost:1", Some("secret")).unwrap();
        assert!(!format!("{secret:?}").contains("secret"));
    }
}
