//! Looks after the files that a configuration is made of: its own, the certificate's, the key set's.
//!
//! Folders are watched rather than files, since editors and Kubernetes replace a file or a link in its place. What counts
//! in the end is whether the content of a file is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// Who writes a file does so in several steps; it is looked at when nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(250);

/// A folder that never comes to rest is looked at all the same.
const RESTLESS: u32 = 20;

/// Files, and what was in them when they were last looked at.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    folders: BTreeSet<PathBuf>,
    /// What each had in it at the last look; empty where it could not be read.
    seen: BTreeMap<PathBuf, [u8; 32]>,
    /// One event is as good as many: the rest is dropped.
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches these files from now on. Where the system cannot watch, changes are not noticed, and that is said.
    pub(super) fn new(files: BTreeSet<PathBuf>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watched = Arc::new(Mutex::new(files));
        let of = Arc::clone(&watched);
        let tell = move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| matters(&event, &of.lock())) {
                let _already_told = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(tell);
        let watcher = watcher.inspect_err(cannot).ok();
        let mut watch =
            Watch { watcher, files: watched, folders: BTreeSet::new(), seen: BTreeMap::new(), events };
        watch.look();
        watch.follow_folders();
        watch
    }

    /// Watches these files instead: those that were watched before as they were at the last look, so that what happened
    /// since is a change, the others as they are now.
    pub(super) fn set(&mut self, files: BTreeSet<PathBuf>) {
        self.seen.retain(|file, _| files.contains(file));
        for file in &files {
            self.seen.entry(file.clone()).or_insert_with(|| content(file));
        }
        *self.files.lock() = files;
        self.follow_folders();
    }

    /// Resolves when the content of a file has become another one. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            if self.events.recv().await.is_none() {
                // There is no watcher.
                return std::future::pending().await;
            }
            for _ in 0..RESTLESS {
                if tokio::time::timeout(QUIET, self.events.recv()).await.is_err() {
                    break;
                }
            }
            if self.look() {
                return;
            }
        }
    }

    /// Whether the files have another content than at the last look. Whoever reads them for another reason looks
    /// first, so that he is not told of what he has read.
    pub(super) fn look(&mut self) -> bool {
        let now = self.files.lock().iter().map(|file| (file.clone(), content(file))).collect();
        let before = std::mem::replace(&mut self.seen, now);
        before != self.seen
    }

    fn follow_folders(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = self.files.lock().iter().map(|file| folder(file)).collect();
        for gone in self.folders.difference(&wanted) {
            // It may be gone by itself.
            let _ = watcher.unwatch(gone);
        }
        for new in wanted.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                cannot(&error);
            }
        }
        self.folders = wanted;
    }
}

/// A file that cannot be read counts as empty: that is a change too, and the reload says what is wrong with it.
fn content(file: &Path) -> [u8; 32] {
    Sha256::digest(std::fs::read(file).unwrap_or_default()).into()
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A log that grows in the same folder must not make us read files; a link that is replaced (`..data`) must.
fn matters(event: &Event, files: &BTreeSet<PathBuf>) -> bool {
    match event.kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Modify(ModifyKind::Data(_)) => {
            let ours = |path: &PathBuf| files.iter().any(|file| file.file_name() == path.file_name());
            event.paths.iter().any(ours)
        }
        _ => true,
    }
}

fn cannot(error: &notify::Error) {
    tracing::warn!(%error, "files cannot be watched: send SIGHUP after a change");
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn changed(watch: &mut Watch) {
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.expect("no change was noticed");
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_linked_anew_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "1").unwrap();
        std::os::unix::fs::symlink("a", path("config")).unwrap();
        let mut watch = Watch::new(BTreeSet::from([path("config")]));
        std::fs::write(path("b"), "2").unwrap();
        std::os::unix::fs::symlink("b", path("..new")).unwrap();
        std::fs::rename(path("..new"), path("config")).unwrap();
        changed(&mut watch).await;
        std::fs::write(path("config"), "3").unwrap();
        // The link's target is another name: it is told by its own.
        watch.set(BTreeSet::from([path("b")]));
        std::fs::write(path("b"), "4").unwrap();
        changed(&mut watch).await;
        std::fs::write(path("new"), "5").unwrap();
        std::fs::rename(path("new"), path("b")).unwrap();
        changed(&mut watch).await;
    }

    #[tokio::test]
    async fn what_changes_while_the_files_are_read_is_told_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "1").unwrap();
        let mut watch = Watch::new(BTreeSet::from([path("a"), path("b")]));
        std::fs::write(path("a"), "2").unwrap();
        changed(&mut watch).await;
        // Whoever was told reads it now, and others write it before he says what to watch next.
        std::fs::write(path("a"), "3").unwrap();
        watch.set(BTreeSet::from([path("a")]));
        changed(&mut watch).await;
    }

    #[tokio::test]
    async fn what_has_the_same_content_or_another_name_has_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(BTreeSet::from([file.clone()]));
        std::fs::write(folder.path().join("log"), "line").unwrap();
        std::fs::write(&file, "1").unwrap();
        let waited = tokio::time::timeout(QUIET * 4, watch.changed()).await;
        assert!(waited.is_err(), "nothing has changed");
        std::fs::write(&file, "2").unwrap();
        changed(&mut watch).await;
    }

    #[test]
    fn a_growing_log_is_not_looked_at() {
        let files = BTreeSet::from([PathBuf::from("/etc/trunkline.toml")]);
        let grown = |name: &str| {
            let kind = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
            matters(&Event::new(kind).add_path(format!("/etc/{name}").into()), &files)
        };
        assert!(grown("trunkline.toml") && !grown("node.log"));
    }
}
