//! `BroadcastToClients`. The seed's answer has a count and a text and no place for an error: a refusal counts 0, says
//! why in the text, and has its code in the response's metadata.

use tonic::Response;
use tonic::metadata::MetadataValue;
use trunkline_proto::wire;
use trunkline_service::grpc::convert::CODE_METADATA;
use trunkline_service::{Context, Push};

/// Pushes to everybody, or to a zone.
pub(super) async fn broadcast(
    context: &dyn Context,
    request: wire::BroadcastRequest,
) -> Response<wire::BroadcastResponse> {
    let wire::BroadcastRequest { msg_type, title, content, data, metadata, zone_id } = request;
    let zone = (!zone_id.is_empty()).then_some(zone_id);
    let push = Push { msg_type, title, content, data, metadata, ..Push::default() };
    match context.broadcast(zone, push).await {
        Ok(count) => Response::new(wire::BroadcastResponse {
            sent_count: i32::try_from(count).unwrap_or(i32::MAX),
            message: format!("sent to {count} sessions"),
        }),
        Err(error) => {
            let text = format!("{}: {}", error.code, error.message);
            let mut response = Response::new(wire::BroadcastResponse { sent_count: 0, message: text });
            // Our codes are upper-case ASCII.
            if let Ok(code) = MetadataValue::try_from(error.code) {
                response.metadata_mut().insert(CODE_METADATA, code);
            }
            response
        }
    }
}
