//! How many newcomers the kernel keeps while nobody accepts them. Linux lets one more wait than it is told.

use std::{io, pin::pin, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use trunkline_transport::{TransportServerBuilder, UnixServerConfig};

use crate::harness::{Kind, Serving, echo, within};

/// How long somebody who must not get in is watched. Too short can only miss a failure, never make one up.
const QUIET: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_tcp_keeps_as_many_waiting_as_it_is_told() {
    let kinds = [Kind::Tcp, Kind::Tls, Kind::WebSocket, Kind::WebSocketTls];
    // Side by side: who waits outside knocks again after a second.
    join_all(kinds.map(|kind| async move {
        let (protocol, _) = kind.listener();
        let server = TransportServerBuilder::new().backlog(1).with_protocol(protocol).build().await.unwrap();
        let at = server.local_addrs()[0];
        // Nobody is accepted before the server serves.
        let _first = within(TcpStream::connect(at)).await.unwrap();
        let _second = within(TcpStream::connect(at)).await.unwrap();
        let mut outside = pin!(TcpStream::connect(at));
        assert!(timeout(QUIET, &mut outside).await.is_err(), "{kind:?}: there is room for a third");
        let _serving = Serving::of(kind, server, echo);
        within(outside).await.unwrap();
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_a_unix_socket_keeps_as_many_waiting_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let builder = TransportServerBuilder::new().backlog(1).with_protocol(UnixServerConfig::new(&path));
    let server = builder.build().await.unwrap();
    let _first = within(UnixStream::connect(&path)).await.unwrap();
    let _second = within(UnixStream::connect(&path)).await.unwrap();
    let outside = within(UnixStream::connect(&path)).await.unwrap_err();
    assert_eq!(outside.kind(), io::ErrorKind::WouldBlock);
    drop(server);
}
