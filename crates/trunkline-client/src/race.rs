//! Connecting to one of several endpoints: handshakes are raced, and only the winner is used.
//!
//! It sends no START: two STARTs of one client would fight for its session.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use trunkline_transport::{ConnectError, ConnectOptions, Connection, Endpoint, connect};

/// Why no endpoint could be reached, each with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct Unreachable(pub Vec<(Endpoint, ConnectError)>);

impl Unreachable {
    /// Whether somebody answers whose certificate is not trusted.
    pub fn is_distrust(&self) -> bool {
        self.0.iter().any(|(_, error)| matches!(error, ConnectError::Untrusted(_)))
    }
}

fn describe(failures: &[(Endpoint, ConnectError)]) -> String {
    if failures.is_empty() {
        return "no endpoint is named: add one to Options::endpoints".into();
    }
    let reasons: Vec<_> = failures.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
    format!("no endpoint answers: {}", reasons.join("; "))
}

/// The first connection whose handshake is done. The first endpoint starts at once, the others after
/// `head_start` or as soon as the first has failed. All of it is over when `options.timeout` is. Dropped attempts
/// are abandoned.
///
/// Once a certificate is not trusted, no plain connection is used: somebody may be in between, and blocking what is
/// encrypted must not be all that it takes to read along.
pub(crate) async fn race(
    endpoints: &[Endpoint],
    head_start: Duration,
    options: &ConnectOptions,
) -> Result<Connection, Unreachable> {
    let deadline = Instant::now() + options.timeout;
    let first_failed = watch::Sender::new(false);
    let mut attempts = FuturesUnordered::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let mut failed = first_failed.subscribe();
        attempts.push(async move {
            if at > 0 {
                // The sender lives until the race is over, so this waits for the value or for the time.
                let _ = tokio::time::timeout(head_start, failed.wait_for(|failed| *failed)).await;
            }
            let connected = timeout_at(deadline, connect(endpoint, options)).await;
            (at, endpoint, connected.unwrap_or(Err(ConnectError::TimedOut(options.timeout))))
        });
    }
    let mut failures: Vec<(Endpoint, ConnectError)> = Vec::new();
    while let Some((at, endpoint, result)) = attempts.next().await {
        let distrusted = failures.iter().any(|(_, error)| matches!(error, ConnectError::Untrusted(_)));
        match result {
            Ok(_) if distrusted && !endpoint.protocol.is_encrypted() => {
                let text = "not used in plain, since the certificate of another endpoint is not trusted";
                failures.push((endpoint.clone(), ConnectError::Tls(text.to_owned())));
            }
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
    use trunkline_transport::{ClientTls, Protocol, QuicListener, QuicOptions, Socket, certificate};

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

    #[tokio::test(start_paused = true)]
    async fn the_time_is_for_all_endpoints_together() {
        // Handshakes that nobody answers, the second of which begins with half of the time gone.
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let web_socket = |port| format!("ws://127.0.0.1:{port}/ws").parse().unwrap();
        let endpoints = [web_socket(first), web_socket(second)];
        let timeout = Duration::from_millis(400);
        let options = ConnectOptions { timeout, ..ConnectOptions::default() };
        let begin = Instant::now();
        let error = race(&endpoints, timeout / 2, &options).await.unwrap_err();
        let took = begin.elapsed();
        let is_late =
            |error: &ConnectError| matches!(error, ConnectError::TimedOut(after) if *after == timeout);
        assert!(error.0.len() == 2 && error.0.iter().all(|(_, error)| is_late(error)), "{error}");
        // On the paused clock: had the second one its own time, it would be 600 ms.
        assert!(took < timeout + timeout / 4, "{took:?}");
    }

    #[tokio::test]
    async fn who_is_not_trusted_encrypted_is_not_used_in_plain() {
        let own = certificate::self_signed(&[]).unwrap();
        let options = QuicOptions::new((&own).into());
        let mut quic = QuicListener::bind(Socket::Address(([127, 0, 0, 1], 0).into()), options).unwrap();
        let untrusted = format!("quic://127.0.0.1:{}", quic.local_addr().port()).parse().unwrap();
        let (_plain, plain) = listener().await;
        let endpoints = [untrusted, tcp(plain)];
        let tls = Some(ClientTls::pinned(vec![[7; 32]]).unwrap());
        let options = ConnectOptions { tls, ..ConnectOptions::default() };
        let error = tokio::select! {
            raced = race(&endpoints, Duration::from_secs(60), &options) => raced.unwrap_err(),
            _ = quic.accept() => panic!("the pin was ignored"),
        };
        let text = error.to_string();
        assert!(text.contains("not trusted: it is not one of those that are pinned"), "{text}");
        assert!(text.contains("not used in plain"), "{text}");
    }
}
