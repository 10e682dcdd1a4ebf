//! A log file that is rotated by size: at its limit FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on.
//!
//! It never grows beyond its limit, never holds half a line, and comes back by itself: a file that cannot be written is
//! opened anew after a moment, so that freed space, a mended folder or a moved file need no restart. It writes on
//! whatever thread calls it, and buffers nothing.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// After a failure lines are dropped for so long, before the file is tried again: each try costs several system calls.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A file and the older ones beside it.
pub(super) struct RollingFile {
    path: PathBuf,
    limit: u64,
    keep: usize,
    open: Option<Open>,
    try_again: Option<Instant>,
    reopen: Reopen,
}

struct Open {
    file: File,
    /// `None` for what is no regular file, as a pipe: it has no size and is not rotated.
    size: Option<u64>,
}

/// Asks a file to be opened anew before its next line, as after somebody moved it. Clones ask the same file.
#[derive(Clone, Default)]
pub(super) struct Reopen(Arc<AtomicBool>);

impl Reopen {
    pub(super) fn ask(&self) {
        self.0.store(true, Relaxed);
    }
}

impl RollingFile {
    /// Opens or makes the file; what is in it stays.
    ///
    /// # Errors
    /// It can't be opened.
    pub(super) fn open(path: &Path, limit: u64, keep: usize) -> io::Result<Self> {
        let open = Some(open(path)?);
        let reopen = Reopen::default();
        Ok(RollingFile { path: path.to_owned(), limit, keep, open, try_again: None, reopen })
    }

    pub(super) fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    /// Writes a whole line or nothing of it.
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let open = match self.open.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        let mut open = match open.size {
            Some(size) if size > 0 && size + line.len() as u64 > self.limit => self.rotate(open)?,
            _ => open,
        };
        if let Err(error) = open.file.write_all(line) {
            if let Some(size) = open.size {
                // The beginning of a line would run into the next one. Where even this fails, a torn line is left.
                let _ = open.file.set_len(size);
            }
            return Err(error);
        }
        open.size = open.size.map(|size| size + line.len() as u64);
        self.open = Some(open);
        Ok(())
    }

    /// The old file is closed in any case: one that cannot be moved away must not grow on.
    fn rotate(&self, full: Open) -> io::Result<Open> {
        drop(full);
        for number in (1..self.keep).rev() {
            moved(&self.numbered(number), &self.numbered(number + 1))?;
        }
        moved(&self.path, &self.numbered(1))?;
        open(&self.path)
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Write for RollingFile {
    /// `line` is a whole one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.reopen.0.swap(false, Relaxed) {
            (self.open, self.try_again) = (None, None);
        }
        if self.try_again.is_some_and(|at| Instant::now() < at) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = self.line(line);
        self.try_again = written.is_err().then(|| Instant::now() + TRY_AGAIN);
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Open> {
    // Names of users and addresses stand in it: it is not for everybody.
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    Ok(Open { file, size: metadata.is_file().then_some(metadata.len()) })
}

fn moved(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_full_file_moves_on_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.log");
        fs::write(&path, "old\n").unwrap();
        let mut file = RollingFile::open(&path, 10, 2).unwrap();
        for line in ["123\n", "456\n", "789\n", "a line that is longer than the limit\n", "abc\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["node.log", "node.log.1", "node.log.2"]);
        assert_eq!(read(&path), "abc\n");
        assert_eq!(read(&folder.path().join("node.log.1")), "a line that is longer than the limit\n");
        assert_eq!(read(&folder.path().join("node.log.2")), "456\n789\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_full_loses_lines_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = RollingFile::open(&path, 10, 2).unwrap();
        assert_eq!(file.write(b"1\n").unwrap_err().kind(), ErrorKind::StorageFull);
        fs::remove_file(&path).unwrap();
        assert_eq!(
            file.write(b"2\n").unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "it is not tried for each line"
        );
        tokio::time::advance(TRY_AGAIN).await;
        file.write_all(b"3\n").unwrap();
        assert_eq!(read(&path), "3\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_rotated_does_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.log");
        // A folder with something in it is in the way of FILE.1.
        let in_the_way = folder.path().join("node.log.1");
        fs::create_dir_all(in_the_way.join("x")).unwrap();
        let mut file = RollingFile::open(&path, 10, 1).unwrap();
        file.write_all(b"12345678\n").unwrap();
        for _ in 0..3 {
            file.write(b"lost\n").unwrap_err();
            tokio::time::advance(TRY_AGAIN).await;
        }
        assert_eq!(read(&path), "12345678\n");
        fs::remove_dir_all(&in_the_way).unwrap();
        file.write_all(b"back\n").unwrap();
        assert_eq!((read(&path), read(&in_the_way)), ("back\n".to_owned(), "12345678\n".to_owned()));
    }

    #[test]
    fn a_file_that_was_moved_is_made_anew_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.log");
        let mut file = RollingFile::open(&path, 1_000, 1).unwrap();
        file.write_all(b"1\n").unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        file.write_all(b"2\n").unwrap();
        file.reopen().ask();
        file.write_all(b"3\n").unwrap();
        assert_eq!(
            (read(&folder.path().join("elsewhere")), read(&path)),
            ("1\n2\n".to_owned(), "3\n".to_owned())
        );
    }
}
