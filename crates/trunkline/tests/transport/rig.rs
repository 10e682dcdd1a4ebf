//! A server on a thread of its own, how to reach it, and what it costs. Clients live on the test's own thread, so that the
//! two share the machine and nothing else.

use std::fmt::Display;
use std::fs;
use std::future::Future;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use trunkline_transport::{
    ClientProtocol, ClientTls, QuicClientConfig, QuicServerConfig, ServerProtocol, Session, TcpClientConfig,
    TcpServerConfig, Tls, TransportClient, TransportClientBuilder, TransportError, TransportServer,
    TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig, WebTransportClientConfig,
    WebTransportServerConfig,
};

use crate::sizes::reading;
use crate::steady::Compared;

/// Long enough for a busy machine; a test that needs it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What has not happened by the deadline never will.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("this should have happened by now")
}

/// Waits until it is so.
pub(crate) async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The protocols of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
    Quic,
    WebTransport,
}

impl Way {
    pub(crate) const ALL: [Self; 6] =
        [Self::Tcp, Self::Tls, Self::WebSocket, Self::WebSocketTls, Self::Quic, Self::WebTransport];

    /// As readings name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
            Self::Quic => "quic",
            Self::WebTransport => "wt",
        }
    }

    /// The one that this variable names, or all.
    pub(crate) fn chosen(variable: &str) -> Vec<Self> {
        let Ok(name) = std::env::var(variable) else { return Self::ALL.to_vec() };
        let way = Self::ALL.into_iter().find(|way| way.name() == name);
        vec![way.unwrap_or_else(|| panic!("{variable} = {name} is no way"))]
    }

    fn listener(self, tls: &Tls) -> ServerProtocol {
        let (any, tls) = ("127.0.0.1:0", tls.clone());
        match self {
            Self::Tcp => TcpServerConfig::new(any).into(),
            Self::Tls => TcpServerConfig::new(any).tls(tls).into(),
            Self::WebSocket => WebSocketServerConfig::new(any).into(),
            Self::WebSocketTls => WebSocketServerConfig::new(any).tls(tls).into(),
            Self::Quic => QuicServerConfig::new(any).tls(tls).into(),
            Self::WebTransport => WebTransportServerConfig::new(any).tls(tls).into(),
        }
    }

    pub(crate) fn client(self, at: impl Display, trust: ClientTls) -> ClientProtocol {
        match self {
            Self::Tcp => TcpClientConfig::new(at.to_string()).into(),
            Self::Tls => TcpClientConfig::new(at.to_string()).tls(trust).into(),
            Self::WebSocket => WebSocketClientConfig::new(format!("ws://{at}")).into(),
            Self::WebSocketTls => WebSocketClientConfig::new(format!("wss://{at}")).tls(trust).into(),
            Self::Quic => QuicClientConfig::new(at.to_string()).tls(trust).into(),
            Self::WebTransport => WebTransportClientConfig::new(format!("https://{at}")).tls(trust).into(),
        }
    }
}

/// A server that serves until it is dropped.
pub(crate) struct Rig {
    pub(crate) server: TransportServer,
    pub(crate) trust: ClientTls,
    ways: Vec<Way>,
    runtime: Option<Runtime>,
}

impl Rig {
    /// Serves each connection by `handler`, with a listener for each way.
    pub(crate) async fn start<F, Fut>(builder: TransportServerBuilder, ways: &[Way], handler: F) -> Rig
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tls = Tls::self_signed_dev().unwrap();
        let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
        let builder = ways.iter().fold(builder, |builder, way| builder.with_protocol(way.listener(&tls)));
        let server = on(runtime.handle(), builder.build()).await.unwrap();
        let serving = server.clone();
        let mut serve = JoinSet::new();
        serve.spawn_on(async move { serving.serve_with(handler).await.unwrap() }, runtime.handle());
        // It ends with its runtime.
        serve.detach_all();
        Rig { server, trust, ways: ways.to_vec(), runtime: Some(runtime) }
    }

    fn runtime(&self) -> &Handle {
        self.runtime.as_ref().expect("it is there until it is dropped").handle()
    }

    /// Runs on the server's thread.
    pub(crate) async fn on_server<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        on(self.runtime(), future).await
    }

    /// Tasks of the server's runtime.
    pub(crate) fn tasks(&self) -> usize {
        self.runtime().metrics().num_alive_tasks()
    }

    /// Processor time that the server's one thread has had.
    pub(crate) async fn processor_time(&self) -> Duration {
        let time = self.on_server(async { clock_gettime(ClockId::ThreadCPUTime) }).await;
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    }

    pub(crate) fn address(&self, way: Way) -> std::net::SocketAddr {
        let at = self.ways.iter().position(|other| *other == way).expect("it listens by this way");
        self.server.local_addrs()[at]
    }

    pub(crate) fn reach(&self, way: Way) -> ClientProtocol {
        way.client(self.address(way), self.trust.clone())
    }

    /// A connected client.
    pub(crate) async fn client(&self, way: Way) -> TransportClient {
        let builder = TransportClientBuilder::new().with_protocol(self.reach(way)).connect_timeout(DEADLINE);
        let client = builder.build().await.unwrap();
        within(client.connect()).await.unwrap();
        client
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Nobody waits for a runtime inside of another one.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn on<T: Send + 'static>(runtime: &Handle, future: impl Future<Output = T> + Send + 'static) -> T {
    let mut task = JoinSet::new();
    task.spawn_on(future, runtime);
    task.join_next().await.expect("it was spawned").unwrap()
}

/// Answers requests with their own payload, and takes everything else.
pub(crate) async fn echo(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        if packet.is_request() {
            session.send(packet.reply(packet.payload.clone())).await?;
        }
    }
    Ok(())
}

/// Holds a connection open and reads nothing.
pub(crate) async fn idle(session: Session) -> Result<(), TransportError> {
    session.closed().await;
    Ok(())
}

/// Memory of this process that is in RAM, in bytes.
pub(crate) fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// Files and sockets that this process has open.
pub(crate) fn descriptors() -> usize {
    // The listing itself is one of them.
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Milliseconds, for a reading.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1_000.0)
}

/// Tells how much longer things took with a fault than in the calm before it. On a machine that was too slow to say,
/// the ratio is no number.
pub(crate) fn compared(name: &str, compared: Option<Compared>, slow_share: f64) {
    let ratio = compared.map_or(f64::NAN, |compared| compared.ratio);
    reading(&format!("{name}_ratio"), format!("{ratio:.4}"));
    let note = compared
        .map(|compared| format!("{compared}, {} against {} ms; ", ms(compared.disturbed), ms(compared.calm)));
    let slow = format!("the machine slow for {:.0} %", slow_share * 100.0);
    reading(&format!("{name}_note"), note.unwrap_or_default() + &slow);
}
