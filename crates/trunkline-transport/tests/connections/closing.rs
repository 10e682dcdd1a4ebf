//! How connections end: gracefully with nothing lost, with a code, abruptly, in the middle of a frame.

use std::{io, time::Duration};

use trunkline_transport::{Connection, FrameKind, Incoming, Protocol, ReadError, close};

use crate::harness::{DEADLINE, frame, pair, pattern, within};

const MIB: usize = 1 << 20;

/// Closing a TCP socket with unread bytes in it sends a reset, which would overtake the last frame.
#[tokio::test]
async fn the_last_frame_arrives_although_the_peer_still_sends() {
    for protocol in Protocol::ALL {
        let (client, mut server) = pair(protocol, MIB).await;
        // It owns both halves: once it has seen the end it stops sending, as any client does.
        let client_side = async move {
            let Connection { mut reader, mut writer, .. } = client;
            let flood = async {
                while writer.send(FrameKind::Binary, &pattern(8 << 10)).await.is_ok() {}
                std::future::pending::<()>().await;
            };
            let receiving = async {
                let Some(Incoming::Frame(last)) = reader.next().await.unwrap() else { panic!("{protocol}") };
                assert_eq!(last.bytes, "last words", "{protocol}");
                reader.next().await.unwrap()
            };
            tokio::select! {
                end = receiving => end,
                () = flood => unreachable!("the flood never ends by itself"),
            }
        };
        let server_side = async {
            frame(&mut server).await;
            server.writer.send(FrameKind::Binary, b"last words").await.unwrap();
            if let Some(bytes) = server.writer.framing().close(4000, "drain") {
                server.writer.write_all(&bytes).await.unwrap();
            }
            close(server.reader, server.writer, 4000, "drain", DEADLINE).await;
        };
        let (end, ()) = within(async { tokio::join!(client_side, server_side) }).await;
        match protocol {
            // On QUIC the stream ends first, and the connection with its code after it.
            Protocol::Tcp
            | Protocol::Tls
            | Protocol::Memory
            | Protocol::Unix
            | Protocol::Custom(_)
            | Protocol::Quic
            | Protocol::WebTransport => {
                assert_eq!(end, None, "{protocol}");
            }
            Protocol::WebSocket | Protocol::WebSocketTls => {
                assert_eq!(end, Some(Incoming::Close { code: Some(4000), reason: "drain".to_owned() }));
            }
        }
    }
}

#[tokio::test]
async fn an_aborted_quic_connection_ends_with_its_code() {
    for protocol in [Protocol::Quic, Protocol::WebTransport] {
        let (mut client, mut server) = pair(protocol, MIB).await;
        server.writer.abort(4301, "replaced");
        let expected = Incoming::Close { code: Some(4301), reason: "replaced".to_owned() };
        assert_eq!(within(client.reader.next()).await.unwrap(), Some(expected), "{protocol}");
        assert_eq!(within(client.reader.next()).await.unwrap(), None, "{protocol}");
        // The side that aborted has an end too.
        assert_eq!(within(server.reader.next()).await.unwrap(), None, "{protocol}");
    }
}

#[tokio::test]
async fn a_gracefully_closed_quic_connection_tells_its_code_after_its_last_frame() {
    for protocol in [Protocol::Quic, Protocol::WebTransport] {
        let (mut client, mut server) = pair(protocol, MIB).await;
        within(server.writer.send(FrameKind::Binary, b"last words")).await.unwrap();
        let closing = close(server.reader, server.writer, 4000, "drain", DEADLINE);
        let ending = async {
            assert_eq!(frame(&mut client).await.bytes, "last words", "{protocol}");
            assert_eq!(client.reader.next().await.unwrap(), None, "{protocol}");
            client.streams.accept_stream().await.unwrap_err().to_string()
        };
        let ((), error) = within(async { tokio::join!(closing, ending) }).await;
        assert!(error.contains("4000") && error.contains("drain"), "{protocol}: {error}");
    }
}

#[tokio::test]
async fn an_abort_ends_both_sides_of_a_stream() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::WebSocket] {
        let (mut client, mut server) = pair(protocol, MIB).await;
        server.writer.abort(4001, "slow");
        // TLS calls an end without close_notify an unexpected one.
        let end = within(client.reader.next()).await;
        assert!(matches!(end, Ok(None) | Err(ReadError::Io(_))), "{protocol}: {end:?}");
        let own = within(server.reader.next()).await;
        assert!(matches!(own, Ok(None) | Err(ReadError::Io(_))), "{protocol}: {own:?}");
    }
}

#[tokio::test]
async fn a_dropped_connection_ends_cleanly_between_frames_and_not_within_one() {
    for protocol in Protocol::ALL {
        let (client, mut server) = pair(protocol, MIB).await;
        let mut client = client;
        within(client.writer.finish()).await.unwrap();
        assert_eq!(within(server.reader.next()).await.unwrap(), None, "{protocol}");

        let (mut client, mut server) = pair(protocol, MIB).await;
        let bytes = client.writer.framing().frame(FrameKind::Binary, b"never whole");
        within(client.writer.write_all(&bytes[..bytes.len() - 1])).await.unwrap();
        within(client.writer.finish()).await.unwrap();
        match within(server.reader.next()).await {
            Err(ReadError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{protocol}"),
            other => panic!("{protocol}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn closing_gives_up_on_a_peer_that_never_ends() {
    for protocol in Protocol::ALL {
        let (_client, server) = pair(protocol, MIB).await;
        within(close(server.reader, server.writer, 4000, "drain", Duration::from_millis(50))).await;
    }
}

#[tokio::test]
async fn a_websocket_close_frame_surfaces_and_nothing_follows_it() {
    let (mut client, mut server) = pair(Protocol::WebSocket, MIB).await;
    let framing = client.writer.framing();
    let mut bytes = framing.close(4300, "stopped").unwrap().to_vec();
    bytes.extend(framing.frame(FrameKind::Binary, b"too late"));
    within(client.writer.write_all(&bytes)).await.unwrap();
    let expected = Incoming::Close { code: Some(4300), reason: "stopped".to_owned() };
    assert_eq!(within(server.reader.next()).await.unwrap(), Some(expected));
    assert_eq!(within(server.reader.next()).await.unwrap(), None);
}
