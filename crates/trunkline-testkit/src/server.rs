//! A gateway as a user runs it: the built binary in a process of its own, on ports of its own, with a data
//! directory that vanishes with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

pub use rustix::process::Resource;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, interval, timeout};

use crate::DEADLINE;
use crate::client::TestClient;
use crate::link::Way;

/// Its name in a folder of the server's own.
const READY_FILE: &str = "ready.json";

/// Its name there.
const CONFIG_FILE: &str = "trunkline.toml";

/// What `--ready-file` says: where each surface is.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Ready {
    #[serde(default)]
    http: Option<String>,
    #[serde(default)]
    tcp: Option<String>,
    #[serde(default)]
    quic: Option<String>,
    #[serde(default)]
    grpc: Option<String>,
    #[serde(default)]
    metrics: Option<String>,
    #[serde(default)]
    certificate_sha256: Option<String>,
    /// The process.
    pub pid: u32,
}

impl Ready {
    /// HTTP and WebSocket.
    pub fn http(&self) -> Result<SocketAddr> {
        address("http", self.http.as_deref())
    }

    /// TCP, plain or TLS.
    pub fn tcp(&self) -> Result<SocketAddr> {
        address("tcp", self.tcp.as_deref())
    }

    /// QUIC and WebTransport.
    pub fn quic(&self) -> Result<SocketAddr> {
        address("quic", self.quic.as_deref())
    }

    /// Upstreams.
    pub fn grpc(&self) -> Result<SocketAddr> {
        address("grpc", self.grpc.as_deref())
    }

    /// Metrics and admin.
    pub fn metrics(&self) -> Result<SocketAddr> {
        address("metrics", self.metrics.as_deref())
    }

    /// The SHA-256 of the certificate, to pin.
    pub fn certificate(&self) -> Result<[u8; 32]> {
        let text = self.certificate_sha256.as_deref().context("the ready file has no certificate_sha256")?;
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, d| sum << 4 | d)).collect();
        bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no SHA-256"))
    }

    /// The same gateway with its TCP surface behind a proxy.
    pub fn with_tcp(&self, address: SocketAddr) -> Ready {
        Ready { tcp: Some(address.to_string()), ..self.clone() }
    }

    /// The same gateway with its QUIC surface behind a proxy.
    pub fn with_quic(&self, address: SocketAddr) -> Ready {
        Ready { quic: Some(address.to_string()), ..self.clone() }
    }

    /// The same gateway with its HTTP surface behind a proxy.
    pub fn with_http(&self, address: SocketAddr) -> Ready {
        Ready { http: Some(address.to_string()), ..self.clone() }
    }
}

fn address(name: &str, text: Option<&str>) -> Result<SocketAddr> {
    let text = text.with_context(|| format!("the ready file has no {name}: is it off?"))?;
    text.parse().with_context(|| format!("{name} = {text} in the ready file"))
}

/// What a test may do to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: asks for a drain.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGHUP: reload.
    Reload,
    /// SIGSTOP: the process stands still, its sockets stay.
    Freeze,
    /// SIGCONT: it goes on.
    Thaw,
    /// SIGKILL: it is gone.
    Kill,
}

/// Where the server's data is.
enum DataDir {
    Own(TempDir),
    Given(PathBuf),
}

impl DataDir {
    fn path(&self) -> &Path {
        match self {
            DataDir::Own(directory) => directory.path(),
            DataDir::Given(path) => path,
        }
    }
}

/// Describes a server to start.
pub struct ServerBuilder {
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    config: Option<String>,
    data_dir: Option<PathBuf>,
    surfaces: Vec<(&'static str, String)>,
    stderr_unread: bool,
}

impl ServerBuilder {
    /// A further argument of `trunkline serve`.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A variable of the process's environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The configuration file's text (TOML).
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Lets clients in without a token.
    pub fn anonymous(self) -> Self {
        self.arg("--anonymous")
    }

    /// Keeps the data where it outlives this server, for a test of its restart.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Leaves standard error in a pipe that nobody reads: once that is full, who writes to it waits for ever.
    pub fn stderr_unread(mut self) -> Self {
        self.stderr_unread = true;
        self
    }

    /// Puts a surface (`http`, `tcp`, `quic`, `grpc`, `metrics`) at an address, or `off`; all others get a port of
    /// their own on loopback.
    pub fn surface(mut self, name: &'static str, address: impl Into<String>) -> Self {
        self.surfaces.retain(|(other, _)| *other != name);
        self.surfaces.push((name, address.into()));
        self
    }

    /// Starts the process and waits until every surface serves.
    pub async fn start(self) -> Result<TestServer> {
        let data_dir = match &self.data_dir {
            Some(path) => DataDir::Given(path.clone()),
            None => DataDir::Own(tempfile::tempdir()?),
        };
        let scratch = tempfile::tempdir()?;
        let ready_file = scratch.path().join(READY_FILE);
        let output = scratch.path().join("output.log");
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--data-dir").arg(data_dir.path()).arg("--ready-file").arg(&ready_file);
        if let Some(config) = &self.config {
            let file = scratch.path().join(CONFIG_FILE);
            std::fs::write(&file, config)?;
            command.arg("--config").arg(file);
        }
        for (name, address) in &self.surfaces {
            command.arg(format!("--{name}")).arg(address);
        }
        let log = std::fs::File::create(&output)?;
        command
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(if self.stderr_unread { Stdio::piped() } else { log.into() })
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} does not start", self.binary.display()))?;
        let mut server =
            TestServer { child, ready: Ready::unknown(), binary: self.binary, data_dir, scratch };
        server.ready = server.wait_until_ready(&ready_file).await?;
        Ok(server)
    }
}

