//! Upstreams that hang, die, answer too much or nonsense, and that register when and as often as they like.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Duration, interval};
use trunkline_proto::wire::{BusinessRequest, UpstreamDeregisterRequest, UpstreamRegisterRequest};
use trunkline_proto::{UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestUpstream, Way};

use crate::rig::{Rig, error, reply};

/// A call that gives up soon is 504, and the next call flows.
pub(super) async fn hangs(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("hangs{at}"), Way::TCP).await?;
    let request = BusinessRequest { action: "hold".into(), ..BusinessRequest::default() };
    let mut call = UpFrame::new(9, 1, UpBody::Business(request));
    call.headers.insert("x-timeout-ms".into(), "100".into());
    client.send(&call).await?;
    client.next_client_seq = 2;
    let code = error(client.reply(9).await?)?.error_code;
    ensure!(code == 504, "a call that hangs was answered {code}");
    flows(&mut client).await
}

/// 2 MiB are 413, and the next call flows.
pub(super) async fn answers_too_much(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("much{at}"), Way::TCP).await?;
    let code = error(client.call("big.answer", "").await?)?.error_code;
    ensure!(code == 413, "2 MiB were answered {code}");
    flows(&mut client).await
}

/// The call that it dies in is 502, those after it are 503, and everybody else's flow.
pub(super) async fn dies(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("dies{at}"), Way::TCP).await?;
    let doomed = Doomed::start(rig).await?;
    doomed.upstream.register("*", "dying").await?;
    let address = doomed.upstream.address().to_string();
    let longer_than_it_lives = [("ms", "600000")];
    let msg_id = client.send_call("sleep", &longer_than_it_lives, "").await?;
    doomed.upstream.until_requests(1).await?;
    drop(doomed);
    let code = error(client.reply(msg_id).await?)?.error_code;
    ensure!(code == 502, "the call that it died in was answered {code}");
    deregister(rig, address).await?;
    let code = error(client.call("sleep", "").await?)?.error_code;
    ensure!(code == 503, "without an upstream it was answered {code}");
    flows(&mut client).await
}

/// An upstream on a runtime of its own: with that all its connections end, in the midst of whatever runs there.
struct Doomed {
    upstream: TestUpstream,
    runtime: Option<Runtime>,
}

impl Doomed {
    async fn start(rig: &Rig) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let upstream = runtime.spawn(TestUpstream::start(rig.server.ready().grpc()?)).await;
        // From here on the runtime ends in `drop`, which an act that fails runs too.
        let (upstream, runtime) = (upstream??, Some(runtime));
        Ok(Doomed { upstream, runtime })
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A peer that speaks no HTTP/2 gets no call: 503.
pub(super) async fn garbage(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("garbage{at}"), Way::TCP).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noise: Vec<u8> = (0..4_096).map(|at: u32| (at * 7 + 1) as u8).collect();
            let _gone = stream.write_all(&noise).await;
            let _gone = stream.read(&mut [0; 64]).await;
        }
    });
    register(rig, &address, "noise").await?;
    let code = error(client.call("noise.call", "").await?)?.error_code;
    ensure!(matches!(code, 502 | 503), "garbage was passed on as {code}");
    deregister(rig, address).await?;
    flows(&mut client).await
}

/// Registered at an address where nobody listens yet: its call waits, others' flow, and once it listens it answers.
pub(super) async fn late(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("late{at}"), Way::TCP).await?;
    let upstream = TestUpstream::start(rig.server.ready().grpc()?).await?;
    // Bound, so that the port is nobody else's, and deaf, so that connecting to it is refused.
    let door = TcpSocket::new_v4()?;
    door.bind("127.0.0.1:0".parse()?)?;
    let address = door.local_addr()?.to_string();
    register(rig, &address, "late").await?;
    let msg_id = client.send_call("late.call", &[], "").await?;
    flows(&mut client).await?;
    ensure!(upstream.requests().is_empty(), "nobody listens, and it was called");
    let listener = door.listen(16)?;
    let inside = upstream.address();
    let mut passing = JoinSet::new();
    passing.spawn(async move {
        let mut each = JoinSet::new();
        while let Ok((mut outer, _)) = listener.accept().await {
            each.spawn(async move {
                let mut inner = TcpStream::connect(inside).await?;
                copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    let code = reply(client.reply(msg_id).await?)?.code;
    ensure!(code == 404, "the upstream knows no such action, and {code} was answered");
    deregister(rig, address).await
}

/// The second registration is the first one again: each call runs once.
pub(super) async fn twice(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("twice{at}"), Way::TCP).await?;
    let upstream = TestUpstream::start(rig.server.ready().grpc()?).await?;
    upstream.register("*", "twice").await?;
    upstream.register("*", "twice").await?;
    served(&mut client, "twice.call").await?;
    let before = upstream.requests().len();
    served(&mut client, "twice.call").await?;
    ensure!(upstream.requests().len() == before + 1, "a call ran twice");
    deregister(rig, upstream.address().to_string()).await
}

/// Until the upstream, which is new, has answered: its built-in actions know none of ours, so that is its own 404.
async fn served(client: &mut TestClient, action: &str) -> Result<()> {
    let mut ticks = interval(Duration::from_millis(20));
    for _ in 0..500 {
        ticks.tick().await;
        if reply(client.call(action, "").await?).is_ok_and(|reply| reply.code == 404) {
            return Ok(());
        }
    }
    anyhow::bail!("{action} is never served")
}

/// A call to a healthy upstream is answered.
async fn flows(client: &mut TestClient) -> Result<()> {
    ensure!(reply(client.call("echo", "on").await?)?.data == "on", "the next call");
    Ok(())
}

async fn register(rig: &Rig, address: &str, service: &str) -> Result<()> {
    rig.rude
        .register_as(UpstreamRegisterRequest {
            address: address.to_owned(),
            zone_id: "*".to_owned(),
            service_name: service.to_owned(),
            ..UpstreamRegisterRequest::default()
        })
        .await
}

async fn deregister(rig: &Rig, address: String) -> Result<()> {
    let request = UpstreamDeregisterRequest { address, zone_id: "*".to_owned(), ..Default::default() };
    let answer = rig.rude.gateway().deregister_upstream(request).await?.into_inner();
    ensure!(answer.success, "{answer:?}");
    Ok(())
}
