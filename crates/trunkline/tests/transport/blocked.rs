//! A17: a network that takes every UDP datagram and answers none. Full size: `./prove A17`.

use std::time::{Duration, Instant};

use trunkline_transport::{
    ClientProtocol, Protocol, TransportClient, TransportClientBuilder, TransportServerBuilder,
    chaos::{UdpFaults, UdpProxy},
};

use crate::rig::{DEADLINE, Rig, Way, echo, ms, until, within};
use crate::sizes::{percentile, reading, size};

#[tokio::test]
async fn a17_where_udp_is_blocked_a_client_is_connected_by_websocket() {
    let connects = size("A17_CONNECTS", 2);
    let ways = [Way::WebSocketTls, Way::Quic, Way::WebTransport];
    let rig = Rig::start(TransportServerBuilder::new(), &ways, echo).await;
    let wss = rig.reach(Way::WebSocketTls);
    for way in [Way::Quic, Way::WebTransport] {
        // The server is there, and nothing gets through to it; nobody says that it is unreachable.
        let faults = UdpFaults { black_hole: true, ..UdpFaults::default() };
        let network = UdpProxy::start(rig.address(way), 7, faults).await.unwrap();
        let (mut alone, mut raced) = (Vec::new(), Vec::new());
        // In turns: a machine is not the same from one minute to the next.
        for _ in 0..connects {
            alone.push(connect(std::slice::from_ref(&wss)).await);
            raced.push(connect(&[way.client(network.address(), rig.trust.clone()), wss.clone()]).await);
        }
        let (carried, lost) = network.counts();
        assert!(carried == 0 && lost >= connects, "{}: {carried} carried, {lost} lost", way.name());
        let handshake = percentile(&mut alone, 50);
        let extra = percentile(&mut raced, 100).saturating_sub(handshake);
        reading(&format!("a17_{}_extra_ms", way.name()), ms(extra));
        reading(&format!("a17_{}_median_ms", way.name()), ms(percentile(&mut raced, 50)));
        reading(&format!("a17_{}_handshake_ms", way.name()), ms(handshake));
    }
    // What has lost leaves nothing behind.
    until(|| rig.server.session_count() == 0).await;
}

/// How long it takes by the quickest of these, which must be the one that is not blocked.
async fn connect(ways: &[ClientProtocol]) -> Duration {
    let builder = TransportClientBuilder::new().connect_timeout(DEADLINE).with_protocol(ways[0].clone());
    let builder = ways[1..].iter().fold(builder, |builder, way| builder.or(way.clone()));
    let client = builder.build().await.unwrap();
    let begun = Instant::now();
    within(client.connect()).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(protocol(&client), Protocol::WebSocketTls);
    within(async { client.request("x").await }).await.unwrap();
    within(client.disconnect()).await;
    took
}

fn protocol(client: &TransportClient) -> Protocol {
    client.session().unwrap().connection_info().protocol
}
