//! A dictionary is used between those who have the same one, and by nobody else.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_transport::{
    BuildError, CloseReason, Compression, Dictionary, EventStream, MemoryServerConfig, Packet, SendError,
    Session, TransportClient, TransportClientBuilder, TransportError, TransportEvent, TransportServerBuilder,
    Wire, WireError,
};

use crate::{
    examples::dictionary::{self as example, dictionary, message},
    harness::{Kind, Serving, within},
};

/// What `zstd --train` has made of messages like these.
const TRAINED: &[u8] = include_bytes!("trained.zdict");

fn other() -> Dictionary {
    Dictionary::new("something that nobody else has").unwrap()
}

fn server(dictionary: impl Into<Option<Dictionary>>) -> TransportServerBuilder {
    match dictionary.into() {
        Some(dictionary) => {
            TransportServerBuilder::new().dictionary(dictionary).compression(Compression::ZstdDictionary, 1)
        }
        None => TransportServerBuilder::new().compression(Compression::Zstd, 1),
    }
}

fn client(dictionary: impl Into<Option<Dictionary>>) -> TransportClientBuilder {
    match dictionary.into() {
        Some(dictionary) => {
            TransportClientBuilder::new().dictionary(dictionary).compression(Compression::ZstdDictionary, 1)
        }
        None => TransportClientBuilder::new().compression(Compression::Zstd, 1),
    }
}

/// Answers with what came, behind the number of how it came.
async fn tell(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        let how = packet.compression as u8;
        session.send(packet.reply([&[how], &packet.payload[..]].concat())).await?;
    }
    Ok(())
}

/// Asks until the peer has said what it can do, and once more: how the request came, and how its answer did.
async fn ask(client: &TransportClient, payload: &str) -> (u8, Compression) {
    let session = client.session().unwrap();
    within(async {
        while session.rtt().is_none() {
            client.request("?").await.unwrap();
        }
        let answer = client.request(payload.to_owned()).await.unwrap();
        assert_eq!(answer.payload[1..], *payload.as_bytes());
        (answer.payload[0], answer.compression)
    })
    .await
}

