//! A8: who has not proved itself is refused by the header of what it declares, and may park no more than the small limit. Full
//! size: `./prove A8`.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline_transport::{Limits, Packet, TransportServerBuilder, Wire};

use crate::rig::{Rig, Way, idle, resident, until, within};
use crate::sizes::{reading, size};

/// What each declares, and what it may before it has proved itself.
const DECLARED: usize = 16 << 20;
const BEFORE_AUTH: usize = 64 << 10;
const HEADER: usize = 16;

#[tokio::test]
async fn a8_strangers_that_declare_16_mib_are_refused_by_their_header() {
    let strangers = usize::try_from(size("A8_STRANGERS", 50)).unwrap();
    let limits = Limits::new().message(DECLARED).before_auth(BEFORE_AUTH);
    let builder = TransportServerBuilder::new().limits(limits).require_auth();
    let rig = Rig::start(builder, &[Way::Tcp], idle).await;
    let large = Packet::one_way(1, vec![7; DECLARED]).to_bytes(Wire::V1).unwrap();
    let before = resident();
    let mut sockets = Vec::new();
    for _ in 0..strangers {
        sockets.push(begin(&rig, &large[..HEADER]).await);
    }
    let mut refused = 0;
    for mut socket in sockets {
        // With nothing but a header sent: the end comes without another byte from us.
        match within(socket.read_to_end(&mut Vec::new())).await {
            Ok(_) => refused += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                refused += 1;
            }
        }
    }
    until(|| rig.server.session_count() == 0).await;
    assert_eq!(refused, strangers);
    reading("a8_refused", refused);
    reading("a8_refused_growth_mib", mib(resident().saturating_sub(before)));

    let mut parked = Vec::new();
    let part = Packet::one_way(1, vec![7; BEFORE_AUTH]).to_bytes(Wire::V1).unwrap();
    for _ in 0..strangers {
        parked.push(begin(&rig, &part[..part.len() - 1]).await);
    }
    until(|| rig.server.session_count() == strangers).await;
    // What they have sent is here, or on its way in the kernel.
    let most = strangers * (BEFORE_AUTH + HEADER);
    assert!(rig.server.queued_bytes() <= most, "{} bytes are parked", rig.server.queued_bytes());
    reading("a8_parked_growth_mib", mib(resident().saturating_sub(before)));
    drop(parked);
    until(|| rig.server.session_count() == 0).await;
    assert_eq!(rig.server.queued_bytes(), 0, "what they have sent in part");
}

async fn begin(rig: &Rig, bytes: &[u8]) -> TcpStream {
    let mut socket = within(TcpStream::connect(rig.address(Way::Tcp))).await.unwrap();
    // A server that has refused it by its first bytes resets it.
    drop(socket.write_all(bytes).await);
    socket
}

fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}
