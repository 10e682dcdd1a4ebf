//! The cases of the Autobahn test suite, sections 1–7, 9 and 10, by their numbers, against an echo server on
//! our codec over a real socket.
//!
//! Definitions follow crossbario/autobahn-testsuite (November 2025) as facts: what is sent, in which pieces,
//! what must come back, who closes with which code. The peer here is written for this test and shares nothing
//! with our codec. Where the suite grades OK, NON-STRICT or INFORMATIONAL, only OK passes here.

mod cases;
mod peer;

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use self::{
    cases::{all, section},
    peer::{EchoServer, run},
};
use super::harness::within;

/// Runs the cases of a section against one server and says how many there were.
async fn run_section(number: u32) -> usize {
    let server = EchoServer::start();
    let cases = section(number);
    let count = cases.len();
    let mut running = JoinSet::new();
    for case in cases {
        let address = server.address();
        running.spawn(async move { run(address, case).await });
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

#[tokio::test]
async fn section_1_framing() {
    assert_eq!(run_section(1).await, 16);
}

#[tokio::test]
async fn section_2_pings_and_pongs() {
    assert_eq!(run_section(2).await, 11);
}

#[tokio::test]
async fn section_3_reserved_bits() {
    assert_eq!(run_section(3).await, 7);
}

#[tokio::test]
async fn section_4_opcodes() {
    assert_eq!(run_section(4).await, 10);
}

#[tokio::test]
async fn section_5_fragmentation() {
    assert_eq!(run_section(5).await, 20);
}

#[tokio::test]
async fn section_6_utf8() {
    assert_eq!(run_section(6).await, 145);
}

#[tokio::test]
async fn section_7_close() {
    assert_eq!(run_section(7).await, 37);
}

#[tokio::test]
async fn section_9_limits() {
    assert_eq!(run_section(9).await, 54);
}

#[tokio::test]
async fn section_10_auto_fragmentation() {
    assert_eq!(run_section(10).await, 1);
}

#[test]
fn every_case_is_there_once() {
    let cases = all();
    assert_eq!(cases.len(), 301);
    let numbers: BTreeSet<_> = cases.iter().map(|case| case.number.clone()).collect();
    assert_eq!(numbers.len(), 301);
}

/// The suite's own peer would notice a server that answers everything alike: so must ours.
#[tokio::test]
async fn the_peer_tells_right_from_wrong() {
    use self::{cases::Case, peer::Event};
    let server = EchoServer::start();
    let address = server.address();
    for case in [
        Case::new("wrong payload").send(peer::frame(1, b"a")).expect(Event::text("b")),
        Case::new("no failure").send(peer::frame(1, b"a")).fails(&[1002]),
        Case::new("wrong code").send(peer::frame(3, b"")).fails(&[1007]),
        Case::new("too much").send(peer::frame(9, b"")),
    ] {
        let number = case.number.clone();
        let mut running = JoinSet::new();
        running.spawn(async move { run(address, case.quickly()).await });
        assert!(within(running.join_next()).await.unwrap().is_err(), "{number} was let pass");
    }
}
