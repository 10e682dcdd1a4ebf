//! What an outbox foretells of packets to come.

use super::*;
use crate::{Packet, Wire, packet::encode};

#[test]
fn a_packet_comes_alone_as_the_last_one_did() {
    let mut out = Outbox::new(1 << 20, false);
    let packet = Packet::one_way(1, "x");
    let header = encode::header(&packet, Wire::V2).unwrap();
    let mut turn = |packets: usize| {
        out.look();
        for _ in 0..packets {
            out.append(Framing::Packet, header, &[], &packet.payload, true, Often::OnceAsleep);
        }
        out.comes_alone
    };
    let expected: Vec<bool> = [1, 0, 1, 0, 0, 3, 0, 1, 300, 1, 1].map(&mut turn).to_vec();
    assert_eq!(expected, [false, true, true, true, true, true, false, false, true, false, true]);
}
