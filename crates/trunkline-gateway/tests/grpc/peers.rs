//! Who may ask, and how connections and the surface begin and end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use trunkline_gateway::grpc::{self, ClientCertificate, GrpcOptions, Peer};
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::wire::{self, PushOutcome};
use trunkline_transport::{ReloadableCertificate, ServerTls, Socket, TlsPolicy, certificate};

use crate::support::{Node, UPSTREAM_TOKEN, any_port, push_to, within};

const SERVICE: &str = "gatesvr.proto.GatewayService";

/// An address that documents have, and nobody's loopback.
fn far() -> Peer {
    Peer::Tcp(SocketAddr::from(([192, 0, 2, 7], 4_000)))
}

/// Gives tonic a byte stream that exists already, once.
struct Once<S>(Arc<Mutex<Option<S>>>);

impl<S: AsyncRead + Send + 'static> Service<Uri> for Once<S> {
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<S>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let stream = self.0.lock().take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::Error::other("the connection is gone")))
    }
}

async fn over<S>(stream: S) -> Result<Channel>
where
    S: AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let once = Once(Arc::new(Mutex::new(Some(stream))));
    let endpoint = Endpoint::from_static("http://gateway");
    Ok(within("a connection", endpoint.connect_with_connector(once)).await??)
}

/// A peer from anywhere, in memory.
async fn peer_from(node: &Node, peer: Peer, certificate: ClientCertificate) -> Result<Channel> {
    let (theirs, ours) = duplex(64 << 10);
    ensure!(node.grpc.accept(ours, peer, certificate), "no place");
    over(theirs).await
}

fn with_token<T>(message: T, authorization: Option<&'static str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", tonic::metadata::MetadataValue::from_static(value));
    }
    request
}

/// Every method once; what gRPC said to each.
async fn ask_everything(channel: Channel, authorization: Option<&'static str>) -> Vec<(&'static str, Code)> {
    let mut service = GatewayServiceClient::new(channel);
    let mut said = Vec::new();
    macro_rules! ask {
        ($($method:ident($message:expr),)+) => {$(
            let answer = service.$method(with_token($message, authorization)).await;
            said.push((stringify!($method), answer.map_or_else(|status| status.code(), |_| Code::Ok)));
        )+};
    }
    ask! {
        push_to_client(push_to("openid", "alice", "x")),
        broadcast_to_clients(wire::BroadcastRequest::default()),
        register_upstream(wire::UpstreamRegisterRequest { address: "192.0.2.7:1".into(), zone_id: "*".into(), ..Default::default() }),
        deregister_upstream(wire::UpstreamDeregisterRequest { address: "192.0.2.7:1".into(), ..Default::default() }),
        push_batch(wire::PushBatchRequest { targets: vec![], push: Some(push_to("", "", "x")) }),
        publish(wire::ServicePublishRequest { channel: "room:1".into(), ..Default::default() }),
        subscribe(wire::MembershipRequest::default()),
        unsubscribe(wire::MembershipRequest::default()),
        presence(wire::ChannelRequest { channel: "room:1".into(), since: None }),
        disconnect(wire::DisconnectRequest::default()),
    }
    said
}

#[tokio::test]
async fn u4_a_foreign_peer_without_the_token_may_ask_nothing() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let wrong =
        [None, Some("Bearer wrong-token-of-the-tests"), Some("Basic upstream-token-of-the-tests"), Some("")];
    for authorization in wrong {
        let channel = peer_from(&node, far(), ClientCertificate::Absent).await?;
        for (method, code) in ask_everything(channel, authorization).await {
            assert_eq!(code, Code::Unauthenticated, "{method} with {authorization:?}");
        }
    }
    assert_eq!(node.upstreams.snapshot().instances.len(), 0, "nobody took a zone");
    assert_eq!(client.drain().await?, [], "the victims notice nothing");
    let channel = peer_from(&node, far(), ClientCertificate::Absent).await?;
    let said = ask_everything(channel, Some("Bearer upstream-token-of-the-tests")).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    let channel = peer_from(&node, far(), ClientCertificate::Verified).await?;
    let said = ask_everything(channel, None).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    assert!(UPSTREAM_TOKEN.starts_with("upstream-token"));
    node.stop(client).await
}

