//! A peer that serves: it says its address, answers until its input ends, and does meanwhile what it is told there.
//!
//! `tasks` is answered by the number of the runtime's tasks, `broadcast SIZE EVERY_US COUNT` by how many messages were
//! handed to connections when all are sent.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use quinn::Endpoint;
use tokio::net::TcpListener;
use trunkline_transport::{Packet, QuicListener, TransportServer};

use super::stack::{Certificate, Over, Pattern, Stack};
use super::{bare, handshakes, ours};
use crate::bench::child;
use crate::bench::clock::{Moment, Timer};
use crate::cli::output;
use crate::descriptors::raise_limit;

/// A server that is bound.
enum Server {
    Ours(TransportServer),
    Tcp(TcpListener),
    Room(bare::broadcast::Room, TcpListener),
    WebSocket(TcpListener),
    Quic(Endpoint),
    Handshakes(QuicListener),
}

/// Who is told to broadcast.
enum Broadcaster {
    Ours(TransportServer),
    Room(bare::broadcast::Room),
    Nobody,
}

pub(crate) async fn serve(
    stack: Stack,
    over: Over,
    pattern: Pattern,
    at: SocketAddr,
    tls: Option<&Path>,
) -> anyhow::Result<()> {
    raise_limit();
    let own = tls.map(Certificate::read).transpose()?;
    let server = Server::bind(stack, over, pattern, at, own.as_ref()).await?;
    let mut told = child::told()?;
    output::result(&server.address()?.to_string());
    let broadcaster = server.broadcaster();
    let serving = server.serve();
    tokio::pin!(serving);
    loop {
        tokio::select! {
            served = &mut serving => return served,
            line = told.line() => match line {
                Some(line) => output::result(&broadcaster.do_as(&line).await?.to_string()),
                None => return Ok(()),
            },
        }
    }
}

impl Server {
    async fn bind(
        stack: Stack,
        over: Over,
        pattern: Pattern,
        at: SocketAddr,
        own: Option<&Certificate>,
    ) -> anyhow::Result<Self> {
        Ok(match (stack, over, pattern) {
            (Stack::Msgtrans, ..) => bail!("msgtrans has a program of its own"),
            (Stack::Ours, _, pattern) if pattern.reconnects() => {
                Server::Handshakes(handshakes::bind(at, own.context("QUIC needs --tls")?, pattern)?)
            }
            (Stack::Ours, ..) => Server::Ours(ours::bind(over, at, own).await?),
            (_, Over::Tcp, Pattern::Broadcast) => {
                Server::Room(bare::broadcast::Room::default(), TcpListener::bind(at).await?)
            }
            (_, Over::Tcp, _) => Server::Tcp(TcpListener::bind(at).await?),
            (_, Over::Websocket, _) => Server::WebSocket(TcpListener::bind(at).await?),
            (_, Over::Quic, _) => {
                Server::Quic(bare::quic::bind(at, own.context("QUIC needs --tls")?, pattern)?)
            }
        })
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(match self {
            Server::Ours(server) => *server.local_addrs().first().context("it has no address")?,
            Server::Tcp(listener) | Server::Room(_, listener) | Server::WebSocket(listener) => {
                listener.local_addr()?
            }
            Server::Quic(endpoint) => endpoint.local_addr()?,
            Server::Handshakes(listener) => listener.local_addr(),
        })
    }

    fn broadcaster(&self) -> Broadcaster {
        match self {
            Server::Ours(server) => Broadcaster::Ours(server.clone()),
            Server::Room(room, _) => Broadcaster::Room(room.clone()),
            _ => Broadcaster::Nobody,
        }
    }

    async fn serve(self) -> anyhow::Result<()> {
        match self {
            Server::Ours(server) => Ok(server.serve_with(ours::serve).await?),
            Server::Tcp(listener) => bare::tcp::serve(listener).await,
            Server::Room(room, listener) => room.serve(listener).await,
            Server::WebSocket(listener) => bare::websocket::serve(listener).await,
            Server::Quic(endpoint) => bare::quic::serve(endpoint).await,
            Server::Handshakes(listener) => handshakes::serve(listener).await,
        }
    }
}

impl Broadcaster {
    async fn do_as(&self, line: &str) -> anyhow::Result<u64> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["tasks"] => Ok(tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64),
            ["broadcast", size, every, count] => {
                let every = Duration::from_micros(every.parse()?);
                self.broadcast(&Bytes::from(vec![b'x'; size.parse()?]), every, count.parse()?).await
            }
            _ => bail!("what is {line:?}?"),
        }
    }

    async fn broadcast(&self, body: &Bytes, every: Duration, count: u32) -> anyhow::Result<u64> {
        let (mut timer, mut due, mut sent) = (Timer::new()?, Moment::now(), 0);
        for _ in 0..count {
            timer.until(due).await?;
            due = due.after(every);
            sent += match self {
                Broadcaster::Ours(server) => {
                    let report = server.broadcast(Packet::new(body.clone())).await?;
                    ensure!(report.missed.is_empty(), "a client does not take what is sent: a slower pace");
                    report.queued as u64
                }
                Broadcaster::Room(room) => room.broadcast(body)?,
                Broadcaster::Nobody => bail!("this server does not broadcast"),
            };
        }
        Ok(sent)
    }
}
