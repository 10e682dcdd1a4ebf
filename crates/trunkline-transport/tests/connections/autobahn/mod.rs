//! The cases of the Autobahn test suite, sections 1–7, 9 and 10, by their numbers, over real sockets: against an echo
//! server on our codec, and against our client, which echoes as well.
//!
//! Definitions follow crossbario/autobahn-testsuite (November 2025) as facts: what is sent, in which pieces,
//! what must come back, who closes with which code. The peer here is written for this test and shares nothing
//! with our codec. Where the suite grades OK, NON-STRICT or INFORMATIONAL, only OK passes here.

mod cases;
mod peer;

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use self::{
    cases::{Case, all, section},
    peer::{EchoServer, Event, Peer, run_as_client, run_as_server},
};
use super::harness::within;

/// Runs the cases of a section, and says how many there were.
async fn run_section(peer: Peer, number: u32) -> usize {
    let server = EchoServer::start();
    let cases = section(peer, number);
    let count = cases.len();
    let mut running = JoinSet::new();
    for case in cases {
        begin(&mut running, peer, &server, case);
        // A few at once: the sizes of section 9 would otherwise all be in memory together.
        if running.len() >= 4 {
            within(running.join_next()).await.unwrap().unwrap();
        }
    }
    while let Some(done) = within(running.join_next()).await {
        done.unwrap();
    }
    count
}

fn begin(running: &mut JoinSet<()>, peer: Peer, server: &EchoServer, case: Case) {
    match peer {
        Peer::Client => running.spawn(run_as_client(server.address(), case)),
        Peer::Server => running.spawn(run_as_server(case)),
    };
}

/// Each section, by the suite as a client of our server, and as a server of our client.
macro_rules! sections {
    ($($name:ident: $number:literal has $count:literal,)*) => {
        mod our_server {
            $(#[tokio::test]
            async fn $name() {
                assert_eq!(super::run_section(super::Peer::Client, $number).await, $count);
            })*
        }

        mod our_client {
            $(#[tokio::test]
            async fn $name() {
                assert_eq!(super::run_section(super::Peer::Server, $number).await, $count);
            })*
        }
    };
}

sections! {
    section_1_framing: 1 has 16,
    section_2_pings_and_pongs: 2 has 11,
    section_3_reserved_bits: 3 has 7,
    section_4_opcodes: 4 has 10,
    section_5_fragmentation: 5 has 20,
    section_6_utf8: 6 has 145,
    section_7_close: 7 has 37,
    section_9_limits: 9 has 54,
    section_10_auto_fragmentation: 10 has 1,
}

#[test]
fn every_case_is_there_once() {
    for peer in [Peer::Client, Peer::Server] {
        let cases = all(peer);
        assert_eq!(cases.len(), 301);
        let numbers: BTreeSet<_> = cases.iter().map(|case| case.number.clone()).collect();
        assert_eq!(numbers.len(), 301);
    }
}

/// The suite's own peer would notice an end that answers everything alike: so must ours.
#[tokio::test]
async fn the_peer_tells_right_from_wrong() {
    let server = EchoServer::start();
    for peer in [Peer::Client, Peer::Server] {
        for case in [
            Case::new("wrong payload").send(peer.frame(1, b"a")).expect(Event::text("b")),
            Case::new("no failure").send(peer.frame(1, b"a")).fails(&[1002]),
            Case::new("wrong code").send(peer.frame(3, b"")).fails(&[1007]),
            Case::new("too much").send(peer.frame(9, b"")),
        ] {
            let number = case.number.clone();
            let mut running = JoinSet::new();
            begin(&mut running, peer, &server, case.quickly());
            let judged = within(running.join_next()).await.unwrap();
            assert!(judged.is_err(), "{number} was let pass by a {peer:?}");
        }
    }
}
