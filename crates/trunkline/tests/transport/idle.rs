//! A18: connections on which nothing happens stay up by their heartbeats, and cost next to nothing. Full size: `./prove A18`;
//! `A18_WAY` has it by one protocol alone.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};
use trunkline_transport::{TransportClient, TransportClientBuilder, TransportServerBuilder};

use crate::rig::{DEADLINE, Rig, Way, echo, until, within};
use crate::sizes::{reading, size};

/// Handshakes at once.
const CONNECTING: usize = 32;

#[tokio::test]
async fn a18_idle_connections_stay_up() {
    let connections = usize::try_from(size("A18_CONNECTIONS", 60)).unwrap();
    // In small, one that is silent is found after 5 s, so 6 s need heartbeats.
    let beat = Duration::from_secs(size("A18_HEARTBEAT_S", 2));
    let lasting = Duration::from_secs(size("A18_SECONDS", 6));
    let ways = Way::chosen("A18_WAY");
    let rig = Rig::start(TransportServerBuilder::new().heartbeat(beat), &ways, echo).await;
    let places = Arc::new(Semaphore::new(CONNECTING));
    let mut connecting = JoinSet::new();
    for at in 0..connections {
        let (way, places) = (rig.reach(ways[at % ways.len()]), Arc::clone(&places));
        connecting.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let builder = TransportClientBuilder::new().with_protocol(way).connect_timeout(DEADLINE);
            let client = builder.heartbeat(beat).build().await.unwrap();
            within(client.connect()).await.unwrap();
            client
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = connecting.join_next().await {
        clients.push(client.unwrap());
    }
    until(|| rig.server.session_count() == connections).await;
    let mut sessions = rig.server.active_sessions();
    let (before, begun) = (rig.processor_time().await, Instant::now());
    // Nothing is waited for: this is the time in which nothing happens.
    sleep(lasting).await;
    let (used, took) = (rig.processor_time().await.saturating_sub(before), begun.elapsed());
    // The very same ones: nobody has come back.
    let mut now = rig.server.active_sessions();
    now.sort_unstable();
    sessions.sort_unstable();
    assert_eq!(now, sessions, "somebody was lost");
    assert!(clients.iter().all(TransportClient::is_connected));
    for client in &clients {
        within(async { client.request("still here?").timeout(DEADLINE).await }).await.unwrap();
    }
    reading("a18_alive", now.len());
    reading("a18_core_percent", format!("{:.4}", used.as_secs_f64() / took.as_secs_f64() * 100.0));
    reading("a18_seconds", took.as_secs());
}
