//! A9 and A10: the wire itself.

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_transport::{Compression, Flags, Packet, PacketType, Wire, WireError};

use crate::harness::{Kind, Serving, within};

const MIB: usize = 1 << 20;

/// MsgTrans' own golden packets, from the fixtures of `msgtrans` 2.0.0-beta.3.
fn golden() -> Vec<(&'static str, Packet)> {
    let flagged = |packet: Packet, flags| {
        let mut packet = packet;
        packet.flags = flags;
        packet
    };
    vec![
        ("01000000000000010000000000000000", Packet::one_way(1, "")),
        (
            "010000050000002a00000000000b000068656c6c6f20776f726c64",
            Packet::one_way(42, "hello world").with_biz_type(5),
        ),
        ("0100010a00000064000000000004000070696e67", Packet::request(100, "ping").with_biz_type(10)),
        ("0100020a000000640000000000040000706f6e67", Packet::response(100, "pong").with_biz_type(10)),
        (
            "01000000000000070009000000040000726f7574653a61626364617461",
            Packet::one_way(7, "data").with_ext_header("route:abc"),
        ),
        ("010000ffdeadbeef0000000000000000", Packet::one_way(0xdead_beef, "").with_biz_type(255)),
        (
            "01000014000000c80000000000060002757267656e74",
            flagged(Packet::one_way(200, "urgent").with_biz_type(20), Flags::HIGH_PRIORITY),
        ),
        (
            "0100001e0000012c0009000000070004726f7574653a6d73677061796c6f6164",
            flagged(
                Packet::one_way(300, "payload").with_biz_type(30).with_ext_header("route:msg"),
                Flags::ROUTE_TAG,
            ),
        ),
    ]
}

fn bytes(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[test]
fn a10_the_golden_packets_of_msgtrans_are_the_same_byte_for_byte() {
    for (hex, packet) in golden() {
        assert_eq!(packet.to_bytes(Wire::V1).unwrap(), bytes(hex), "{hex}");
        assert_eq!(Packet::from_bytes(bytes(hex), MIB).unwrap(), packet, "{hex}");
        // Version 2 differs by its first byte only.
        let mut second = bytes(hex).to_vec();
        second[0] = 2;
        assert_eq!(packet.to_bytes(Wire::V2).unwrap(), second);
        assert_eq!(Packet::from_bytes(second.into(), MIB).unwrap(), packet);
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let base = bytes("0100010a00000064000000000004000070696e67");
    let with = |at: usize, value: u8| {
        let mut changed = base.to_vec();
        changed[at] = value;
        Packet::from_bytes(changed.into(), MIB)
    };
    assert_eq!(with(0, 3), Err(WireError::Version(3)));
    assert_eq!(with(1, 3), Err(WireError::Compression(3)));
    assert_eq!(with(2, 3), Err(WireError::Type(3)));
    assert_eq!(with(2, 16), Err(WireError::Type(16)), "a ping does not exist in version 1");
    assert_eq!(with(13, 5), Err(WireError::Length { declared: 21, actual: 20 }));
    let large = with(10, 0x7F).unwrap_err();
    assert_eq!(large, WireError::TooLarge { length: 0x7F00_0004, limit: MIB });
    assert_eq!(Packet::from_bytes(base.slice(..7), MIB), Err(WireError::Length { declared: 16, actual: 7 }));
    let long = Packet::new("").with_ext_header(vec![0; 65_536]);
    assert_eq!(long.to_bytes(Wire::V1), Err(WireError::ExtHeader(65_536)));
}

#[test]
fn text_is_read_in_the_ways_of_msgtrans() {
    let packet = Packet::text("grüße");
    assert_eq!(packet.payload_as_string().as_deref(), Some("grüße"));
    assert_eq!(packet.payload_as_str(), Some("grüße"));
    let broken = Packet::new(vec![b'a', 0xFF]);
    assert_eq!((broken.payload_as_string(), broken.payload_as_text_lossy().as_ref()), (None, "a\u{FFFD}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_however_the_byte_stream_is_cut_the_packets_are_the_same() {
    let serving = Serving::echo(Kind::Tcp).await;
    let packets: Vec<Packet> = (0..40_u32)
        .map(|i| {
            Packet::one_way(i + 1, vec![i as u8; (i * i * 7) as usize]).with_ext_header(vec![1; i as usize])
        })
        .collect();
    let stream: Vec<u8> = packets.iter().flat_map(|packet| packet.to_bytes(Wire::V1).unwrap()).collect();
    let echoes: Vec<u8> = packets
        .iter()
        .flat_map(|packet| packet.reply(packet.payload.clone()).to_bytes(Wire::V1).unwrap())
        .collect();
    for piece in [1, 2, 3, 15, 16, 17, 1000, stream.len()] {
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (mut read, mut write) = socket.split();
        let writing = async {
            for part in stream.chunks(piece) {
                write.write_all(part).await.unwrap();
                if piece < 100 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let mut got = vec![0; echoes.len()];
        let reading = async {
            read.read_exact(&mut got).await.unwrap();
        };
        within(async { tokio::join!(writing, reading) }).await;
        assert!(got == echoes, "in pieces of {piece}");
    }
}

proptest! {
    #[test]
    fn a9_no_bytes_panic_and_what_is_accepted_says_the_same_again(
        head in prop::collection::vec(prop_oneof![4 => 0u8..3, 1 => any::<u8>()], 0..16),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let all: Bytes = [head, tail].concat().into();
        if let Ok(packet) = Packet::from_bytes(all.clone(), 4096)
            && packet.compression == Compression::None
        {
            let wire = if all[0] == 1 { Wire::V1 } else { Wire::V2 };
            prop_assert_eq!(packet.to_bytes(wire).unwrap(), all);
        }
    }

    #[test]
    fn packets_come_back_as_they_were(
        kind in prop::sample::select(vec![PacketType::OneWay, PacketType::Request, PacketType::Response]),
        message_id in any::<u32>(),
        biz_type in any::<u8>(),
        bits in any::<u16>(),
        ext in prop::collection::vec(any::<u8>(), 0..40),
        payload in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), prop::collection::vec(0u8..2, 0..400)],
        compression in prop::sample::select(vec![Compression::None, Compression::Zlib, Compression::Zstd]),
        wire in prop::sample::select(vec![Wire::V1, Wire::V2]),
    ) {
        let mut packet = Packet::one_way(message_id, payload)
            .with_biz_type(biz_type)
            .with_ext_header(ext)
            .with_compression(compression);
        packet.packet_type = kind;
        packet.flags = Flags::from_bits(bits);
        match packet.to_bytes(wire) {
            Ok(bytes) => {
                let got = Packet::from_bytes(bytes, 400).unwrap();
                // What does not become shorter is not compressed.
                prop_assert!(got.compression == compression || got.compression == Compression::None);
                prop_assert_eq!(got.with_compression(compression), packet);
            }
            Err(error) => prop_assert_eq!(error, WireError::NotCompiledIn(compression)),
        }
    }
}
