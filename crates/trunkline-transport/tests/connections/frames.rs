//! W2: frames of every size, however they are cut, over every protocol.

use trunkline_transport::{Connection, FrameKind, Framing, Protocol, ReadError, Role, memory};

use crate::harness::{frame, pair, pattern, within};

const MIB: usize = 1 << 20;

/// Every protocol, and memory under both framings.
async fn pairs() -> Vec<(String, Connection, Connection)> {
    let mut out = Vec::new();
    for protocol in Protocol::ALL {
        let (client, server) = pair(protocol, MIB).await;
        out.push((protocol.to_string(), client, server));
    }
    let (client, server) = memory::pair(Framing::WebSocket { role: Role::Client }, MIB);
    out.push(("memory, as WebSocket".to_owned(), client, server));
    out
}

/// Sends on one side while the other receives; both must be done by the deadline.
async fn passes(name: &str, from: &mut Connection, to: &mut Connection, payload: &[u8]) {
    within(async {
        let (sent, got) = tokio::join!(from.writer.send(FrameKind::Binary, payload), frame(to));
        sent.unwrap();
        assert_eq!(got.kind, FrameKind::Binary, "{name}");
        assert!(got.bytes == payload, "{name}: {} bytes changed on their way", payload.len());
    })
    .await;
}

#[tokio::test]
async fn w2_frames_of_0_and_1_mib_pass_both_ways() {
    for (name, mut client, mut server) in pairs().await {
        for length in [0, 1, 125, 126, 65535, 65536, MIB, 0] {
            let payload = pattern(length);
            passes(&name, &mut client, &mut server, &payload).await;
            passes(&name, &mut server, &mut client, &payload).await;
        }
    }
}

#[tokio::test]
async fn w2_frames_of_1_mib_plus_1_and_2_pow_32_minus_1_are_refused_by_their_header() {
    for declared in [MIB + 1, u32::MAX as usize] {
        for (name, mut client, mut server) in pairs().await {
            let mut header = Vec::new();
            client.writer.framing().write_header(FrameKind::Binary, declared, &mut header);
            // A good frame before it still arrives, and not one byte of its payload is needed.
            let mut bytes = client.writer.framing().frame(FrameKind::Binary, b"good").to_vec();
            bytes.extend(header);
            within(client.writer.write_all(&bytes)).await.unwrap();
            assert_eq!(frame(&mut server).await.bytes, "good");
            match within(server.reader.next()).await {
                Err(ReadError::TooLarge { length, limit: MIB }) => {
                    assert_eq!(length, declared as u64, "{name}")
                }
                other => panic!("{name}: {other:?}"),
            }
            assert!(
                matches!(within(server.reader.next()).await, Ok(None)),
                "{name}: nothing follows an error"
            );
        }
    }
}

#[tokio::test]
async fn w2_a_byte_stream_split_at_every_byte_gives_the_same_frames() {
    let payloads = [vec![], b"a".to_vec(), pattern(130), vec![], pattern(7)];
    for (name, mut client, mut server) in pairs().await {
        let framing = client.writer.framing();
        let bytes: Vec<u8> =
            payloads.iter().flat_map(|payload| framing.frame(FrameKind::Binary, payload)).collect();
        for cut in 0..=bytes.len() {
            within(client.writer.write_all(&bytes[..cut])).await.unwrap();
            tokio::task::yield_now().await;
            within(client.writer.write_all(&bytes[cut..])).await.unwrap();
            for payload in &payloads {
                assert_eq!(&frame(&mut server).await.bytes, payload, "{name}, cut at {cut}");
            }
        }
        // And byte by byte, with the reader taking each as it comes.
        within(async {
            let writing = async {
                for byte in &bytes {
                    client.writer.write_all(std::slice::from_ref(byte)).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let reading = async {
                for payload in &payloads {
                    assert_eq!(&frame(&mut server).await.bytes, payload, "{name}, byte by byte");
                }
            };
            tokio::join!(writing, reading);
        })
        .await;
    }
}

#[tokio::test]
async fn w2_a_hundred_frames_in_one_write_are_a_hundred_frames() {
    for (name, mut client, mut server) in pairs().await {
        let framing = client.writer.framing();
        let bytes: Vec<u8> =
            (0..100usize).flat_map(|i| framing.frame(FrameKind::Binary, &pattern(i * 3))).collect();
        within(client.writer.write_all(&bytes)).await.unwrap();
        for i in 0..100 {
            assert_eq!(frame(&mut server).await.bytes, pattern(i * 3), "{name}, frame {i}");
        }
        assert!(!server.reader.is_mid_frame(), "{name}");
    }
}

#[tokio::test]
async fn the_description_says_who_is_there() {
    for protocol in Protocol::ALL {
        let (client, server) = pair(protocol, MIB).await;
        assert_eq!((client.info.protocol, server.info.protocol), (protocol, protocol));
        assert_eq!(
            server.streams.are_supported(),
            matches!(protocol, Protocol::Quic | Protocol::WebTransport)
        );
        if protocol == Protocol::Memory {
            continue;
        }
        assert!(server.info.peer.unwrap().ip().is_loopback());
        assert_eq!(server.info.local, client.info.peer, "{protocol}");
        let with_path =
            matches!(protocol, Protocol::WebSocket | Protocol::WebSocketTls | Protocol::WebTransport);
        assert_eq!(server.info.path.as_deref(), with_path.then_some("/path"), "{protocol}");
        assert_eq!(server.info.query.as_deref(), with_path.then_some("query=1"), "{protocol}");
        let alpn = match protocol {
            Protocol::Quic => Some("trunkline/1"),
            Protocol::WebTransport => Some("h3"),
            _ => None,
        };
        assert_eq!(server.info.alpn.as_deref(), alpn, "{protocol}");
    }
}
