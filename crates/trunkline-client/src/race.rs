//! Connecting to one of several endpoints: handshakes are raced, and only the winner is used.
//!
//! It sends no START: two STARTs of one client would fight for its session.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use trunkline_transport::{ConnectError, ConnectOptions, Connection, Endpoint, connect};

/// Why no endpoint could be reached, each with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct Unreachable(pub Vec<(Endpoint, ConnectError)>);

fn describe(failures: &[(Endpoint, ConnectError)]) -> String {
    if failures.is_empty() {
        return "no endpoint is named: add one to Options::endpoints".into();
    }
    let reasons: Vec<_> = failures.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
    format!("no endpoint answers: {}", reasons.join("; "))
}

/// The first connection whose handshake is done. The first endpoint starts at once, the others after
/// `head_start` or as soon as the first has failed. Dropped attempts are abandoned.
pub(crate) async fn race(
    endpoints: &[Endpoint],
    head_start: Duration,
    options: &ConnectOptions,
) -> Result<Connection, Unreachable> {
    let first_failed = watch::Sender::new(false);
    let mut attempts = FuturesUnordered::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let mut failed = first_failed.subscribe();
        attempts.push(async move {
            if at > 0 {
                // The sender lives until the race is over, so this waits for the value or for the time.
                let _ = tokio::time::timeout(head_start, failed.wait_for(|failed| *failed)).await;
            }
            (at, endpoint, connect(endpoint, options).await)
        });
    }
    let mut failures = Vec::new();
    while let Some((at, endpoint, result)) = attempts.next().await {
        match result {
            Ok(connection) => return Ok(connection),
            Err(error) => failures.push((endpoint.clone(), error)),
        }
        if at == 0 {
            first_failed.send_replace(true);
        }
    }
    Err(Unreachable(failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use trunkline_transport::Protocol;

    fn tcp(port: u16) -> Endpoint {
        format!("tcp://127.0.0.1:{port}").parse().unwrap()
    }

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn the_preferred_endpoint_wins_where_it_answers() {
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let endpoints = [tcp(first), tcp(second)];
        let won = race(&endpoints, Duration::from_secs(60), &ConnectOptions::default()).await.unwrap();
        assert_eq!(won.info.peer.unwrap().port(), first);
    }

    #[tokio::test]
    async fn a_refusal_starts_the_others_without_waiting_for_the_head_start() {
        let (gone, dead) = listener().await;
        drop(gone);
        let (_live, live) = listener().await;
        let begin = Instant::now();
        let endpoints = [tcp(dead), tcp(live)];
        let won = race(&endpoints, Duration::from_secs(60), &ConnectOptions::default()).await.unwrap();
        assert_eq!(won.info.peer.unwrap().port(), live);
        assert!(begin.elapsed() < Duration::from_secs(30), "it waited for the head start");
    }

    #[tokio::test]
    async fn a_silent_endpoint_loses_after_the_head_start() {
        // A WebSocket handshake that nobody answers.
        let (_silent, silent) = listener().await;
        let (_live, live) = listener().await;
        let endpoints = [format!("ws://127.0.0.1:{silent}/ws").parse().unwrap(), tcp(live)];
        let won = race(&endpoints, Duration::from_millis(20), &ConnectOptions::default()).await.unwrap();
        assert_eq!(won.info.protocol, Protocol::Tcp);
    }

    #[tokio::test]
    async fn when_nothing_answers_every_reason_is_told() {
        let (gone, dead) = listener().await;
        drop(gone);
        let endpoints = [tcp(dead), format!("wss://127.0.0.1:{dead}/ws").parse().unwrap()];
        let error = race(&endpoints, Duration::ZERO, &ConnectOptions::default()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("tcp://127.0.0.1:{dead}")) && text.contains("wss://"), "{text}");
        let none = race(&[], Duration::ZERO, &ConnectOptions::default()).await.unwrap_err();
        assert!(none.to_string().contains("Options::endpoints"), "{none}");
    }
}
