//! An upstream of a bench's own, in a process of its own: this same program, which registers for all zones and answers
//! every call with its data.
//!
//! It is what a user's upstream is, no shortcut: a service behind gRPC. Whoever started it may make it slow or faulty for a
//! while, and it ends when they do.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use trunkline_proto::wire::UpstreamRegisterRequest;
use trunkline_service::grpc::{GatewayAddress, GrpcContext, Registrar, RegistrationState, Remote};
use trunkline_service::{Call, Caller, Code, Reply, Service, Status};

/// The action that it is called with here; it answers any.
pub(super) const ACTION: &str = "echo";

/// What such an upstream is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Like {
    /// How long it takes over each call.
    pub(crate) delay: Duration,
    /// Calls that it takes at once.
    pub(crate) in_flight: u32,
}

/// The longest line that tells it what to be like; a longer one is two that mean nothing.
const LINE: u64 = 64;

/// Calls under way that it takes by default: more than any bench has.
pub(crate) const IN_FLIGHT: u32 = 1_000_000;

struct Echo {
    delay_ms: AtomicU32,
    /// Of a hundred calls so many fail.
    failing: AtomicU32,
    calls: AtomicU32,
    running: AtomicU32,
    /// The most that ran at once.
    most: AtomicU32,
}

#[async_trait]
impl Service for Echo {
    fn action_prefix(&self) -> &'static str {
        ""
    }

    fn is_idempotent(&self, _action: &str) -> bool {
        true
    }

    async fn call(&self, _caller: &Caller, call: Call) -> Result<Reply, Status> {
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(running, Relaxed);
        let delay = self.delay_ms.load(Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay.into())).await;
        }
        self.running.fetch_sub(1, Relaxed);
        // 37 and 100 have no common divisor: of each hundred calls exactly so many fail, and not in a row.
        match self.calls.fetch_add(1, Relaxed).wrapping_mul(37) % 100 < self.failing.load(Relaxed) {
            true => Err(Status::new(Code::Internal, "this one fails")),
            false => Ok(Reply::ok(call.data)),
        }
    }
}

impl Echo {
    /// What a line says: `DELAY_MS FAILING_PERCENT`.
    fn become_like(&self, line: &str) -> anyhow::Result<()> {
        let (delay_ms, failing) = line.trim().split_once(' ').context("two numbers are wanted")?;
        let (delay_ms, failing) = (delay_ms.parse()?, failing.parse()?);
        self.delay_ms.store(delay_ms, Relaxed);
        self.failing.store(failing, Relaxed);
        Ok(())
    }
}

/// The process: prints its address once the gateway knows it, serves until its standard input ends, and then prints how
/// many calls it had at once at the most. A line `DELAY_MS FAILING_PERCENT` of that input changes how it answers.
pub(crate) async fn serve(gateway: &str, like: Like) -> anyhow::Result<()> {
    let gateway = GatewayAddress::new(gateway, None)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let Like { delay, in_flight } = like;
    let echo = Arc::new(Echo {
        delay_ms: AtomicU32::new(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
        failing: AtomicU32::new(0),
        calls: AtomicU32::new(0),
        running: AtomicU32::new(0),
        most: AtomicU32::new(0),
    });
    let remote = Remote::new(Arc::clone(&echo) as Arc<dyn Service>, Arc::new(GrpcContext::new(&gateway)));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(remote.into_server());
    let registration = UpstreamRegisterRequest {
        address: address.to_string(),
        zone_id: "*".to_owned(),
        service_name: "bench".to_owned(),
        max_in_flight: in_flight,
        idempotent_actions: vec![ACTION.to_owned()],
        ..UpstreamRegisterRequest::default()
    };
    let registrar = Registrar::new(&gateway, vec![registration]);
    let registering = registrar.run(|state| match state {
        RegistrationState::Registered => crate::cli::output::result(&address.to_string()),
        other => crate::cli::output::complain(&format!("the bench's upstream is not registered: {other:?}")),
    });
    tokio::select! {
        served = server.serve_with_incoming(incoming) => return Ok(served?),
        () = registering => {}
        () = input_ends(Arc::clone(&echo))? => {}
    }
    crate::cli::output::result(&echo.most.load(Relaxed).to_string());
    Ok(())
}

/// Whoever started this process holds its input open.
fn input_ends(echo: Arc<Echo>) -> anyhow::Result<impl Future<Output = ()>> {
    let (ended, ends) = oneshot::channel();
    let watch = move || {
        let (mut input, mut line) = (std::io::stdin().lock(), String::new());
        while (&mut input).take(LINE).read_line(&mut line).is_ok_and(|read| read > 0) {
            if let Err(error) = echo.become_like(&line) {
                crate::cli::output::complain(&format!("{:?}: {error:#}", line.trim()));
            }
            line.clear();
        }
        let _ = ended.send(());
    };
    // A thread of its own: the runtime's would keep the process alive.
    std::thread::Builder::new().name("input".to_owned()).spawn(watch)?;
    Ok(async { drop(ends.await) })
}

/// The running child. Dropping it ends the process.
pub(super) struct OwnUpstream {
    child: Child,
    pub(super) address: SocketAddr,
}

impl OwnUpstream {
    /// Starts it, and waits until the gateway at this address knows it.
    pub(super) async fn start(gateway: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut command = Command::new(program);
        command.args(["bench", "upstream", "--gateway", gateway]).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("the bench's own upstream does not start")?;
        let Some(said) = child.stdout.take() else { bail!("the upstream's output is not there") };
        let mut upstream = OwnUpstream { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line).map(|_| line)
        });
        let line = line.await??;
        upstream.address = line.trim().parse().context("the bench's own upstream could not register")?;
        Ok(upstream)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for OwnUpstream {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
