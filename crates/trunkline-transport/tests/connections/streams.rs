//! Streams and datagrams beside the frames.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_transport::{
    ByteWriter, Connection, FrameKind, FrameReader, Incoming, Protocol, QuicOptions, StreamError,
    StreamOptions,
};

use crate::harness::{Server, frame, pair, pattern, trusted, within};

const WITH_STREAMS: [Protocol; 2] = [Protocol::Quic, Protocol::WebTransport];

#[tokio::test]
async fn either_side_opens_streams_and_frames_go_on_beside_them() {
    for protocol in WITH_STREAMS {
        let (mut client, mut server) = pair(protocol, 1 << 20).await;
        for turn in 0..2 {
            let (opener, acceptor) = if turn == 0 {
                (&client.streams, &server.streams)
            } else {
                (&server.streams, &client.streams)
            };
            let payload = pattern(700 << 10);
            let opening = async {
                let (mut send, mut recv) = opener.open_stream().await.unwrap();
                let mut echoed = Vec::new();
                let sending = async {
                    send.write_all(&payload).await.unwrap();
                    send.finish();
                };
                let (_, read) = tokio::join!(sending, recv.read_to_end(&mut echoed));
                read.unwrap();
                assert!(echoed == payload, "{protocol}: the stream's bytes changed");
                assert_eq!(send.stopped().await.unwrap(), None);
            };
            let accepting = async {
                let (mut send, mut recv) = acceptor.accept_stream().await.unwrap();
                tokio::io::copy(&mut recv, &mut send).await.unwrap();
                send.shutdown().await.unwrap();
            };
            within(async { tokio::join!(opening, accepting) }).await;
        }
        within(client.writer.send(FrameKind::Binary, b"still here")).await.unwrap();
        assert_eq!(frame(&mut server).await.bytes, "still here", "{protocol}");
    }
}

#[tokio::test]
async fn a_reset_stream_ends_alone() {
    for protocol in WITH_STREAMS {
        let (mut client, mut server) = pair(protocol, 1 << 20).await;
        let (mut send, _recv) = within(client.streams.open_stream()).await.unwrap();
        send.write_all(b"begun").await.unwrap();
        let (_answer, mut received) = within(server.streams.accept_stream()).await.unwrap();
        let mut begun = [0; 5];
        within(received.read_exact(&mut begun)).await.unwrap();
        send.reset(7);
        assert!(within(received.read_u8()).await.is_err(), "{protocol}");
        within(server.writer.send(FrameKind::Binary, b"frames live")).await.unwrap();
        assert_eq!(frame(&mut client).await.bytes, "frames live", "{protocol}");
    }
}

#[tokio::test]
async fn datagrams_pass_and_too_large_ones_are_told() {
    for protocol in WITH_STREAMS {
        let (client, server) = pair(protocol, 1 << 20).await;
        assert!(client.streams.max_datagram_size().unwrap() > 1000, "{protocol}");
        client.streams.send_datagram(Bytes::from_static(b"maybe")).unwrap();
        assert_eq!(within(server.streams.read_datagram()).await.unwrap(), "maybe", "{protocol}");
        // No path has an MTU of 64 KiB.
        let error = client.streams.send_datagram(vec![0; 64 << 10].into()).unwrap_err();
        assert!(matches!(error, StreamError::Datagram(_)), "{protocol}: {error}");
    }
}

#[tokio::test]
async fn who_takes_no_streams_refuses_them_and_holds_nothing() {
    for protocol in WITH_STREAMS {
        let (certificate, trust) = trusted();
        let quic = QuicOptions { max_streams: 1, datagram_buffer: 0, ..QuicOptions::new(certificate) };
        let mut server = Server::with(protocol, 1 << 20, trust, StreamOptions::default(), quic);
        let (mut client, mut server) = server.pair().await;
        let refusing = server.streams.clone();
        let refusing = async move { refusing.refuse_all(404).await };
        let asking = async {
            // More streams, and more bytes, than a connection could hold: each is refused and makes room for the next.
            for turn in 0..40 {
                let (mut send, mut recv) = client.streams.open_stream().await.unwrap();
                // It fails as soon as the refusal is there.
                let _refused = send.write_all(&pattern(100 << 10)).await;
                assert_eq!(send.stopped().await.unwrap(), Some(404), "{protocol}, {turn}");
                assert!(recv.read_u8().await.is_err(), "{protocol}, {turn}");
            }
            client.writer.send(FrameKind::Binary, b"frames live").await.unwrap();
            assert_eq!(frame(&mut server).await.bytes, "frames live", "{protocol}");
        };
        within(async {
            tokio::select! {
                () = refusing => panic!("{protocol}: the connection was lost"),
                () = asking => {}
            }
        })
        .await;
        // One is open, and another has to wait: it could hold what nobody reads.
        let (mut held, _recv) = within(client.streams.open_stream()).await.unwrap();
        held.write_all(b"held").await.unwrap();
        let second = client.streams.open_stream();
        tokio::pin!(second);
        within(async {
            tokio::select! {
                biased;
                _ = second.as_mut() => panic!("{protocol}: a second stream was let in"),
                // By then every credit that was due has come.
                () = echoed(&mut client.writer, &mut client.reader, &mut server) => {}
            }
        })
        .await;
        // What a datagram may hold here is less than one: it cannot even be sent, or it is the one that HTTP/3 wants.
        assert!(client.streams.max_datagram_size().is_none_or(|size| size <= 2 << 10), "{protocol}");
    }
}

/// A frame to the server and back.
async fn echoed(writer: &mut ByteWriter, reader: &mut FrameReader, server: &mut Connection) {
    writer.send(FrameKind::Binary, b"there").await.unwrap();
    assert_eq!(frame(server).await.bytes, "there");
    server.writer.send(FrameKind::Binary, b"back").await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), Some(Incoming::Frame(frame)) if frame.bytes == "back"));
}

#[tokio::test]
async fn the_others_have_none() {
    for protocol in Protocol::ALL.into_iter().filter(|protocol| !WITH_STREAMS.contains(protocol)) {
        let (client, _server) = pair(protocol, 1 << 20).await;
        let streams = &client.streams;
        assert!(matches!(streams.open_stream().await, Err(StreamError::Unsupported)), "{protocol}");
        assert!(matches!(streams.accept_stream().await, Err(StreamError::Unsupported)), "{protocol}");
        assert!(matches!(streams.send_datagram(Bytes::new()), Err(StreamError::Unsupported)), "{protocol}");
        assert!(matches!(streams.read_datagram().await, Err(StreamError::Unsupported)), "{protocol}");
        assert_eq!(streams.max_datagram_size(), None, "{protocol}");
    }
}
