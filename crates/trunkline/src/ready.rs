//! What a running node says of itself: the bound address of each surface, its process and its certificate.
//!
//! The same JSON object goes to `--ready-file` and to `node.json` in the data directory, atomically, once everything
//! serves, and goes away with the node. It says nothing secret.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::data_dir::{Access, DataDir, DataDirError, remove, replace};

/// A running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningNode {
    /// The bound address of each surface that is not off, by its name: `http`, `tcp`, `quic`, `grpc`, ….
    #[serde(flatten)]
    pub(crate) surfaces: BTreeMap<String, SocketAddr>,
    /// The node's process.
    pub(crate) pid: u32,
    /// SHA-256 of the certificate in DER, in lower-case hexadecimal digits.
    pub(crate) certificate_sha256: String,
}

/// The published files. They are removed when this is dropped, unless another node has replaced them meanwhile.
#[derive(Debug)]
pub(crate) struct Published {
    node: RunningNode,
    files: Vec<PathBuf>,
    content: String,
}

/// Removes what a node left that was killed, so that nobody who waits for this one reads where that one was. For who
/// holds the data directory's lock: no node runs with it.
///
/// # Errors
/// A file is there and cannot be removed.
pub(crate) fn forget(dir: &DataDir, ready_file: Option<&Path>) -> Result<(), DataDirError> {
    let own = own_file(dir);
    [Some(own.as_path()), ready_file].into_iter().flatten().try_for_each(remove)
}

fn own_file(dir: &DataDir) -> PathBuf {
    dir.join("node.json")
}

impl RunningNode {
    /// Writes `node.json` and, where given, the ready file. The ready file comes last: who waits for it finds both.
    ///
    /// # Errors
    /// A file cannot be written; none stays behind.
    pub(crate) fn publish(&self, dir: &DataDir, ready_file: Option<&Path>) -> anyhow::Result<Published> {
        let mut published = Published { node: self.clone(), files: Vec::new(), content: self.as_text()? };
        let own = own_file(dir);
        for file in [Some(own.as_path()), ready_file].into_iter().flatten() {
            replace(file, &published.content, Access::Public)?;
            published.files.push(file.to_owned());
        }
        Ok(published)
    }

    fn as_text(&self) -> anyhow::Result<String> {
        let text = serde_json::to_string_pretty(self);
        Ok(text.context("the node's addresses cannot be written as JSON")? + "\n")
    }

    /// The node that runs with this data directory.
    ///
    /// # Errors
    /// None runs, or what it says cannot be read.
    pub(crate) fn find(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("node.json");
        let start = "Start one with `trunkline serve`, or name its data directory with --data-dir";
        let content = match std::fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no node runs with the data directory {}. {start}", data_dir.display())
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let node: RunningNode = serde_json::from_str(&content)
            .with_context(|| format!("{} is damaged: restart the node", path.display()))?;
        // A node that was killed could not remove the file.
        if !Path::new("/proc").join(node.pid.to_string()).exists() && Path::new("/proc/self").exists() {
            bail!(
                "the node of {} (process {}) has ended without a goodbye. {start}",
                data_dir.display(),
                node.pid
            );
        }
        Ok(node)
    }
}

impl Published {
    /// Replaces the files: the node has another certificate now. A file that another node has taken stays its own.
    ///
    /// # Errors
    /// A file keeps the old certificate.
    pub(crate) fn renewed(&mut self, certificate_sha256: String) -> anyhow::Result<()> {
        self.node.certificate_sha256 = certificate_sha256;
        let content = self.node.as_text()?;
        self.files.retain(|file| std::fs::read_to_string(file).is_ok_and(|there| there == self.content));
        let written = self.files.iter().try_for_each(|file| replace(file, &content, Access::Public));
        self.content = content;
        Ok(written?)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        for file in &self.files {
            if std::fs::read_to_string(file).is_ok_and(|content| content == self.content) {
                // Nobody is left to be told; a file that stays names a process that is gone.
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pid: u32) -> RunningNode {
        RunningNode {
            surfaces: BTreeMap::from([("http".to_owned(), "127.0.0.1:8080".parse().unwrap())]),
            pid,
            certificate_sha256: "ab".repeat(32),
        }
    }

    #[test]
    fn it_is_one_flat_object_in_both_places_and_goes_away() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let ready = temporary.path().join("ready.json");
        let me = node(std::process::id());
        let published = me.publish(&dir, Some(&ready)).unwrap();
        let object: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&ready).unwrap()).unwrap();
        assert_eq!(object["http"], "127.0.0.1:8080");
        assert_eq!(object["pid"], std::process::id());
        assert_eq!(object["certificate_sha256"], "ab".repeat(32));
        assert_eq!(RunningNode::find(temporary.path()).unwrap(), me);
        drop(published);
        assert!(!ready.exists());
        let error = RunningNode::find(temporary.path()).unwrap_err().to_string();
        assert!(error.contains("no node runs") && error.contains("trunkline serve"), "{error}");
    }

    #[test]
    fn a_renewed_certificate_is_in_both_files_and_both_still_go_away() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let ready = temporary.path().join("ready.json");
        let mut published = node(std::process::id()).publish(&dir, Some(&ready)).unwrap();
        published.renewed("cd".repeat(32)).unwrap();
        for file in [&ready, &dir.join("node.json")] {
            let content = std::fs::read_to_string(file).unwrap();
            assert!(content.contains(&"cd".repeat(32)) && content.contains("127.0.0.1:8080"), "{content}");
        }
        // Another node has taken the ready file: it is no longer ours to write or remove.
        std::fs::write(&ready, "another's").unwrap();
        published.renewed("ef".repeat(32)).unwrap();
        assert_eq!(RunningNode::find(temporary.path()).unwrap().certificate_sha256, "ef".repeat(32));
        drop(published);
        assert!(!dir.join("node.json").exists());
        assert_eq!(std::fs::read_to_string(&ready).unwrap(), "another's");
    }

    #[test]
    fn what_a_killed_node_left_is_forgotten() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let ready = temporary.path().join("ready.json");
        forget(&dir, Some(&ready)).expect("nothing is there, which is well");
        std::mem::forget(node(1).publish(&dir, Some(&ready)).unwrap());
        forget(&dir, Some(&ready)).unwrap();
        assert!(!ready.exists() && !dir.join("node.json").exists());
        let folder = temporary.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let error = forget(&dir, Some(&folder)).unwrap_err().to_string();
        assert!(error.contains("folder: removing failed"), "{error}");
    }

    #[test]
    fn what_another_node_wrote_stays() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let old = node(1).publish(&dir, None).unwrap();
        let new = node(std::process::id()).publish(&dir, None).unwrap();
        drop(old);
        assert_eq!(RunningNode::find(temporary.path()).unwrap(), node(std::process::id()));
        drop(new);
        assert!(!dir.join("node.json").exists());
    }

    #[test]
    fn a_killed_node_is_told_from_a_running_one() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        // Process numbers end at 2^22, so this one cannot run.
        let gone = node(u32::MAX).publish(&dir, None).unwrap();
        let error = RunningNode::find(temporary.path()).unwrap_err().to_string();
        assert!(error.contains("has ended"), "{error}");
        drop(gone);
        std::fs::write(dir.join("node.json"), "{").unwrap();
        let error = RunningNode::find(temporary.path()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_ready_file_that_cannot_be_written_leaves_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let nowhere = temporary.path().join("missing/ready.json");
        let error = node(1).publish(&dir, Some(&nowhere)).unwrap_err().to_string();
        assert!(error.contains("missing/ready.json"), "{error}");
        assert!(!dir.join("node.json").exists());
    }
}