impl Ready {
    fn unknown() -> Self {
        Ready {
            http: None,
            tcp: None,
            quic: None,
            grpc: None,
            metrics: None,
            certificate_sha256: None,
            pid: 0,
        }
    }
}

/// A running gateway. Dropping it kills the process and, if the test is failing, prints what the process said.
pub struct TestServer {
    child: Child,
    ready: Ready,
    binary: PathBuf,
    data_dir: DataDir,
    scratch: TempDir,
}

impl TestServer {
    /// `binary` is `env!("CARGO_BIN_EXE_trunkline")`, which only the binary's own tests can know.
    pub fn builder(binary: impl Into<PathBuf>) -> ServerBuilder {
        let own_port = || "127.0.0.1:0".to_owned();
        ServerBuilder {
            binary: binary.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            config: None,
            data_dir: None,
            surfaces: ["http", "tcp", "quic", "grpc", "metrics"].map(|name| (name, own_port())).to_vec(),
            stderr_unread: false,
        }
    }

    /// Where it serves.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What it was told to write once it serves.
    pub fn ready_file(&self) -> PathBuf {
        self.scratch.path().join(READY_FILE)
    }

    /// Its configuration file, where the builder was given one.
    pub fn config_file(&self) -> PathBuf {
        self.scratch.path().join(CONFIG_FILE)
    }

    /// What the ready file says now.
    pub fn announced(&self) -> Result<Ready> {
        serde_json::from_slice(&std::fs::read(self.ready_file())?).context("the ready file is damaged")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What the process has printed so far.
    pub fn output(&self) -> String {
        std::fs::read(self.scratch.path().join("output.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// A connection that has not said START yet.
    pub async fn connect(&self, way: Way) -> Result<TestClient> {
        TestClient::connect(&self.ready, way).await
    }

    /// A connection of this user, with a token of its own, after START.
    pub async fn client(&self, user: &str, way: Way) -> Result<TestClient> {
        let token = self.token(user, &[]).await?;
        let mut client = self.connect(way).await?;
        let response = client.start_as(user, &token).await?;
        ensure!(response.success, "START of {user} was refused: {:?}", response.error);
        Ok(client)
    }

    /// What `trunkline token --user USER` prints, with further arguments.
    pub async fn token(&self, user: &str, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["token", "--user", user];
        all.extend(arguments);
        Ok(self.run(&all).await?.trim().to_owned())
    }

    /// Runs another command of the binary on this server's data directory; what it prints, if it succeeds.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(DEADLINE, command.output()).await.context("the command hangs")??;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {}\n{printed}{errors}", output.status);
        Ok(printed)
    }

    /// Sends the process a signal, by its id. After `Freeze` every thread of it stands still.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        use rustix::process::{Pid, Signal as Raw, kill_process};
        let id = self.child.id().context("the server has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("a process has an id above 0")?;
        let raw = match signal {
            Signal::Terminate => Raw::TERM,
            Signal::Interrupt => Raw::INT,
            Signal::Reload => Raw::HUP,
            Signal::Freeze => Raw::STOP,
            Signal::Thaw => Raw::CONT,
            Signal::Kill => Raw::KILL,
        };
        kill_process(pid, raw)?;
        if signal == Signal::Freeze {
            until_frozen(id)?;
        }
        Ok(())
    }

    /// Sets a limit of the running process, and keeps the hard one so that it can be raised again.
    pub fn limit(&self, resource: Resource, most: u64) -> Result<()> {
        let id = self.child.id().context("the server has ended")?;
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(id)?).context("a process has an id above 0")?;
        let hard = rustix::process::getrlimit(resource).maximum;
        rustix::process::prlimit(
            Some(pid),
            resource,
            rustix::process::Rlimit { current: Some(most), maximum: hard },
        )?;
        Ok(())
    }

    /// Waits for the process to end.
    pub async fn exited(&mut self) -> Result<ExitStatus> {
        let status = timeout(DEADLINE, self.child.wait()).await;
        Ok(status.with_context(|| format!("the server does not end; it said:\n{}", self.output()))??)
    }

    /// kill -9, and waits until the process and its sockets are gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::Kill)?;
        self.exited().await.map(drop)
    }

    /// The resident set in bytes, from `/proc`.
    pub fn resident_bytes(&self) -> Result<u64> {
        let id = self.child.id().context("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// How many descriptors the process has open.
    pub fn open_files(&self) -> Result<usize> {
        let id = self.child.id().context("the server has ended")?;
        Ok(std::fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }

    /// The ready file appears by a rename, so a file that is there is whole. Nothing portable tells of it, so it
    /// is looked for at an interval.
    async fn wait_until_ready(&mut self, file: &Path) -> Result<Ready> {
        let deadline = Instant::now() + DEADLINE;
        let mut ticks = interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Ok(text) = std::fs::read(file) {
                return serde_json::from_slice(&text).context("the ready file is not what it should be");
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready ({status}); it said:\n{}", self.output());
            }
            ensure!(Instant::now() < deadline, "the server is not ready; it said:\n{}", self.output());
        }
    }
}

/// The signal is on its way when `kill` returns; the last thread stops a moment later.
fn until_frozen(id: u32) -> Result<()> {
    let begin = std::time::Instant::now();
    loop {
        let mut running = 0;
        for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which is in parentheses and may hold anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            running += usize::from(!matches!(state, Some('T' | 't')));
        }
        if running == 0 {
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "{running} threads do not stop");
        std::thread::yield_now();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server said ---\n{}--- end ---", self.output());
        }
        // A frozen process dies of SIGKILL too. It may have ended already.
        let _ = self.child.start_kill();
    }
}
