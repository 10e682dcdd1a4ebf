//! A node of a bench's own: this same program in a child process, with a data directory that vanishes with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::time::{Instant, interval};

/// A node starts within a second; on a machine that builds something meanwhile it takes longer.
const START: Duration = Duration::from_secs(30);

/// How often the ready file is looked for. Nothing portable tells of a file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The running child. Dropping it kills the process.
pub(super) struct OwnNode {
    child: Child,
    folder: TempDir,
    data_dir: PathBuf,
}

impl OwnNode {
    /// Starts it with this configuration, and waits until it serves.
    pub(super) async fn start(config: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no place for the bench's own node")?;
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("trunkline.toml"), config)?;
        let log = std::fs::File::create(file("log"))?;
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(file("trunkline.toml"));
        command.arg("--data-dir").arg(file("data")).arg("--ready-file").arg(file("ready"));
        for surface in ["--http", "--tcp", "--quic", "--grpc", "--metrics"] {
            command.args([surface, "127.0.0.1:0"]);
        }
        // A bench that is killed takes its node with it.
        command.arg("--parent").arg(std::process::id().to_string());
        // Settings of the environment are meant for another node.
        command.env_clear().stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("the bench's own node does not start")?;
        let data_dir = file("data");
        let mut node = OwnNode { child, folder, data_dir };
        node.until_ready().await?;
        Ok(node)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let ready = self.folder.path().join("ready");
        let deadline = Instant::now() + START;
        let mut looks = interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            if ready.exists() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the bench's own node ended at once ({status}): {}", self.said());
            }
            if Instant::now() > deadline {
                bail!("the bench's own node is not ready after {} s: {}", START.as_secs(), self.said());
            }
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        // It may have ended already. Nothing in its directory is worth a drain.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
