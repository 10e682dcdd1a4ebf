//! The surfaces of a node: those of a running one are used as a client, an upstream or a probe uses them; the ports
//! of one that does not run must be free.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_client::{Client, ConnectError};
use trunkline_service::Context;
use trunkline_service::grpc::{GatewayAddress, GrpcContext};

use super::super::reach::{Identity, Reach, Way, reachable};
use super::{Finding, Findings};
use crate::config::{AuthMode, Config, TlsMode};
use crate::data_dir::DataDir;
use crate::keys;
use crate::ready::RunningNode;

/// A node on this machine answers in milliseconds; one that takes longer than this is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who asks: no person's name.
const USER: &str = "trunkline-doctor";

/// Checks under way at once: all of them, so that a node that stands still costs the patience of one.
const AT_ONCE: usize = 16;

/// Tries every surface of a running node, and tells in the order of their names.
pub(super) async fn examine(config: &Config, node: &RunningNode, findings: &mut Findings) {
    let mut checks: Vec<(&str, BoxFuture<'_, Finding>)> = Vec::new();
    for (name, bound) in &node.surfaces {
        let (name, address) = (name.as_str(), reachable(*bound));
        let mut as_client = |name, way| checks.push((name, client(config, node, way).boxed()));
        match name {
            "tcp" => {
                let mode = config.tls.mode_at(*bound);
                if mode != TlsMode::Required {
                    as_client("tcp", Way::Tcp);
                }
                if mode != TlsMode::Off {
                    as_client("tls", Way::Tls);
                }
            }
            "quic" => {
                as_client("quic", Way::Quic);
                as_client("webtransport", Way::Webtransport);
            }
            "websocket" => as_client("websocket", Way::Websocket),
            "http" => {
                as_client("websocket", Way::Websocket);
                checks.push((name, probe(address).boxed()));
            }
            "grpc" => checks.push((name, grpc(config, address).boxed())),
            _ => checks.push((name, probe(address).boxed())),
        }
    }
    let checks = checks.into_iter().map(async |(name, check)| (name, check.await));
    let mut done = stream::iter(checks).buffered(AT_ONCE);
    while let Some((name, finding)) = done.next().await {
        findings.add(name, &finding);
    }
}

/// Connects as a client does, with a token of its own, and calls.
async fn client(config: &Config, node: &RunningNode, way: Way) -> Finding {
    let reach = Reach::default().at(&config.node.data_dir);
    let options = match reach.to(node, config, way, &Identity::of(USER)) {
        Ok(options) => options,
        Err(error) => return Finding::Bad(format!("{error:#}")),
    };
    let stuck = || {
        Finding::Bad(format!(
            "no answer within {} s: is a firewall between, or does the process stand still? Look at its log, then restart it",
            PATIENCE.as_secs()
        ))
    };
    let Ok(connected) = timeout(PATIENCE, Client::connect(options)).await else { return stuck() };
    let client = match connected {
        Ok(client) => client,
        // Users are known elsewhere, and this one is not: it was asked, so it is reached.
        Err(ConnectError::Refused(closed)) if config.auth.mode == AuthMode::Upstream => {
            return Finding::Good(format!("answers; whom it lets in the upstreams say ({closed})"));
        }
        Err(ConnectError::Unreachable(why)) => {
            return Finding::Bad(format!(
                "{why}: is a firewall between, or does the process stand still? Look at its log, then restart it"
            ));
        }
        Err(error) => return Finding::Bad(format!("{error}: the node's log says more")),
    };
    let answered = timeout(PATIENCE, client.call("trunkline.echo").data("doctor").send()).await;
    drop(timeout(PATIENCE, client.stop()).await);
    match answered {
        Ok(Ok(reply)) if reply.data == "doctor" => {
            Finding::Good("a client connects, starts and gets its reply".to_owned())
        }
        Ok(Ok(reply)) => Finding::Bad(format!("it answers a call with {} {}", reply.code, reply.message)),
        Ok(Err(error)) => Finding::Bad(format!("it connects, but a call fails: {error}")),
        Err(_) => stuck(),
    }
}

/// Asks as an upstream does.
async fn grpc(config: &Config, address: SocketAddr) -> Finding {
    let token = DataDir::open(&config.node.data_dir).map_err(anyhow::Error::from);
    let gateway = token
        .and_then(|dir| keys::upstream_token(&dir))
        .and_then(|token| Ok(GatewayAddress::new(&address.to_string(), Some(&token))?));
    let gateway = match gateway {
        Ok(gateway) => gateway,
        Err(error) => return Finding::Bad(format!("{error:#}")),
    };
    let context = GrpcContext::new(&gateway);
    match timeout(PATIENCE, context.presence("trunkline-doctor:any")).await {
        Err(_) => Finding::Bad(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) if ["OVERLOADED", "UPSTREAM_TIMEOUT", "INTERNAL"].contains(&error.code.as_str()) => {
            Finding::Bad(format!("{error}: is a firewall between, or does the port want TLS?"))
        }
        Ok(Err(error)) if error.code == "UNAUTHENTICATED" => {
            Finding::Bad(format!("{error}: keys/upstream.token changed while the node ran: restart it"))
        }
        // A refusal of what was asked is an answer too.
        Ok(_) => Finding::Good("answers an upstream with the node's token".to_owned()),
    }
}

/// Asks `/ready`, as a load balancer does.
async fn probe(address: SocketAddr) -> Finding {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // The first line is all that is wanted.
        stream.take(1_024).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match timeout(PATIENCE, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Finding::Bad(format!("{address}: {error}: restart the node")),
        Err(_) => return Finding::Bad(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
    };
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Finding::Good("ready".to_owned()),
        "503" => Finding::Bad("it is starting or stopping: try again".to_owned()),
        "301" | "307" | "308" => Finding::Good("answers, and wants TLS".to_owned()),
        _ => Finding::Bad(format!("{address} does not answer as this program does: what listens there?")),
    }
}

/// Whether a node could start: its ports are free.
pub(super) fn examine_ports(config: &Config, findings: &mut Findings) {
    for (name, address) in config.listen.surfaces() {
        let Some(address) = address else { continue };
        let bound = match name {
            "quic" => UdpSocket::bind(address).map(drop),
            _ => TcpListener::bind(address).map(drop),
        };
        let finding = match bound {
            Ok(()) => Finding::Good(format!("{address} is free")),
            Err(error) => Finding::Bad(format!(
                "{address}: {error}: stop what uses it (`ss -lntup`), or name another with --{name} (listen.{name})"
            )),
        };
        findings.add(&format!("port {name}"), &finding);
    }
}
