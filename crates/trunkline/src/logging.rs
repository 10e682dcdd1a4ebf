//! The log: lines for people or as JSON, on standard error or in a file that is rotated. Set up once, by the command
//! that serves.
//!
//! A line never holds up who says it. Lines go through a bounded queue to a thread of their own; what does not fit in, or
//! cannot be written, is dropped and counted.

mod rolling;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};
use rolling::{Reopen, RollingFile};

/// Lines that wait to be written: a burst of a second at the rate that a disk takes them, some 2 MB.
const QUEUE_LINES: usize = 8_192;

/// What a running node may ask of its log. The default one belongs to no log.
#[derive(Clone, Default)]
pub(crate) struct LogHandle {
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    slow: Option<ErrorCounter>,
    failed: Arc<AtomicU64>,
    reopen: Option<Reopen>,
}

/// Lines that are not in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LostLines {
    /// The queue was full.
    pub(crate) slow: u64,
    /// They could not be written.
    pub(crate) failed: u64,
}

/// Sets up logging for the process. Dropping the guard writes what still waits, for at most a second.
///
/// # Errors
/// The level is no level and no list of directives, the file cannot be opened, or logging is set up already.
pub(crate) fn start(log: &Log) -> anyhow::Result<(LogHandle, WorkerGuard)> {
    let failed = Arc::new(AtomicU64::new(0));
    let mut handle = LogHandle { failed: Arc::clone(&failed), ..LogHandle::default() };
    // Colours are for people: in a file or a journal they are noise.
    let colours = log.file.is_none() && io::stderr().is_terminal();
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).thread_name("log");
    let (writer, guard) = match &log.file {
        None => queue.finish(Counted { writer: io::stderr(), failed }),
        Some(path) => {
            let file = RollingFile::open(path, log.file_size.0.into(), log.files_kept)
                .with_context(|| format!("log.file: {} cannot be opened", path.display()))?;
            handle.reopen = Some(file.reopen());
            queue.finish(Counted { writer: file, failed })
        }
    };
    handle.slow = Some(writer.error_counter());
    let (filter, reloading) = reload::Layer::new(parse(&log.level)?);
    handle.filter = Some(reloading);
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))?;
    Ok((handle, guard))
}

fn parse(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::builder().parse(level).with_context(|| {
        format!("log.level: {level:?} is no level such as \"info\" and no list of directives")
    })
}

/// A level that was read and can be set.
pub(crate) struct Level(EnvFilter);

impl Level {
    /// # Errors
    /// It is no level and no list of directives.
    pub(crate) fn parse(log: &Log) -> anyhow::Result<Self> {
        parse(&log.level).map(Level)
    }
}

impl LogHandle {
    /// Logs at this level from now on.
    pub(crate) fn set(&self, level: Level) {
        if let Some(filter) = &self.filter {
            // It fails only where the log has gone, with the process.
            let _ = filter.reload(level.0);
        }
    }

    /// Opens the file anew before its next line: somebody may have moved it.
    pub(crate) fn reopen(&self) {
        if let Some(reopen) = &self.reopen {
            reopen.ask();
        }
    }

    /// What is not in the log.
    pub(crate) fn lost(&self) -> LostLines {
        let slow = self.slow.as_ref().map_or(0, ErrorCounter::dropped_lines);
        LostLines { slow: slow as u64, failed: self.failed.load(Relaxed) }
    }
}

/// A writer whose failures are counted and go no further: nobody can be told of them but by the count.
struct Counted<W> {
    writer: W,
    failed: Arc<AtomicU64>,
}

impl<W: Write> Write for Counted<W> {
    /// Each call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.writer.write_all(line).is_err() {
            self.failed.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What cannot be flushed was counted when it was written.
        let _ = self.writer.flush();
        Ok(())
    }
}