#[tokio::test]
async fn u4_loopback_needs_no_token_but_not_a_wrong_one() -> Result<()> {
    let node = Node::start().await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", node.grpc.local_addr()))?;
    let channel = within("connecting", endpoint.connect()).await??;
    let said = ask_everything(channel.clone(), None).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    let said = ask_everything(channel.clone(), Some("Bearer other")).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Unauthenticated), "{said:?}");
    node.stop(channel).await
}

#[tokio::test]
async fn a_stranger_may_ask_for_health_and_not_for_the_schema() -> Result<()> {
    let node = Node::start().await?;
    let channel = peer_from(&node, far(), ClientCertificate::Absent).await?;
    assert_eq!(health(&channel, SERVICE).await?, ServingStatus::Serving);
    assert_eq!(services(&channel).await.map_err(|status| status.code()).err(), Some(Code::Unauthenticated));
    node.stop(channel).await
}

async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(channel.clone()).check(request).await?.into_inner().status())
}

async fn services(channel: &Channel) -> Result<Vec<String>, Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    let answer = answers.message().await?;
    let Some(ServerReflectionResponse {
        message_response: Some(MessageResponse::ListServicesResponse(list)),
        ..
    }) = answer
    else {
        return Err(Status::internal(format!("{answer:?}")));
    };
    Ok(list.service.into_iter().map(|service| service.name).collect())
}

#[tokio::test]
async fn reflection_names_the_services() -> Result<()> {
    let node = Node::start().await?;
    let channel = peer_from(&node, Peer::Local, ClientCertificate::Absent).await?;
    let names = services(&channel).await?;
    for name in [SERVICE, "gatesvr.proto.UpstreamService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|listed| listed == name), "{names:?}");
    }
    node.stop(channel).await
}

#[tokio::test]
async fn health_serves_only_between_ready_and_drain() -> Result<()> {
    let node = Node::start().await?;
    let other = grpc::serve(&node.gateway, Socket::Address(any_port()), GrpcOptions::new("")).await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", other.local_addr()))?;
    let channel = within("connecting", endpoint.connect()).await??;
    for name in ["", SERVICE] {
        assert_eq!(health(&channel, name).await?, ServingStatus::NotServing, "{name:?}");
    }
    let unknown = health(&channel, "no.such.Service").await;
    assert_eq!(unknown.map_err(|status| status.code()).err(), Some(Code::NotFound));
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let mut watch = HealthClient::new(channel.clone()).watch(request).await?.into_inner();
    let mut next = async || -> Result<ServingStatus> {
        let answer = within("a change of health", watch.message()).await??;
        Ok(answer.context("the watch has ended")?.status())
    };
    assert_eq!(next().await?, ServingStatus::NotServing);
    other.ready().await;
    assert_eq!(next().await?, ServingStatus::Serving);
    for name in ["", SERVICE] {
        assert_eq!(health(&channel, name).await?, ServingStatus::Serving, "{name:?}");
    }
    node.gateway.drain(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(next().await?, ServingStatus::NotServing);
    other.ready().await;
    assert_eq!(
        health(&channel, "").await?,
        ServingStatus::NotServing,
        "a node that drains does not come back"
    );
    // Somebody who watches does not hold up the end.
    let long = Instant::now() + Duration::from_secs(600);
    within("the end of a surface that is watched", other.shutdown(long)).await?;
    assert_eq!(other.connections(), 0);
    node.stop((channel, watch)).await
}

#[tokio::test]
async fn what_runs_is_answered_before_the_end_and_nothing_new_begins() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let mut service = node.service().await?;
    let request = wire::UnicastPushRequest { wait_ack_ms: 60_000, ..push_to("openid", "alice", "slow") };
    let address = node.grpc.local_addr();
    let push = async { Ok::<_, anyhow::Error>(service.push_to_client(request).await?.into_inner()) };
    let ending = async {
        let frame = client.push().await?;
        let shutdown = node.grpc.shutdown(Instant::now() + Duration::from_secs(600));
        let acking = async {
            // The listener's end is what tells that the shutdown has begun.
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            client.ack_position(frame.position.unwrap_or_default()).await
        };
        let (ended, acked) = tokio::join!(within("the shutdown", shutdown), acking);
        acked?;
        ended
    };
    let (answer, ended) = tokio::join!(push, ending);
    ended?;
    assert_eq!(answer?.outcome(), PushOutcome::OutcomeAcked);
    node.stop((client, service)).await
}

