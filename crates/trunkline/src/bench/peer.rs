//! Other servers that do what a channel does, under the same load: what a comparison is taken with.

use std::str::FromStr;

use anyhow::{Context, bail};

use super::link::Link;
use super::wire::Wire;

/// What a peer's one channel is called.
const CHANNEL: &str = "bench";

/// A server that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    kind: Kind,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Who connects to `/subscribe` hears what is sent on connections to `/publish`, as it was sent.
    WebSocket,
    Redis,
}

impl Peer {
    /// A subscriber that is subscribed.
    pub(super) async fn subscriber(&self) -> anyhow::Result<Link> {
        let mut link = self.link("/subscribe").await?;
        if self.kind == Kind::Redis {
            link.writer.send(&command(&[b"SUBSCRIBE", CHANNEL.as_bytes()])).await?;
            link.reader.one().await.context("Redis does not subscribe")?;
        }
        Ok(link)
    }

    pub(super) async fn publisher(&self) -> anyhow::Result<Link> {
        self.link("/publish").await
    }

    /// What publishes this data, as a payload of the link.
    pub(super) fn publication(&self, data: &[u8]) -> Vec<u8> {
        match self.kind {
            Kind::WebSocket => data.to_vec(),
            Kind::Redis => command(&[b"PUBLISH", CHANNEL.as_bytes(), data]),
        }
    }

    /// How reports name it.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::WebSocket => "websocket peer",
            Kind::Redis => "redis",
        }
    }

    async fn link(&self, path: &str) -> anyhow::Result<Link> {
        let address = (self.host.trim_matches(['[', ']']), self.port);
        match self.kind {
            Kind::WebSocket => {
                Link::websocket(address, None, &format!("{}:{}", self.host, self.port), path).await
            }
            Kind::Redis => Link::plain(address, None, Wire::Redis).await,
        }
    }
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wanted = "wanted ws://host:port or redis://host:port";
        let (scheme, rest) = text.split_once("://").context(wanted)?;
        let kind = match scheme {
            "ws" => Kind::WebSocket,
            "redis" => Kind::Redis,
            _ => bail!(wanted),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').context(wanted)?;
        Ok(Peer { kind, host: host.to_owned(), port: port.parse().context(wanted)? })
    }
}

/// A command of Redis: an array of bulk strings.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_by_its_url() {
        let peer: Peer = "redis://127.0.0.1:6379".parse().unwrap();
        assert_eq!((peer.kind, peer.port, peer.host.as_str()), (Kind::Redis, 6379, "127.0.0.1"));
        assert_eq!("ws://[::1]:80/".parse::<Peer>().unwrap().host, "[::1]");
        for bad in ["127.0.0.1:80", "http://x:1", "ws://x", "redis://x:70000"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        assert_eq!(command(&[b"PUBLISH", b"c", b"ab"]), b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$2\r\nab\r\n");
    }
}
