//! The seed's examples, run as they stand.

use std::future::Future;

use tokio::task::JoinSet;
use trunkline_transport::{
    ClientTls, QuicClientConfig, TcpClientConfig, Tls, TransportClientBuilder, WebSocketClientConfig,
};

use crate::harness::within;

#[cfg(feature = "zstd")]
#[allow(dead_code, reason = "its main prints what a test compares")]
#[path = "../../examples/dictionary.rs"]
pub(crate) mod dictionary;
#[allow(dead_code, reason = "its main has the addresses of the seed; here they are free ones")]
#[path = "../../examples/seed_client.rs"]
mod seed_client;
#[cfg(target_os = "linux")]
#[path = "../../examples/seed_custom_protocol.rs"]
mod seed_custom_protocol;
#[allow(dead_code, reason = "its main has the addresses of the seed; here they are free ones")]
#[path = "../../examples/seed_echo_server.rs"]
mod seed_echo_server;
#[allow(dead_code, reason = "its main has the addresses of the seed; here they are free ones")]
#[path = "../../examples/seed_pool.rs"]
mod seed_pool;
#[allow(dead_code, reason = "its main has the addresses of the seed; here they are free ones")]
#[path = "../../examples/seed_protocols.rs"]
mod seed_protocols;

const ANY: &str = "127.0.0.1:0";

/// Runs a server beside what is done with it.
async fn beside<T>(
    server: impl Future<Output = Result<(), trunkline_transport::TransportError>> + Send + 'static,
    client: impl Future<Output = T>,
) -> T {
    let mut tasks = JoinSet::new();
    tasks.spawn(server);
    within(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_and_the_pool_talk_to_the_echo_server() {
    let server = seed_echo_server::build(ANY, ANY).await.unwrap();
    let tcp = server.local_addrs()[0].to_string();
    let talk = async {
        let answer = seed_client::run(&tcp).await.unwrap();
        assert_eq!(answer.as_deref(), Some("Hello, Server!"));
        assert_eq!(seed_pool::run(&tcp).await.unwrap(), 100);
    };
    beside(seed_echo_server::run(server.clone()), talk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_business_code_serves_several_protocols() {
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let server = seed_protocols::build([ANY; 3], tls).await.unwrap();
    let [tcp, websocket, quic] = server.local_addrs()[..] else { panic!("three listeners") };
    let talk = async {
        let builders = [
            TransportClientBuilder::new().with_protocol(TcpClientConfig::new(tcp.to_string())),
            TransportClientBuilder::new()
                .with_protocol(WebSocketClientConfig::new(format!("ws://{websocket}"))),
            TransportClientBuilder::new().with_protocol(QuicClientConfig::new(quic.to_string()).tls(trust)),
        ];
        for builder in builders {
            let client = builder.build().await.unwrap();
            client.connect().await.unwrap();
            client.request("secret").await.unwrap();
            assert_eq!(client.request("hello").await.unwrap().payload, "you said: hello");
        }
    };
    let serving = server.clone();
    beside(async move { Ok(serving.serve_with(seed_protocols::chat).await?) }, talk).await;
}

#[test]
fn a_custom_protocol_takes_sixty_lines() {
    #[cfg(target_os = "linux")]
    seed_custom_protocol::main().unwrap();
    let lines = include_str!("../../examples/seed_custom_protocol.rs").lines().count();
    assert!(lines <= 60, "{lines}");
}
