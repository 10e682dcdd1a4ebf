//! U4 through a whole node: what a peer may ask that does not come from a loopback address.
//!
//! The machine's own address on a network serves: who connects to it comes from it. Where there is none, the test runs
//! itself again in a network of its own; where that is not to be had either, it fails and says so.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::wire::{self, MembershipRequest, UnicastPushRequest};
use trunkline_proto::{DownBody, DownFrame};
use trunkline_testkit::{TestServer, Way};

use crate::common::server;

/// The address to use, in the test's network of its own. No variable of a node's, which would not know it.
const ADDRESS: &str = "U4_ADDRESS";

/// Of a block that is for documents: nobody's.
const MADE_UP: &str = "192.0.2.7";

/// An address of this machine that is not loopback: the one from which it would send elsewhere. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    if let Ok(given) = std::env::var(ADDRESS) {
        return given.parse().ok();
    }
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Runs this test again where it has an address.
fn in_a_network_of_its_own(test: &str) -> Result<()> {
    let script = format!("ip link set lo up && ip address add {MADE_UP}/32 dev lo && exec \"$0\" \"$@\"");
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", &script])
        .arg(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture"])
        .env(ADDRESS, MADE_UP)
        .output()
        .context("unshare cannot be run")?;
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(ran.status.success() && said.contains("1 passed"), "in a network of its own: {said}");
    Ok(())
}

async fn service(server: &TestServer) -> Result<GatewayServiceClient<Channel>> {
    let address = server.ready().grpc()?;
    Ok(GatewayServiceClient::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?))
}

/// Every method once; what gRPC said to each.
async fn ask_everything(
    server: &TestServer,
    authorization: Option<&str>,
) -> Result<Vec<(&'static str, Code)>> {
    let mut service = service(server).await?;
    let authorization = authorization.map(MetadataValue::try_from).transpose()?;
    let mut said = Vec::new();
    macro_rules! ask {
        ($($method:ident($message:expr),)+) => {$(
            let mut request = Request::new($message);
            if let Some(value) = &authorization {
                request.metadata_mut().insert("authorization", value.clone());
            }
            let answer = service.$method(request).await;
            said.push((stringify!($method), answer.map_or_else(|status| status.code(), |_| Code::Ok)));
        )+};
    }
    let push = || UnicastPushRequest {
        target_type: "openid".into(),
        target_id: "alice".into(),
        ..UnicastPushRequest::default()
    };
    let address = || format!("{MADE_UP}:1");
    let channel = || "room:1".to_owned();
    ask! {
        push_to_client(push()),
        broadcast_to_clients(wire::BroadcastRequest::default()),
        register_upstream(wire::UpstreamRegisterRequest { address: address(), zone_id: "*".into(), ..Default::default() }),
        push_batch(wire::PushBatchRequest { targets: vec![], push: Some(push()) }),
        publish(wire::ServicePublishRequest { channel: channel(), ..Default::default() }),
        subscribe(MembershipRequest::default()),
        unsubscribe(MembershipRequest::default()),
        presence(wire::ChannelRequest { channel: channel(), since: None }),
        disconnect(wire::DisconnectRequest::default()),
        deregister_upstream(wire::UpstreamDeregisterRequest { address: address(), ..Default::default() }),
    }
    Ok(said)
}

fn error(frame: DownFrame) -> Result<wire::ErrorMessage> {
    match frame.body {
        DownBody::Error(error) => Ok(error),
        other => bail!("not an error: {other:?}"),
    }
}

#[tokio::test]
async fn u4_a_peer_from_elsewhere_needs_the_token_in_a_whole_node() {
    let Some(address) = own_address() else {
        let nested =
            in_a_network_of_its_own("foreign::u4_a_peer_from_elsewhere_needs_the_token_in_a_whole_node");
        return nested
            .expect("U4 is NOT SHOWN: this machine has no address but loopback, and makes no network");
    };
    let node = || server().anonymous().surface("grpc", format!("{address}:0"));
    let optional = "[tls]\nmode = \"optional\"";
    let server = node().config(optional).start().await.unwrap();
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    for authorization in [None, Some("Bearer wrong"), Some("Basic dXBzdHJlYW0="), Some("Bearer "), Some("")] {
        for (method, code) in ask_everything(&server, authorization).await.unwrap() {
            assert_eq!(code, Code::Unauthenticated, "{method} with {authorization:?}");
        }
    }
    let told = error(alice.call("any", "").await.unwrap()).unwrap();
    assert!(told.error_message.contains("no upstream is registered"), "a zone was taken: {told:?}");
    assert_eq!(alice.drain().await.unwrap(), [], "a push of a stranger has arrived");
    // The token of the data directory opens everything, and nothing else has to be done.
    let token = std::fs::read_to_string(server.data_dir().join("keys/upstream.token")).unwrap();
    let said = ask_everything(&server, Some(&format!("Bearer {}", token.trim_end()))).await.unwrap();
    assert!(said.len() == 10 && said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    alice.push().await.unwrap();
    // Unless the operator says otherwise, nobody from elsewhere is spoken to without TLS.
    let strict = node().start().await.unwrap();
    let plain = async { ask_everything(&strict, None).await.map(|said| said[0].1) };
    assert!(!matches!(plain.await, Ok(Code::Ok | Code::Unauthenticated)), "plain gRPC was served");
}
