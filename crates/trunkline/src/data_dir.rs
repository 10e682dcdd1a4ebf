//! The data directory: made at the first start, locked while a node uses it, written atomically.
//!
//! It knows no content. Every file is complete or absent, private files have mode 0600, and every error says what
//! happened, where, and what to do next.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner only, 0600.
    Private,
    /// Everybody, 0644.
    Public,
}

/// What kept the data directory from being used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// The operating system refused.
    #[error("{path}: {doing} failed: {error}. {next}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Such as "writing".
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
        /// What the person can do.
        next: String,
    },
    /// Another node works with it.
    #[error(
        "{path} is in use by another node. Stop that one, or give this one a directory of its own with --data-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A data directory that exists.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

/// Held while a node uses its data directory; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DataDirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DataDir {
    /// Opens the directory, and makes it (0700) if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let keys = path.join("keys");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&keys)
            .map_err(|error| failed(&keys, "making the directory", error))?;
        Ok(DataDir { path: path.to_owned() })
    }

    /// A path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// Another process has it.
    pub(crate) fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(&path, "opening", error))?;
        match file.try_lock() {
            Ok(()) => Ok(DataDirLock(file)),
            Err(fs::TryLockError::WouldBlock) => Err(DataDirError::InUse { path: self.path.clone() }),
            Err(fs::TryLockError::Error(error)) => Err(failed(&path, "locking", error)),
        }
    }

    /// The content of a file, `None` if there is none.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let path = self.join(name);
        match fs::read_to_string(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, "reading", error)),
        }
    }

    /// The content of a private file, which is made with `content` if it is not there. Of several processes that
    /// make it at once, all get the same content.
    ///
    /// # Errors
    /// It can be neither read nor made.
    pub(crate) fn read_or_create(
        &self,
        name: &str,
        content: impl FnOnce() -> String,
    ) -> Result<String, DataDirError> {
        if let Some(content) = self.read(name)? {
            return Ok(content);
        }
        let path = self.join(name);
        let content = content();
        let new = written(&path, &content, Access::Private)?;
        match new.persist_noclobber(&path) {
            Ok(_) => Ok(content),
            // Another process was first, and its file is whole: it came into being by the same rename.
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                self.read(name)?.ok_or_else(|| failed(&path, "reading", ErrorKind::NotFound.into()))
            }
            Err(error) => Err(failed(&path, "writing", error.error)),
        }
    }
}

/// Replaces a file: a reader sees the old content or the new one, never a part.
///
/// # Errors
/// The file keeps its old content.
pub(crate) fn replace(path: &Path, content: &str, access: Access) -> Result<(), DataDirError> {
    let new = written(path, content, access)?;
    new.persist(path).map(drop).map_err(|error| failed(path, "writing", error.error))
}

/// Removes a file, if it is there.
///
/// # Errors
/// It is still there.
pub(crate) fn remove(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, "removing", error)),
        _ => Ok(()),
    }
}

/// A temporary file beside `path` with the content, on the disk.
fn written(path: &Path, content: &str, access: Access) -> Result<tempfile::NamedTempFile, DataDirError> {
    let write = || {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
        new.write_all(content.as_bytes())?;
        let mode = if access == Access::Private { 0o600 } else { 0o644 };
        new.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        new.as_file().sync_all()?;
        Ok(new)
    };
    write().map_err(|error| failed(path, "writing", error))
}

fn failed(path: &Path, doing: &'static str, error: io::Error) -> DataDirError {
    let next = match error.kind() {
        ErrorKind::PermissionDenied => {
            "Give this user the right to it, or choose another place with --data-dir"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "The disk is full: free some space, or choose another place with --data-dir"
        }
        ErrorKind::ReadOnlyFilesystem => "The file system is read-only: choose another place with --data-dir",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "A file is in the way: move it, or choose another place with --data-dir"
        }
        _ => "Choose another place with --data-dir",
    };
    DataDirError::Io { path: path.to_owned(), doing, error, next: next.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_made_once_and_only_for_its_owner() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temporary.path().join("a/b")).unwrap();
        assert_eq!(dir.read("keys/x").unwrap(), None);
        assert_eq!(dir.read_or_create("keys/x", || "one".to_owned()).unwrap(), "one");
        assert_eq!(dir.read_or_create("keys/x", || "two".to_owned()).unwrap(), "one");
        let mode = fs::metadata(dir.join("keys/x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mode = fs::metadata(dir.join("keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn many_at_once_get_one_content() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let contents: Vec<String> = std::thread::scope(|scope| {
            let racing: Vec<_> = (0..16)
                .map(|at| {
                    let dir = &dir;
                    scope.spawn(move || dir.read_or_create("keys/x", || format!("content {at}")).unwrap())
                })
                .collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(contents.iter().all(|content| *content == contents[0]), "{contents:?}");
        let left: Vec<_> =
            fs::read_dir(dir.join("keys")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["x"], "temporary files stayed");
    }

    #[test]
    fn a_second_node_is_refused_until_the_first_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let lock = dir.lock().unwrap();
        let error = dir.lock().unwrap_err().to_string();
        assert!(error.contains("in use by another node") && error.contains("--data-dir"), "{error}");
        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn errors_say_what_where_and_what_next() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains("file/data/keys: making the directory failed"), "{error}");
        assert!(error.contains("A file is in the way"), "{error}");
        for (kind, next) in [
            (ErrorKind::PermissionDenied, "right to it"),
            (ErrorKind::StorageFull, "disk is full"),
            (ErrorKind::ReadOnlyFilesystem, "read-only"),
        ] {
            let error = failed(Path::new("/x"), "writing", kind.into()).to_string();
            assert!(error.contains(next) && error.contains("--data-dir"), "{error}");
        }
    }
}
