//! Upstreams come, answer and go over the gRPC surface.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use trunkline_broker::names::NodeId;
use trunkline_broker::{MemoryBroker, MemoryOptions};
use trunkline_gateway::auth::{AuthMode, Authenticator, JwtOptions, JwtVerifier};
use trunkline_gateway::grpc::{self, GrpcOptions};
use trunkline_gateway::{Cut, Gateway, GatewayOptions};
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::{DownBody, ErrorCode, wire};
use trunkline_service::Reply;
use trunkline_service::grpc::{GatewayAddress, Registrar, RegistrationState};
use trunkline_session::TokenKey;
use trunkline_transport::Socket;

use crate::support::{Instance, KEY, Node, Scripted, any_port, business, within};

#[tokio::test]
async fn an_upstream_registers_answers_and_leaves() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let upstream = Instance::start(Arc::new(Scripted::echo()), node.gateway.context()).await?;
    let mut service = node.service().await?;
    let answer = service.register_upstream(upstream.registration("003", "game")).await?.into_inner();
    assert!(answer.success && answer.error_code.is_empty() && answer.lease_ms > 0, "{answer:?}");
    // Again is the same, as an upstream does that has lost its gateway.
    assert!(service.register_upstream(upstream.registration("003", "game")).await?.into_inner().success);
    // Only named services get calls that a route sends them; without a route the zone's plain instances answer.
    let plain = service.register_upstream(upstream.registration("003", "")).await?.into_inner();
    assert!(plain.success, "{plain:?}");
    let reply = client.call("echo", "hello").await?;
    assert_eq!(&business(&reply)?.data[..], b"hello");
    let gone =
        wire::UpstreamDeregisterRequest { address: upstream.address.to_string(), ..Default::default() };
    let answer = service.deregister_upstream(gone.clone()).await?.into_inner();
    assert!(answer.success && answer.message.starts_with('2'), "{answer:?}");
    let reply = client.call("echo", "hello").await?;
    let DownBody::Error(error) = &reply.body else { panic!("answered by nobody: {reply:?}") };
    assert_eq!(error.error_code, ErrorCode::Overloaded.number() as i32, "{error:?}");
    let answer = service.deregister_upstream(gone).await?.into_inner();
    assert!(answer.success && answer.message.starts_with("nothing"), "{answer:?}");
    node.stop((client, service, upstream)).await
}

#[tokio::test]
async fn registrations_that_nothing_can_serve_are_refused_by_the_seeds_codes() -> Result<()> {
    let node = Node::start().await?;
    let mut service = node.service().await?;
    let request = |address: &str, zone: &str, service: &str| wire::UpstreamRegisterRequest {
        address: address.to_owned(),
        zone_id: zone.to_owned(),
        service_name: service.to_owned(),
        ..Default::default()
    };
    for (wrong, code) in [
        (request("nowhere", "001", ""), "INVALID_ADDRESS"),
        (request("", "001", ""), "INVALID_ADDRESS"),
        (request("127.0.0.1:9", "007", ""), "INVALID_ZONE_ID"),
        (request("127.0.0.1:9", "", ""), "INVALID_ZONE_ID"),
        (request("127.0.0.1:9", "001", "a/b"), "REGISTER_FAILED"),
    ] {
        let answer = service.register_upstream(wrong.clone()).await?.into_inner();
        assert_eq!((answer.success, answer.error_code.as_str()), (false, code), "{wrong:?}: {answer:?}");
        assert!(!answer.message.is_empty());
    }
    let nameless = wire::UpstreamDeregisterRequest::default();
    let answer = service.deregister_upstream(nameless).await?.into_inner();
    assert_eq!((answer.success, answer.error_code.as_str()), (false, "REGISTER_FAILED"));
    node.stop(service).await
}

#[tokio::test]
async fn a_registrar_registers_a_process_and_takes_it_out() -> Result<()> {
    let node = Node::start().await?;
    let upstream = Instance::start(Arc::new(Scripted::echo()), node.gateway.context()).await?;
    let address = GatewayAddress::new(&node.grpc.local_addr().to_string(), None)?;
    let zones = ["001", "003"].map(|zone| upstream.registration(zone, "")).to_vec();
    let registrar = Registrar::new(&address, zones);
    assert_eq!(within("registering", registrar.register()).await?, RegistrationState::Registered);
    assert_eq!(node.upstreams.snapshot().instances.len(), 2);
    let mut client = node.client("alice").await?;
    assert_eq!(&business(&client.call("echo", "x").await?)?.data[..], b"x");
    assert_eq!(within("leaving", registrar.deregister()).await?, RegistrationState::Registered);
    assert_eq!(node.upstreams.snapshot().instances.len(), 0);
    node.stop((client, upstream)).await
}

#[tokio::test]
async fn the_upstream_knows_who_calls_and_its_own_codes_pass_through() -> Result<()> {
    let node = Node::start().await?;
    let upstream = node.upstream(Scripted::new(|caller, call| async move {
        let text = format!("{} {} {} {}", caller.user, caller.device, caller.transport, call.client_seq);
        Ok(Reply { data: text.into(), ..Reply::code(418, "a teapot") })
    }));
    let upstream = upstream.await?;
    let mut client = node.client_on("alice", "phone").await?;
    let reply = client.call("any", "").await?;
    let response = business(&reply)?;
    assert_eq!((response.code, response.message.as_str()), (418, "a teapot"));
    assert_eq!(&response.data[..], b"alice phone tcp 1");
    node.stop((client, upstream)).await
}

#[tokio::test]
async fn a_node_without_upstreams_says_so() -> Result<()> {
    let broker = Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(1)))?);
    let keys = jsonwebtoken::jwk::JwkSet { keys: Vec::new() };
    let verifier = JwtVerifier::new(Some(KEY), keys, JwtOptions::default());
    let authenticator = Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), false);
    let options = GatewayOptions::new("alone", TokenKey::new([7; 32]));
    let gateway = Gateway::new(options, broker, authenticator, None).await?;
    let server = grpc::serve(&gateway, Socket::Address(any_port()), GrpcOptions::new("")).await?;
    let endpoint = format!("http://{}", server.local_addr());
    let mut service = within("connecting", GatewayServiceClient::connect(endpoint)).await??;
    let request = wire::UpstreamRegisterRequest { address: "127.0.0.1:9".into(), ..Default::default() };
    let answer = service.register_upstream(request).await?.into_inner();
    assert_eq!(answer.error_code, "REGISTER_FAILED");
    drop(service);
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    assert_eq!(gateway.drain(end).await, Cut::default());
    within("the end", server.shutdown(end)).await.context("shutdown")
}
