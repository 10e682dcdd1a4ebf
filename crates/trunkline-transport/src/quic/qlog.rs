//! What quinn tells of connections, as qlog: one file each, in the order in which they began.
//!
//! Files have a largest size, and there is a largest number of them; what is over is left out, and nothing is ever deleted.
//! A disk that fails costs the record, never the connection, and is told once. What is in the packets is not recorded.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::defaults::{QLOG_BYTES, QLOG_FILES};

/// The ending of a file of JSON text sequences, by the qlog main schema (draft-ietf-quic-qlog-main-schema).
const ENDING: &str = "sqlog";

/// How many names are tried for a file: there are few who write into one directory.
const NAMES: usize = 64;

/// Where the connections of QUIC and WebTransport are recorded, for tools such as qvis. Clones share the directory and what
/// may be in it; so one value may be given to servers and clients.
///
/// Each connection, also one whose handshake fails, has a file of its own, `time-number-server.sqlog` or `-client.sqlog`: its
/// packets sent, received and lost, and what is known of the path, as far as quinn tells it. No content is in it. It is
/// complete when the connection is over; until then up to 8 KiB of it are in memory. The id in the title of a server's file is
/// the group of the client's first events.
///
/// Writing happens in the connection's own task: on a slow disk that is felt. It is for finding out what is wrong, not for
/// every day.
///
/// ```no_run
/// use trunkline_transport::{Qlog, QuicClientConfig};
///
/// # fn main() -> std::io::Result<()> {
/// let qlog = Qlog::new("qlog")?.max_files(16).max_file_bytes(1 << 20);
/// let quic = QuicClientConfig::new("chat.example:4433").qlog(qlog);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Qlog {
    shared: Arc<Shared>,
    max_files: usize,
    max_file_bytes: usize,
}

struct Shared {
    directory: PathBuf,
    /// What the names of this value's files begin with, so that they come after those of an earlier one.
    began: u128,
    /// Files that there are, those of earlier runs included.
    files: AtomicUsize,
    /// The next number.
    next: AtomicUsize,
    was_full: AtomicBool,
    has_failed: AtomicBool,
}

/// Which side of a connection is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vantage {
    /// Of the connection that the client has begun with this id: quinn groups a server's events by another one.
    Server(quinn::ConnectionId),
    Client,
}

impl Vantage {
    fn name(self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Client => "client",
        }
    }

    fn title(self) -> String {
        match self {
            Self::Server(id) => format!("trunkline-transport server, connection {id}"),
            Self::Client => "trunkline-transport client".to_owned(),
        }
    }
}

impl Qlog {
    /// Records into this directory, which is made if it is not there: at most 64 files of at most 4 MiB each, unless told
    /// otherwise. Files of the same ending that are there already count.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Self> {
        let directory = directory.as_ref().to_owned();
        fs::create_dir_all(&directory)?;
        let mut files = 0;
        for entry in fs::read_dir(&directory)? {
            files += usize::from(entry?.path().extension().is_some_and(|ending| ending == ENDING));
        }
        // A clock before 1970 makes names that are all alike but for their numbers.
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let shared = Shared {
            directory,
            began,
            files: AtomicUsize::new(files),
            next: AtomicUsize::new(1),
            was_full: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), max_files: QLOG_FILES, max_file_bytes: QLOG_BYTES })
    }

    /// Files in the directory. Connections that begin when so many are there are not recorded, which is told once in the log;
    /// who deletes files makes room with a value made anew.
    #[must_use]
    pub fn max_files(self, count: usize) -> Self {
        Self { max_files: count, ..self }
    }

    /// Bytes of a file. What would make it longer is left out, from the first event on that does not fit.
    #[must_use]
    pub fn max_file_bytes(self, bytes: usize) -> Self {
        Self { max_file_bytes: bytes, ..self }
    }

    /// The settings of one connection, which is recorded if it may be.
    pub(crate) fn record(&self, transport: &mut quinn::TransportConfig, vantage: Vantage) {
        let Some(file) = self.create(vantage) else { return };
        let mut config = quinn::QlogConfig::default();
        config.title(Some(vantage.title()));
        config.writer(Box::new(Record {
            shared: Arc::clone(&self.shared),
            pending: Vec::new(),
            left: self.max_file_bytes,
            file: Some(BufWriter::new(file)),
        }));
        transport.qlog_stream(config.into_stream());
    }

    fn create(&self, vantage: Vantage) -> Option<File> {
        let shared = &self.shared;
        let count = |files: usize| (files < self.max_files).then_some(files + 1);
        if shared.files.fetch_update(Relaxed, Relaxed, count).is_err() {
            if !shared.was_full.swap(true, Relaxed) {
                let directory = shared.directory.display();
                tracing::warn!(%directory, files = self.max_files, "no more connections are recorded as qlog");
            }
            return None;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        for _ in 0..NAMES {
            let number = shared.next.fetch_add(1, Relaxed);
            let name = format!("{}-{number}-{}.{ENDING}", shared.began, vantage.name());
            match options.open(shared.directory.join(name)) {
                Ok(file) => return Some(file),
                // Somebody else has begun in the same millisecond.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    shared.failed(&error);
                    break;
                }
            }
        }
        shared.files.fetch_sub(1, Relaxed);
        None
    }
}

impl fmt::Debug for Qlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qlog")
            .field("directory", &self.shared.directory)
            .field("max_files", &self.max_files)
            .field("max_file_bytes", &self.max_file_bytes)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn failed(&self, error: &io::Error) {
        if !self.has_failed.swap(true, Relaxed) {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "a qlog cannot be written; connections go on without");
        }
    }
}

/// The file of one connection. It takes everything that it is given and never says that it could not: quinn would only log
/// that, packet by packet.
struct Record {
    shared: Arc<Shared>,
    /// An event of which the end has yet to come: a few hundred bytes.
    pending: Vec<u8>,
    /// Bytes that the file may still have.
    left: usize,
    /// None: it is full, or the disk has failed.
    file: Option<BufWriter<File>>,
}

impl Record {
    fn with_file(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        if let Some(file) = &mut self.file
            && let Err(error) = write(file)
        {
            self.shared.failed(&error);
            self.give_up();
        }
    }

    /// Nothing more is recorded: what is buffered is dropped rather than tried again.
    fn give_up(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
        self.pending = Vec::new();
    }
}

impl Write for Record {
    /// Takes events as a whole, so that each file ends with one: within an event no line ends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            return Ok(bytes.len());
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > self.left {
            self.with_file(Write::flush);
            self.give_up();
        } else if bytes.ends_with(b"\n") {
            let event = std::mem::take(&mut self.pending);
            self.left -= event.len();
            self.with_file(|file| file.write_all(&event));
            self.pending = event;
            self.pending.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with_file(Write::flush);
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.with_file(Write::flush);
    }
}
