//! 0-RTT on a QUIC connection: a client's requests that leave before its handshake is complete, and a server's first stream
//! that is there before. Which requests those are is not known here.

use std::{
    future::{pending, poll_fn},
    sync::Arc,
};

use quinn::{Connecting, Connection, ConnectionError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, sleep_until};

use crate::{
    connection::Unproven,
    early::{Attempt, Begun, Early},
};

/// A connection's frame stream.
type Stream = (SendStream, RecvStream);

/// What a client has begun before its handshake was complete.
pub(crate) struct EarlyStream {
    pub(crate) stream: Stream,
    pub(crate) begun: Begun,
}

/// Completes a client's handshake, and meanwhile sends what is offered, where a former connection has left what that takes.
pub(crate) async fn connect_early(
    connecting: Connecting,
    early: &Arc<Early>,
) -> Result<(Connection, Option<EarlyStream>), ConnectionError> {
    let (connection, mut complete) = match connecting.into_0rtt() {
        Ok(early) => early,
        Err(connecting) => return connecting.await.map(|connection| (connection, None)),
    };
    let Some(mut attempt) = early.begin() else {
        complete.await;
        return connection.close_reason().map_or(Ok((connection, None)), Err);
    };
    let mut stream = None;
    let is_taken = tokio::select! {
        biased;
        is_taken = &mut complete => is_taken,
        () = write(&connection, &mut stream, &mut attempt) => unreachable!("it has no end"),
    };
    if let Some(reason) = connection.close_reason() {
        return Err(reason);
    }
    // Streams of a 0-RTT that was not taken do not exist.
    let stream = stream.filter(|_| is_taken);
    let begun = attempt.end(stream.is_some());
    let mut stream = match stream {
        Some(stream) => stream,
        None => connection.open_bi().await?,
    };
    match stream.0.write_all(begun.rest()).await {
        Ok(()) => Ok((connection, Some(EarlyStream { stream, begun }))),
        Err(WriteError::ConnectionLost(reason)) => Err(reason),
        // The server refuses the stream: its next use says so.
        Err(_) => Ok((connection, Some(EarlyStream { stream, begun }))),
    }
}

/// Writes what is offered, and goes on until it is dropped: what is written is known at any time.
async fn write(connection: &Connection, stream: &mut Option<Stream>, attempt: &mut Attempt) {
    let opened = match stream {
        Some(stream) => stream,
        None => match connection.open_bi().await {
            Ok(opened) => stream.insert(opened),
            // It is lost: the handshake's end says so.
            Err(_) => return pending().await,
        },
    };
    loop {
        let next = poll_fn(|cx| attempt.poll_next(cx)).await;
        match opened.0.write(&next).await {
            Ok(n) => attempt.wrote(n),
            Err(_) => return pending().await,
        }
    }
}

/// Completes a server's handshake, or less: if the client's first stream is there before, what is yet to come is told.
pub(super) async fn accept_early(
    connecting: Connecting,
    deadline: Instant,
) -> Result<(Connection, Option<(Stream, Unproven)>), ConnectionError> {
    let (connection, mut complete) = match connecting.into_0rtt() {
        Ok(early) => early,
        // quinn's servers always can.
        Err(connecting) => return connecting.await.map(|connection| (connection, None)),
    };
    tokio::select! {
        biased;
        _ = &mut complete => connection.close_reason().map_or(Ok((connection, None)), Err),
        stream = connection.accept_bi() => {
            let stream = stream?;
            let complete = Box::pin(async move {
                complete.await;
            });
            Ok((connection, Some((stream, Unproven { complete, until: deadline }))))
        }
        () = sleep_until(deadline) => Err(ConnectionError::TimedOut),
    }
}
