//! tokio-tungstenite, with a read buffer of 4 KiB: its default of 128 KiB costs more memory and time.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use super::frame::{Answers, HEADER, Header, ONE_WAY, Prefix, REQUEST, RESPONSE, write};
use crate::bench::transport::load::{Link, answered};

const READ_BUFFER: usize = 4 << 10;

pub(in crate::bench::transport) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            // A connection that fails is its client's to report.
            let _ = connection(stream).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream) -> anyhow::Result<()> {
    let mut socket = accept_async_with_config(stream, Some(tuned())).await?;
    let mut answers = Answers::default();
    while let Some(message) = socket.next().await {
        let Message::Binary(frame) = message? else { continue };
        let (header, payload) = parts(&frame)?;
        if let Some(answer) = answers.to(header, payload, &mut [0; 8]) {
            socket.send(message_of(RESPONSE, header.id, answer)).await?;
        }
    }
    Ok(())
}

pub(in crate::bench::transport) async fn connect(
    address: SocketAddr,
    batch: usize,
) -> anyhow::Result<WebSocketLink> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{address}/");
    let (socket, _) = client_async_with_config(url, stream, Some(tuned())).await?;
    Ok(WebSocketLink { socket, batch, waiting: 0, last_id: 0 })
}

fn tuned() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(READ_BUFFER)
}

fn message_of(kind: u8, id: u32, payload: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    write(&mut frame, Prefix::Nothing, kind, id, payload);
    Message::binary(frame)
}

fn parts(frame: &[u8]) -> anyhow::Result<(Header, &[u8])> {
    ensure!(frame.len() >= HEADER, "a message without a header");
    let header = Header::parse(&frame[..HEADER])?;
    ensure!(frame.len() == HEADER + header.length, "a message that is no frame");
    Ok((header, &frame[HEADER..]))
}

/// A client's connection.
pub(in crate::bench::transport) struct WebSocketLink {
    socket: WebSocketStream<TcpStream>,
    /// Messages in one flush, and how many wait for it.
    batch: usize,
    waiting: usize,
    last_id: u32,
}

impl WebSocketLink {
    async fn frame(&mut self) -> anyhow::Result<Bytes> {
        loop {
            match self.socket.next().await.context("the server has closed the connection")?? {
                Message::Binary(frame) => return Ok(frame),
                Message::Close(_) => bail!("the server has closed the connection"),
                _ => {}
            }
        }
    }
}

impl Link for WebSocketLink {
    async fn request(&mut self, body: &Bytes) -> anyhow::Result<u64> {
        self.last_id = self.last_id.wrapping_add(1);
        self.socket.send(message_of(REQUEST, self.last_id, body)).await?;
        self.waiting = 0;
        let frame = self.frame().await?;
        let (header, payload) = parts(&frame)?;
        ensure!((header.kind, header.id) == (RESPONSE, self.last_id), "an answer to nothing: {header:?}");
        answered(body, payload)
    }

    async fn send(&mut self, body: &Bytes) -> anyhow::Result<()> {
        self.socket.feed(message_of(ONE_WAY, 0, body)).await?;
        self.waiting += 1;
        if self.waiting >= self.batch {
            self.socket.flush().await?;
            self.waiting = 0;
        }
        Ok(())
    }

    async fn receive(&mut self) -> anyhow::Result<usize> {
        let frame = self.frame().await?;
        let (header, _) = parts(&frame)?;
        ensure!(header.kind == ONE_WAY, "an answer to nothing: {header:?}");
        Ok(header.length)
    }
}