/// HTTP/2 as it is: tonic's own channel keeps deadlines itself and would hide the server's.
struct Direct(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl Service<http::Request<tonic::body::Body>> for Direct {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[tokio::test]
async fn a_request_ends_at_its_own_deadline() -> Result<()> {
    let node = Node::start().await?;
    let client = node.client("alice").await?;
    let stream = TokioIo::new(TcpStream::connect(node.grpc.local_addr()).await?);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await?;
    let mut life = JoinSet::new();
    life.spawn(connection);
    let mut service = GatewayServiceClient::with_origin(Direct(sender), Uri::from_static("http://gateway"));
    let request = wire::UnicastPushRequest { wait_ack_ms: 60_000, ..push_to("openid", "alice", "slow") };
    let mut request = Request::new(request);
    request.metadata_mut().insert("grpc-timeout", tonic::metadata::MetadataValue::from_static("20m"));
    let answer = within("the deadline", service.push_to_client(request)).await?;
    assert_eq!(answer.map_err(|status| status.code()).err(), Some(Code::DeadlineExceeded));
    // The connection lives, and so does what comes next.
    let answer = service.push_to_client(push_to("openid", "alice", "next")).await?.into_inner();
    assert_eq!(answer.outcome(), PushOutcome::OutcomeDelivered);
    node.stop((client, service, life)).await
}

/// Reads until the server closes.
async fn closed(mut stream: DuplexStream) -> Result<Vec<u8>> {
    let mut rest = Vec::new();
    within("the close", stream.read_to_end(&mut rest)).await??;
    Ok(rest)
}

#[tokio::test(start_paused = true)]
async fn silent_and_foreign_peers_hold_no_place() -> Result<()> {
    let node = Node::start_with(|setup| setup.grpc.max_connections = 2).await?;
    let begin = || {
        let (theirs, ours) = duplex(64 << 10);
        (theirs, node.grpc.accept(ours, far(), ClientCertificate::Absent))
    };
    // One says nothing; one begins HTTP/2 and asks nothing; there is no third place.
    let (silent, taken) = begin();
    assert!(taken);
    let (mut idle, taken) = begin();
    assert!(taken);
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let (third, taken) = begin();
    assert!(!taken);
    assert_eq!(closed(third).await?, b"");
    assert_eq!(closed(silent).await?, b"", "the preface's deadline");
    closed(idle).await.context("the stranger's deadline")?;
    // Another protocol is not waited for.
    let (mut http1, taken) = begin();
    assert!(taken);
    http1.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    assert_eq!(closed(http1).await?, b"");
    assert_eq!(node.grpc.connections(), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_asks_for_health_gives_its_place_back() -> Result<()> {
    let node = Node::start_with(|setup| setup.grpc.max_connections = 2).await?;
    let near = Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 4_000)));
    let known = peer_from(&node, near, ClientCertificate::Absent).await?;
    assert_eq!(health(&known, "").await?, ServingStatus::Serving);
    let stranger = peer_from(&node, far(), ClientCertificate::Absent).await?;
    assert_eq!(health(&stranger, "").await?, ServingStatus::Serving);
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(stranger).watch(request).await?.into_inner();
    let first = watch.message().await?.context("a watch says first how it is")?;
    assert_eq!(first.status(), ServingStatus::Serving);
    // Its last stream ends with the connection, although nobody else ends it.
    within("the stranger's end", async { while let Ok(Some(_)) = watch.message().await {} }).await?;
    assert_eq!(node.grpc.connections(), 1, "the stranger's place is free");
    // It cannot have come back: a stream in memory can be opened once only.
    assert_eq!(health(&known, "").await?, ServingStatus::Serving, "who may ask for more stays");
    node.stop((known, watch)).await
}

/// The same of a client without a certificate.
async fn tls(
    address: SocketAddr,
    certificate_pem: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    tls_as(address, certificate_pem, None).await
}

/// A stream that reads and writes through TLS, trusting one certificate.
async fn tls_as(
    address: SocketAddr,
    certificate_pem: &str,
    client: Option<&(rcgen::Certificate, rcgen::KeyPair)>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(certificate_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
            config.with_client_auth_cert(vec![certificate.der().clone()], key.into())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    let name = rustls_pki_types::ServerName::try_from("localhost")?;
    Ok(within("the handshake", connector.connect(name, stream)).await??)
}

#[tokio::test]
async fn the_port_speaks_tls_where_it_must_with_the_certificate_of_the_moment() -> Result<()> {
    let made = certificate::self_signed(&[])?;
    let shared = ReloadableCertificate::from(&made);
    let server_tls = ServerTls::new(&shared, &["h2"], None)?;
    let node = Node::start_with(|setup| {
        setup.grpc.tls_policy = TlsPolicy::Required;
        setup.grpc.tls = Some(server_tls);
    });
    let node = node.await?;
    let address = node.grpc.local_addr();
    let channel = over(tls(address, &made.certificate_pem).await?).await?;
    assert_eq!(health(&channel, "").await?, ServingStatus::Serving);
    let said = ask_everything(channel.clone(), None).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    // A plain peer is closed.
    let mut plain = TcpStream::connect(address).await?;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let mut rest = Vec::new();
    // Its unread bytes may make the close a reset.
    let _: io::Result<usize> = within("the close", plain.read_to_end(&mut rest)).await?;
    assert_eq!(rest, b"");
    // The next handshake has the new certificate; the connection that lives is not touched.
    let renewed = certificate::self_signed(&[])?;
    shared.replace(renewed.certificate_pem.as_bytes(), renewed.key_pem.as_bytes())?;
    assert!(tls(address, &made.certificate_pem).await.is_err());
    let second = over(tls(address, &renewed.certificate_pem).await?).await?;
    assert_eq!(health(&second, "").await?, ServingStatus::Serving);
    assert_eq!(health(&channel, "").await?, ServingStatus::Serving);
    node.stop((channel, second)).await
}

/// An authority, and a certificate for a client that it has signed.
fn authority(name: &str) -> Result<(rcgen::Certificate, (rcgen::Certificate, rcgen::KeyPair))> {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = params.self_signed(&key)?;
    let mut client = CertificateParams::new(vec!["upstream".to_owned()])?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client_key = KeyPair::generate()?;
    let certificate = client.signed_by(&client_key, &Issuer::new(params, key))?;
    Ok((root, (certificate, client_key)))
}

#[tokio::test]
async fn a_certificate_of_the_authority_stands_for_the_token() -> Result<()> {
    let made = certificate::self_signed(&[])?;
    let (root, upstream) = authority("ours")?;
    let (_, stranger) = authority("not ours")?;
    let shared = ReloadableCertificate::from(&made);
    let server_tls = ServerTls::verifying_clients(&shared, &["h2"], None, root.pem().as_bytes())?;
    let node = Node::start_with(|setup| {
        setup.grpc.tls_policy = TlsPolicy::Required;
        setup.grpc.tls = Some(server_tls);
    });
    let node = node.await?;
    let address = node.grpc.local_addr();
    // A verified peer may send a wrong token: its certificate is what counts, which shows that it was seen.
    let verified = over(tls_as(address, &made.certificate_pem, Some(&upstream)).await?).await?;
    let said = ask_everything(verified.clone(), Some("Bearer other")).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Ok), "{said:?}");
    let without = over(tls(address, &made.certificate_pem).await?).await?;
    let said = ask_everything(without.clone(), Some("Bearer other")).await;
    assert!(said.iter().all(|(_, code)| *code == Code::Unauthenticated), "{said:?}");
    // With TLS 1.3 the client learns after its handshake that its certificate was refused.
    if let Ok(mut refused) = tls_as(address, &made.certificate_pem, Some(&stranger)).await {
        let mut rest = Vec::new();
        assert!(within("the refusal", refused.read_to_end(&mut rest)).await?.is_err());
    }
    node.stop((verified, without)).await
}
