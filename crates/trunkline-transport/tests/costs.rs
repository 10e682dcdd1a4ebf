//! D8: what a connection and a request cost a server: one task, and few allocations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use tokio::{runtime, sync::oneshot, task::JoinSet};
use trunkline_transport::{
    ClientProtocol, ClientTls, MemoryServerConfig, QuicClientConfig, QuicServerConfig, Session,
    TcpClientConfig, TcpServerConfig, Tls, TransportClient, TransportClientBuilder, TransportError,
    TransportServer, TransportServerBuilder, UnixClientConfig, UnixServerConfig, WebSocketClientConfig,
    WebSocketServerConfig, WebTransportClientConfig, WebTransportServerConfig,
};

const DEADLINE: Duration = Duration::from_secs(120);

async fn echo(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        session.send(packet.reply(packet.payload.clone())).await?;
    }
    Ok(())
}

async fn connected(protocol: impl Into<ClientProtocol>) -> TransportClient {
    let client = TransportClientBuilder::new().with_protocol(protocol).build().await.unwrap();
    client.connect().await.unwrap();
    assert_eq!(client.request("x").await.unwrap().payload, "x");
    client
}

/// Tasks of a runtime that has nothing but a server, beside those that it has without connections.
async fn until_tasks(runtime: &runtime::Runtime, expected: usize, who: &str) {
    let count = || runtime.metrics().num_alive_tasks();
    let settled = async {
        while count() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, settled).await;
    assert!(in_time.is_ok(), "{who}: {} tasks where {expected} are enough", count());
}

#[test]
fn d8_a_connection_is_one_task_and_over_quic_one_more_of_the_libraries() {
    const CONNECTIONS: usize = 10;
    let any = "127.0.0.1:0";
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (memory, memory_client) = MemoryServerConfig::new();
    // The server has a runtime of its own, so that only its tasks are counted.
    let ours = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let theirs = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = TransportServerBuilder::new()
        .with_protocol(TcpServerConfig::new(any))
        .with_protocol(TcpServerConfig::new(any).tls(tls.clone()))
        .with_protocol(WebSocketServerConfig::new(any))
        .with_protocol(WebSocketServerConfig::new(any).tls(tls.clone()))
        .with_protocol(QuicServerConfig::new(any).tls(tls.clone()))
        .with_protocol(WebTransportServerConfig::new(any).tls(tls))
        .with_protocol(UnixServerConfig::new(&path))
        .with_protocol(memory);
    let server = ours.block_on(builder.build()).unwrap();
    let [tcp, encrypted, ws, wss, quic, wt] = server.local_addrs()[..] else { unreachable!() };
    let serving = server.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn_on(async move { serving.serve_with(echo).await }, ours.handle());
    let ways: [(ClientProtocol, usize, &str); 8] = [
        (TcpClientConfig::new(tcp.to_string()).into(), 1, "TCP"),
        (TcpClientConfig::new(encrypted.to_string()).tls(trust.clone()).into(), 1, "TLS"),
        (WebSocketClientConfig::new(format!("ws://{ws}")).into(), 1, "WebSocket"),
        (WebSocketClientConfig::new(format!("wss://{wss}")).tls(trust.clone()).into(), 1, "WSS"),
        // quinn drives each connection by a task of its own, and web-transport-quinn reads each session's capsules.
        (QuicClientConfig::new(quic.to_string()).tls(trust.clone()).into(), 2, "QUIC"),
        (WebTransportClientConfig::new(format!("https://{wt}")).tls(trust).into(), 3, "WebTransport"),
        (UnixClientConfig::new(path.to_str().unwrap()).into(), 1, "Unix"),
        (memory_client.into(), 1, "memory"),
    ];
    theirs.block_on(async {
        // The accept loops, `serve_with` itself, and quinn's two endpoints.
        let idle = 8 + 1 + 2;
        until_tasks(&ours, idle, "nobody").await;
        for (protocol, each, who) in ways {
            let mut clients = Vec::new();
            for _ in 0..CONNECTIONS {
                clients.push(connected(protocol.clone()).await);
            }
            until_tasks(&ours, idle + CONNECTIONS * each, who).await;
            for client in clients {
                client.disconnect().await;
            }
            until_tasks(&ours, idle, who).await;
        }
    });
}

/// Asks so many times, one after the other.
async fn ask(client: &TransportClient, count: u32) {
    for i in 0..count {
        let mut body = [7; 64];
        body[..4].copy_from_slice(&i.to_be_bytes());
        let answer = client.request(body.to_vec()).await.unwrap();
        assert_eq!(answer.payload, body[..]);
    }
}

/// Allocations of a server's thread for each request of 64 bytes that it echoes.
fn allocations(
    builder: TransportServerBuilder,
    client: impl FnOnce(&TransportServer) -> ClientProtocol,
) -> f64 {
    const WARM: u32 = 1_000;
    const COUNTED: u32 = 5_000;
    let ours = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = ours.block_on(builder.build()).unwrap();
    let protocol = client(&server);
    let serving = server.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn_on(async move { serving.serve_with(echo).await }, ours.handle());
    let (warm, is_warm) = oneshot::channel();
    let (go, goes) = oneshot::channel();
    let (done, is_done) = oneshot::channel();
    let asking = std::thread::scope(|threads| {
        let asking = threads.spawn(move || {
            let theirs = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            theirs.block_on(async {
                let client = connected(protocol).await;
                ask(&client, WARM).await;
                warm.send(()).unwrap();
                goes.await.unwrap();
                ask(&client, COUNTED).await;
                done.send(()).unwrap();
            });
        });
        ours.block_on(is_warm).unwrap();
        go.send(()).unwrap();
        // This thread runs nothing but the server.
        let in_time = async { tokio::time::timeout(DEADLINE, is_done).await.unwrap().unwrap() };
        let counted = allocation_counter::measure(|| ours.block_on(in_time));
        asking.join().unwrap();
        counted.count_total
    });
    asking as f64 / f64::from(COUNTED)
}

#[test]
fn d8_a_request_costs_one_allocation() {
    let any = "127.0.0.1:0";
    let tcp = allocations(TransportServerBuilder::new().with_protocol(TcpServerConfig::new(any)), |server| {
        TcpClientConfig::new(server.local_addrs()[0].to_string()).into()
    });
    let websocket =
        allocations(TransportServerBuilder::new().with_protocol(WebSocketServerConfig::new(any)), |server| {
            WebSocketClientConfig::new(format!("ws://{}", server.local_addrs()[0])).into()
        });
    println!("allocations a request: TCP {tcp}, WebSocket {websocket}");
    // The packet's bytes, where MsgTrans has eight. The rest is for what comes once in a while: a read that was cut short.
    assert!(tcp <= 1.05 && websocket <= 1.05, "TCP {tcp}, WebSocket {websocket}");
}
