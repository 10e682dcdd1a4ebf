//! Asking the metrics address of the node on this machine, as an operator.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Empty;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Place;
use super::reach::reachable;
use crate::config::TlsMode;
use crate::exchange::exchange;
use crate::ready::RunningNode;

/// A node on this machine answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer has at most 1,000 steps of some 200 bytes.
const MAX_BYTES: usize = 4 << 20;

/// Asks the node, and gives its answer: JSON.
pub(super) async fn ask(place: &Place, method: Method, path: &str) -> anyhow::Result<serde_json::Value> {
    let config = place.load(Vec::new())?.config;
    let node = RunningNode::find(&config.node.data_dir)?;
    let bound = node.surfaces.get("metrics").copied();
    let bound = bound.context("the node has no metrics address: set listen.metrics and start it again")?;
    let address = reachable(bound);
    if config.tls.mode_at(bound) == TlsMode::Required {
        bail!(
            "the metrics address wants TLS here: ask https://{address}{path} with a client that trusts the node"
        );
    }
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, request, MAX_BYTES).await
    };
    let answer = timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
        .with_context(|| {
            format!("the metrics address {address} cannot be asked: `trunkline doctor` looks at the node")
        })?;
    let body = answer.body();
    if !answer.status().is_success() {
        bail!("the node answered {}: {}", answer.status().as_u16(), String::from_utf8_lossy(body).trim());
    }
    serde_json::from_slice(body).context("the answer is no JSON: is the node of this version?")
}