/// Long enough for zstd alone to make something of it.
fn long() -> String {
    (0..20).map(message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_use_the_dictionary_that_both_have() {
    let both = Compression::ZstdDictionary;
    for kind in Kind::ALL {
        for common in [dictionary().unwrap(), Dictionary::new(TRAINED).unwrap()] {
            let serving = Serving::with(kind, server(common.clone()), tell).await;
            let client = serving.client_of(client(common)).await;
            assert_eq!(ask(&client, &message(7)).await, (both as u8, both), "{kind:?}");
            // What is compressed on another thread, and inflated there.
            let large: String = (0..5_000).map(message).collect();
            assert_eq!(ask(&client, &large).await, (both as u8, both), "{kind:?}");
            let sent = client.stats().sent_bytes;
            assert!(sent < large.len() as u64 / 2, "{kind:?}: {sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_or_none_gets_what_he_got_before() {
    let ours = || dictionary().unwrap();
    let zstd = Compression::Zstd;
    for (here, there) in [(Some(ours()), Some(other())), (Some(ours()), None), (None, Some(ours()))] {
        let serving = Serving::with(Kind::Tcp, server(here), tell).await;
        let client = serving.client_of(client(there)).await;
        assert_eq!(ask(&client, &long()).await, (zstd as u8, zstd));
        // Who says it of a single packet is told no lie either.
        let packet = Packet::text(long()).with_compression(Compression::ZstdDictionary);
        let answer = within(async { client.request(packet).await }).await.unwrap();
        assert_eq!((answer.payload[0], answer.compression), (zstd as u8, zstd));
    }
    // A v1 peer can say nothing, and a v1 header has no word for it.
    let serving = Serving::with(Kind::Tcp, server(ours()), tell).await;
    let client = serving.client_of(client(ours()).wire(Wire::V1)).await;
    let packet = Packet::text(long()).with_compression(Compression::ZstdDictionary);
    let answer = within(async { client.request(packet).await }).await.unwrap();
    assert_eq!((answer.payload[0], answer.compression), (0, Compression::None));
    assert_eq!(answer.payload[1..], *long().as_bytes());
    let packet = Packet::text(long()).with_compression(Compression::ZstdDictionary);
    for wire in [Wire::V1, Wire::V2] {
        assert_eq!(packet.to_bytes(wire), Err(WireError::NoDictionary));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_has_the_form_that_each_peer_inflates() {
    let serving = Serving::with(Kind::Tcp, server(dictionary().unwrap()), tell).await;
    let mut peers: Vec<(TransportClient, EventStream, Compression)> = Vec::new();
    let builders = [
        (client(dictionary().unwrap()), Compression::ZstdDictionary),
        (client(other()), Compression::Zstd),
        (client(None::<Dictionary>), Compression::Zstd),
        (client(dictionary().unwrap()).wire(Wire::V1), Compression::None),
    ];
    for (builder, expected) in builders {
        let client = serving.client_of(builder).await;
        // Its first word is what it inflates.
        within(async { client.request("?").await }).await.unwrap();
        let events = client.events().unwrap();
        peers.push((client, events, expected));
    }
    assert_eq!(within(serving.server.broadcast(long())).await.unwrap().queued, 4);
    for (_, events, expected) in &mut peers {
        let packet = within(async {
            loop {
                if let TransportEvent::MessageReceived { packet, .. } = events.next().await.unwrap() {
                    break packet;
                }
            }
        })
        .await;
        assert_eq!((packet.payload, packet.compression), (long().into(), *expected));
    }
}

/// A packet of version 2 whose payload says that it is compressed with a dictionary.
fn raw(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&[2, 3, 0, 0, 0, 0, 0, 1, 0, 0][..], &length, &[0, 0], payload].concat()
}

/// A payload of this dictionary's.
fn compressed(with: &Dictionary, raw_dictionary: &[u8], content: &[u8]) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::with_dictionary(3, raw_dictionary).unwrap();
    let id = (with.id() as u32).to_be_bytes();
    [&id[..], &compressor.compress(content).unwrap()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_inflated_is_refused_in_clear_words() {
    let trained = Dictionary::new(TRAINED).unwrap();
    let good = compressed(&trained, TRAINED, message(1).as_bytes());
    let bomb = compressed(&trained, TRAINED, &vec![0; 64 << 20]);
    assert!(bomb.len() < 64 << 10, "it is small on the wire");
    let not_here = "the payload is compressed with a dictionary that is not here";
    let cases: [(Option<&Dictionary>, &[u8], &str); 6] = [
        (None, &good, not_here),
        (Some(&other()), &good, not_here),
        (Some(&trained), &bomb, "over the limit"),
        (Some(&trained), &good[..good.len() / 2], "does not inflate"),
        (Some(&trained), &[&good[..4], &[0xFF; 100]].concat(), "does not inflate"),
        (Some(&trained), &good[..3], "does not inflate"),
    ];
    for (here, payload, expected) in cases {
        let serving = Serving::events(Kind::Tcp, server(here.cloned())).await;
        let mut events = serving.server.events().unwrap();
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.write_all(&raw(payload)).await.unwrap();
        let mut rest = Vec::new();
        drop(within(socket.read_to_end(&mut rest)).await);
        assert!(matches!(within(events.next()).await.unwrap(), TransportEvent::ConnectionEstablished { .. }));
        match within(events.next()).await.unwrap() {
            TransportEvent::ConnectionClosed { reason: CloseReason::Protocol(text), .. } => {
                assert!(text.contains(expected), "{text}, not {expected}");
            }
            event => panic!("{expected}: {event:?}"),
        }
    }
    // The same without a connection, which is where a dictionary would be.
    let id = trained.id() as u32;
    assert_eq!(Packet::from_bytes(raw(&good).into(), 1 << 20), Err(WireError::Dictionary(id)));
    let mut first = raw(&good);
    first[0] = 1;
    assert_eq!(Packet::from_bytes(first.into(), 1 << 20), Err(WireError::Compression(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_link_gives_back_is_inflated_again() {
    // Half of it is noise, so that it fills the queue.
    let payload = |i: u32| -> Bytes {
        let noise = (0..2_000_u32).map(|at| (at.wrapping_mul(i + 1).wrapping_mul(2_654_435_761) >> 24) as u8);
        noise.chain(message(i).into_bytes()).chain(message(i).into_bytes()).collect()
    };
    let serving = Serving::with(Kind::Tcp, server(dictionary().unwrap()), tell).await;
    let between = serving.between().await;
    let client = between.client_of(client(dictionary().unwrap())).await;
    ask(&client, "?").await;
    let session = client.session().unwrap();
    between.stall();
    let mut sent = 0;
    within(async {
        let mut refused = 0;
        while refused < 20 {
            match session.try_send(payload(sent)) {
                Ok(()) => (sent, refused) = (sent + 1, 0),
                Err(SendError::Full { .. }) => {
                    refused += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    between.cut();
    within(session.closed()).await;
    let unsent = session.take_unsent();
    assert!(!unsent.is_empty() && unsent.len() < sent as usize, "{} of {sent}", unsent.len());
    for (packet, i) in unsent.iter().rev().zip((0..sent).rev()) {
        assert_eq!(packet.payload, payload(i), "{i}");
        assert_eq!(packet.compression, Compression::ZstdDictionary);
    }
}

#[tokio::test]
async fn a_builder_that_lacks_it_says_so() {
    let (memory, protocol) = MemoryServerConfig::new();
    let server = TransportServerBuilder::new().with_protocol(memory);
    let refused = server.compression(Compression::ZstdDictionary, 1).build().await;
    assert!(matches!(refused, Err(BuildError::NoDictionary)), "{refused:?}");
    let client = TransportClientBuilder::new().with_protocol(protocol);
    let refused = client.compression(Compression::ZstdDictionary, 1).build().await;
    assert!(matches!(refused, Err(BuildError::NoDictionary)), "{refused:?}");
}

#[tokio::test]
async fn the_page_tells_what_the_example_shows() {
    let page = include_str!("../../docs/transport.md").replace('\n', " ");
    let shown = within(example::run()).await.unwrap();
    assert!(page.contains(&shown), "docs/transport.md does not say: {shown}");
}
