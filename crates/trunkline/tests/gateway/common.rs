//! What the tests of this binary share.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_proto::wire::{
    self, BusinessResponse, ChannelPosition, ErrorMessage, StartRequest, StartResponse,
};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_testkit::{Ready, ServerBuilder, TestClient, TestServer, TestUpstream, Way};

pub(crate) use crate::sizes::{percentile, reading, size};

/// Namespaces with and without a history.
pub(crate) const CONFIG: &str = "
[namespaces.room]
history_count = 100

[namespaces.short]
history_count = 5
";

/// The binary under test: of this build, unless `./prove` names another one.
pub(crate) fn server() -> ServerBuilder {
    let binary = std::env::var("TRUNKLINE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_trunkline").to_owned());
    TestServer::builder(binary).config(CONFIG)
}

/// Milliseconds, for a reading.
pub(crate) fn millis(time: std::time::Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// A server that lets anybody in, and an upstream for all zones.
pub(crate) async fn open_server() -> (TestServer, TestUpstream) {
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    (server, upstream)
}

/// A started client of an open server.
pub(crate) async fn client(server: &TestServer, user: &str) -> TestClient {
    client_by(server, user, Way::TCP).await
}

/// The same on any way.
pub(crate) async fn client_by(server: &TestServer, user: &str, way: Way) -> TestClient {
    let mut client = server.connect(way).await.unwrap();
    let response = client.start_as(user, "").await.unwrap();
    assert!(response.success, "{user} was refused: {response:?}");
    client
}

/// The START with which a client comes back: the same object, one attempt later.
pub(crate) fn again(
    first: &StartRequest,
    response: &StartResponse,
    positions: Vec<ChannelPosition>,
) -> StartRequest {
    StartRequest {
        resume_token: response.resume_token.clone(),
        attempt: first.attempt + 1,
        positions,
        ..first.clone()
    }
}

/// Connects as before and resumes.
pub(crate) async fn come_back(ready: &Ready, way: Way, start: StartRequest) -> (TestClient, StartResponse) {
    let mut client = TestClient::connect(ready, way).await.unwrap();
    let response = client.start(start).await.unwrap();
    if response.success {
        client.prove(response.fence).await.unwrap();
    }
    (client, response)
}

/// The reply to a call.
pub(crate) fn business(frame: DownFrame) -> BusinessResponse {
    match frame.body {
        DownBody::BusinessData(response) => response,
        other => panic!("not a reply: {other:?}"),
    }
}

/// The error that answers a frame.
pub(crate) fn error(frame: DownFrame) -> ErrorMessage {
    match frame.body {
        DownBody::Error(error) => error,
        DownBody::ChannelResp(wire::ChannelResponse { error: Some(error), .. }) => error,
        other => panic!("not an error: {other:?}"),
    }
}

/// The answer to a request on a channel.
pub(crate) fn channel(frame: DownFrame) -> wire::ChannelResponse {
    match frame.body {
        DownBody::ChannelResp(response) if response.error.is_none() => response,
        other => panic!("not a channel's answer: {other:?}"),
    }
}

/// A publication's place and data, or a push's place and title.
pub(crate) fn published(frame: &DownFrame) -> (ChannelPosition, Bytes) {
    let position = frame.position.clone().unwrap_or_else(|| panic!("not a publication: {frame:?}"));
    match &frame.body {
        DownBody::Publication(publication) => (position, publication.data.clone()),
        DownBody::BusinessData(push) => (position, Bytes::from(push.title.clone())),
        other => panic!("not a publication: {other:?}"),
    }
}

/// Where START_RESP says that a channel goes on.
pub(crate) fn position(response: &StartResponse, channel: &str) -> ChannelPosition {
    let found = response.positions.iter().find(|position| position.channel == channel);
    found.unwrap_or_else(|| panic!("{channel} is not live: {:?}", response.positions)).clone()
}

/// A call with a number and message id of the test's choice.
pub(crate) fn call_frame(
    msg_id: u32,
    seq: u64,
    action: &str,
    params: &[(&str, &str)],
    data: &'static str,
) -> UpFrame {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = wire::BusinessRequest { action: action.into(), params, data: data.into() };
    UpFrame::new(msg_id, seq, UpBody::Business(request))
}

/// The body of a page of the metrics' address.
pub(crate) async fn get(ready: &Ready, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(ready.metrics().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// A number anywhere in the figures by its name.
pub(crate) fn find(value: &serde_json::Value, name: &str) -> Option<u64> {
    let members = value.as_object()?;
    let own = members.get(name).and_then(serde_json::Value::as_u64);
    own.or_else(|| members.values().find_map(|member| find(member, name)))
}
