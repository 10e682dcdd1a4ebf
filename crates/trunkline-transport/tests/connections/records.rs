//! The sizes of TLS records: small first, so that a client gets on over links that break early, then full ones.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp},
    task::JoinSet,
};
use trunkline_transport::{Connection, Endpoint, FrameKind, Framing, Incoming, Protocol, connect};

use crate::harness::{Server, frame, pattern, within};

/// What a server writes at once to a client that comes back to a backlog.
const BACKLOG: usize = 24;
const FRAME: usize = 500;

#[tokio::test]
async fn a_client_reads_what_came_before_the_link_broke() {
    for protocol in [Protocol::Tls, Protocol::WebSocketTls] {
        let mut server = Server::start(protocol, 1 << 20);
        let (mut client, mut accepted, mut link) = pair_over_link(&mut server).await;
        let backlog = framed(accepted.writer.framing(), FRAME, BACKLOG);
        within(accepted.writer.write_all(&backlog)).await.unwrap();
        within(link.pass(8 << 10)).await;
        drop(link);
        let mut read = 0;
        while let Ok(Some(Incoming::Frame(frame))) = within(client.reader.next()).await {
            assert!(frame.bytes == pattern(FRAME), "{protocol}: frame {read} is damaged");
            read += 1;
        }
        // 8 KiB are 16 frames at most, of which a packet's worth may be in a record that never ended.
        assert!((12..=16).contains(&read), "{protocol}: {read} frames");
    }
}

#[tokio::test]
async fn a_connection_that_has_carried_some_has_full_records() {
    let mut server = Server::start(Protocol::Tls, 1 << 20);
    let (mut client, mut accepted, mut link) = pair_over_link(&mut server).await;
    let long = pattern(200 << 10);
    let writing = async move {
        accepted.writer.send(FrameKind::Binary, &pattern(200 << 10)).await.unwrap();
        accepted.writer.finish().await.unwrap();
    };
    let passing = async {
        let passed = link.pass(200 << 10).await;
        copy(&mut link.server, &mut link.client).await.unwrap();
        passed
    };
    let reading = async { assert!(frame(&mut client).await.bytes == long) };
    let ((), passed, ()) = within(async { tokio::join!(writing, passing, reading) }).await;
    let sizes = record_sizes(&passed);
    let (early, full) = (sizes.iter().filter(|size| **size < 1_500).count(), sizes.iter().max().unwrap());
    assert!((40..=50).contains(&early), "{early} of {} records are small", sizes.len());
    assert!(*full > 16_000, "the longest record has {full} bytes");
    assert!(sizes[..40].iter().all(|size| *size < 1_500), "{sizes:?}");
}

/// A client of this server through a [`Link`], once both have heard of each other.
async fn pair_over_link(server: &mut Server) -> (Connection, Connection, Link) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let here = listener.local_addr().unwrap();
    let there = server.endpoint.authority();
    let url = server.endpoint.to_string().replace(&there, &here.to_string());
    let endpoint = Endpoint::from_url(&url).unwrap();
    let options = server.options.clone();
    let client = async {
        let mut client = connect(&endpoint, &options).await.unwrap();
        client.writer.send(FrameKind::Binary, b"hello").await.unwrap();
        client
    };
    let accepted = async {
        let mut accepted = server.accept().await;
        assert_eq!(frame(&mut accepted).await.bytes, "hello");
        accepted
    };
    let both = async { tokio::join!(client, accepted) };
    let linking = async {
        let (client, _) = listener.accept().await.unwrap();
        let ((mut from_client, client), (server, mut to_server)) =
            (client.into_split(), TcpStream::connect(&there).await.unwrap().into_split());
        let mut up = JoinSet::new();
        up.spawn(async move { drop(copy(&mut from_client, &mut to_server).await) });
        Link { server, client, _up: up }
    };
    within(async {
        tokio::pin!(both);
        let mut link = tokio::select! {
            link = linking => link,
            _ = &mut both => unreachable!("there is no way yet"),
        };
        // What the server says until then is what the client waits for, so nothing is under way afterwards.
        let (client, accepted) = tokio::select! {
            both = both => both,
            _ = copy(&mut link.server, &mut link.client) => panic!("the server has ended the connection"),
        };
        (client, accepted, link)
    })
    .await
}

/// So many frames of so many bytes in one piece.
fn framed(framing: Framing, length: usize, count: usize) -> Vec<u8> {
    framing.frame(FrameKind::Binary, &pattern(length)).repeat(count)
}

/// The sizes of the complete TLS records at the front of these bytes.
fn record_sizes(mut bytes: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let Some(rest) = rest.get(length..) else { break };
        sizes.push(length);
        bytes = rest;
    }
    sizes
}

/// The way from a server to a client, byte by byte; the other way is open until this is dropped.
struct Link {
    server: tcp::OwnedReadHalf,
    client: tcp::OwnedWriteHalf,
    _up: JoinSet<()>,
}

impl Link {
    /// Lets exactly so many bytes through, and gives them.
    async fn pass(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.server.read_exact(&mut bytes).await.unwrap();
        self.client.write_all(&bytes).await.unwrap();
        bytes
    }
}
