//! What of the memory broker survives a restart: two small files in the data directory, each replaced whole.
//!
//! A file is written beside its place, flushed, and renamed, so a reader sees the old or the new one and a full
//! disk leaves the old one. All of it blocks: it runs at start, or on the blocking pool. Histories are not kept:
//! a restarted broker is a new incarnation.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MemoryError;
use crate::broker::BrokerError;
use crate::names::{Fence, LeaseId};

/// The only form of both files so far.
const VERSION: u32 = 1;

/// The broker's folder in the data directory, locked for this process.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// Its lock ends when the process does, however it ends.
    _lock: File,
}

/// The counters that must never fall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counters {
    version: u32,
    /// The highest epoch or incarnation that was certainly not exceeded when this was written.
    pub(super) clock_us: u64,
    /// No fence from this number up was given.
    pub(super) fences_below: u64,
}

/// One durable keyed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredValue {
    pub(super) key: String,
    pub(super) value: Bytes,
    pub(super) fence: Option<Fence>,
    pub(super) life: StoredLife,
}

/// How long it lives. Nobody could renew it while the broker was down, so a restart grants one ttl anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredLife {
    Forever,
    TtlMs(u64),
    Lease { id: LeaseId, ttl_ms: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValuesFile {
    version: u32,
    values: Vec<ValueRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueRow {
    key: String,
    value_base64: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
    life: StoredLife,
}

impl Counters {
    pub(super) fn new(clock_us: u64, fences_below: u64) -> Self {
        Counters { version: VERSION, clock_us, fences_below }
    }
}

impl Disk {
    /// Opens the folder `broker` of the data directory, made if it is not there, and locks it.
    pub(super) fn open(data_dir: &Path) -> Result<Self, MemoryError> {
        let folder = data_dir.join("broker");
        let storage = |path: &Path| {
            let path = path.to_owned();
            move |source| MemoryError::Storage { path, source }
        };
        fs::create_dir_all(&folder).map_err(storage(&folder))?;
        make_private(&folder, 0o700).map_err(storage(&folder))?;
        let path = folder.join("lock");
        let lock = private_file(&path, Content::Kept).map_err(storage(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Disk { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(MemoryError::InUse { path: folder }),
            Err(TryLockError::Error(source)) => Err(MemoryError::Storage { path, source }),
        }
    }

    /// The counters as last written, or zeros where there are none yet.
    pub(super) fn load_counters(&self) -> Result<Counters, MemoryError> {
        let path = self.counters_path();
        let counters: Counters = match read_json(&path)? {
            Some(counters) => counters,
            None => return Ok(Counters::new(0, 0)),
        };
        check_version(&path, counters.version)?;
        Ok(counters)
    }

    /// Replaces the counters.
    pub(super) fn store_counters(&self, counters: Counters) -> Result<(), BrokerError> {
        let path = self.counters_path();
        let bytes = serde_json::to_vec(&counters).map_err(|error| storage_error(&path, error.into()))?;
        replace(&path, &bytes).map_err(|source| storage_error(&path, source))
    }

    /// The durable values as last written.
    pub(super) fn load_values(&self) -> Result<Vec<StoredValue>, MemoryError> {
        let path = self.values_path();
        let file: ValuesFile = match read_json(&path)? {
            Some(file) => file,
            None => return Ok(Vec::new()),
        };
        check_version(&path, file.version)?;
        let row = |row: ValueRow| match BASE64.decode(&row.value_base64) {
            Ok(value) => {
                Ok(StoredValue { key: row.key, value: value.into(), fence: row.fence, life: row.life })
            }
            Err(error) => Err(MemoryError::Corrupt {
                path: path.clone(),
                reason: format!("the value of key {:?} is not base64: {error}", row.key),
            }),
        };
        file.values.into_iter().map(row).collect()
    }

    /// Replaces the durable values.
    pub(super) fn store_values(&self, values: &[StoredValue]) -> Result<(), BrokerError> {
        let path = self.values_path();
        let row = |value: &StoredValue| ValueRow {
            key: value.key.clone(),
            value_base64: BASE64.encode(&value.value),
            fence: value.fence,
            life: value.life,
        };
        let file = ValuesFile { version: VERSION, values: values.iter().map(row).collect() };
        let bytes = serde_json::to_vec(&file).map_err(|error| storage_error(&path, error.into()))?;
        replace(&path, &bytes).map_err(|source| storage_error(&path, source))
    }

    fn counters_path(&self) -> PathBuf {
        self.folder.join("counters.json")
    }

    fn values_path(&self) -> PathBuf {
        self.folder.join("values.json")
    }
}

/// A duration in whole milliseconds, as the files have it.
pub(super) fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn storage_error(path: &Path, source: io::Error) -> BrokerError {
    BrokerError::Storage { path: path.to_owned(), source: Arc::new(source) }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, MemoryError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MemoryError::Storage { path: path.to_owned(), source }),
    };
    let corrupt =
        |error: serde_json::Error| MemoryError::Corrupt { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

fn check_version(path: &Path, version: u32) -> Result<(), MemoryError> {
    if version == VERSION {
        return Ok(());
    }
    let reason = format!("it has version {version}, this program knows version {VERSION}");
    Err(MemoryError::Corrupt { path: path.to_owned(), reason })
}

/// Writes beside the file, flushes, and renames; then flushes the folder, so that the name lasts too.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = private_file(&beside, Content::Emptied)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// What becomes of what a file has in it when it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Kept,
    Emptied,
}

fn private_file(path: &Path, content: Content) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(content == Content::Emptied);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn make_private(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn make_private(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}
