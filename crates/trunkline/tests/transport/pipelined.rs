//! A1 and A2: a client that sends without waiting gets every echo, and requests need nobody who looks at events. Full size:
//! `./prove A1 A2`.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use trunkline_transport::{Packet, Session, TransportError, TransportEvent, TransportServerBuilder};

use crate::rig::{DEADLINE, Rig, Way, echo, ms, until};
use crate::sizes::{reading, size};

/// Bytes of each packet.
const SIZE: usize = 64;
/// Requests under way at once.
const IN_FLIGHT: u64 = 32;

/// The echo server of MsgTrans' README, as a handler.
async fn echo_packets(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        session.send(Packet::echo(packet.message_id, packet.payload)).await?;
    }
    Ok(())
}

fn numbered(number: u64) -> Vec<u8> {
    let mut payload = vec![7; SIZE];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

#[tokio::test]
async fn a1_a_pipelining_client_gets_every_echo_and_none_is_long_in_coming() {
    let packets = size("A1_PACKETS", 5_000);
    for way in Way::ALL {
        let rig = Rig::start(TransportServerBuilder::new(), &[way], echo_packets).await;
        let client = rig.client(way).await;
        let mut events = client.events().unwrap();
        let sending = async {
            for number in 0..packets {
                client.send(numbered(number)).await.unwrap();
            }
        };
        let receiving = async {
            let (mut next, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
            while next < packets {
                let event = tokio::time::timeout(DEADLINE, events.next()).await.expect("echoes come");
                let TransportEvent::MessageReceived { packet, .. } = event.unwrap() else { continue };
                assert_eq!(packet.payload, numbered(next), "{way:?}: an echo was lost, doubled or overtaken");
                longest = longest.max(last.elapsed());
                (next, last) = (next + 1, Instant::now());
            }
            longest
        };
        let begun = Instant::now();
        let ((), longest) = tokio::join!(sending, receiving);
        reading(&format!("a1_{}_stall_ms", way.name()), ms(longest));
        reading(&format!("a1_{}_per_second", way.name()), packets * 1_000 / millis(begun));
    }
}

#[tokio::test]
async fn a2_requests_are_answered_whoever_looks_at_events() {
    let requests = size("A2_REQUESTS", 4_000);
    for way in Way::ALL {
        let rig = Rig::start(TransportServerBuilder::new(), &[way], echo).await;
        let client = rig.client(way).await;
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..IN_FLIGHT {
            let client = client.clone();
            workers.spawn(async move {
                for number in (worker..requests).step_by(usize::try_from(IN_FLIGHT).unwrap()) {
                    let answer = client.request(numbered(number)).timeout(DEADLINE).await.unwrap();
                    assert_eq!(answer.payload, numbered(number));
                }
            });
        }
        // Each request has its own deadline.
        workers.join_all().await;
        reading(&format!("a2_{}_per_second", way.name()), requests * 1_000 / millis(begun));
        // The events that nobody has asked for are at most their budget, and hold up nothing.
        until(|| rig.server.stats().received_packets >= requests).await;
        assert_eq!(client.stats().sent_requests, requests, "{way:?}");
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap().max(1)
}
