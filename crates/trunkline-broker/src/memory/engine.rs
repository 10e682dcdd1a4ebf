//! The memory broker's one engine: its channels and its table, what it writes to disk, and its sweeper.
//!
//! A durable write goes to disk first and is seen after; it runs on the blocking pool as a whole, so that a caller
//! that gives up leaves it done or undone, never half. One such write runs at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::channels::{Channels, Limits};
use super::disk::{Counters, Disk};
use super::table::{Edit, Edited, Table, TableLimits};
use super::time::Time;
use super::{MemoryError, MemoryOptions, Outage, Sweeping};
use crate::broker::{Answer, BrokerError, EngineState};
use crate::defaults::{COUNTERS_INTERVAL, FENCE_BLOCK, SWEEP_TICK};
use crate::log::Shared;
use crate::names::{LeaseId, NodeId};

/// Whether the clock and the fences are written again, so that a restart goes on above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Due,
    NotDue,
}

/// Everything that the handles of one memory broker share.
pub(super) struct Engine {
    time: Arc<Time>,
    channels: Arc<Channels>,
    table: Mutex<Table>,
    fences: Mutex<Fences>,
    disk: Option<Disk>,
    /// One write to disk at a time; the permit travels with the write.
    writing: Arc<Semaphore>,
    away: AtomicBool,
    state: watch::Sender<EngineState>,
    answerers: Mutex<HashMap<NodeId, Arc<dyn Answer>>>,
    sweeper: Mutex<JoinSet<()>>,
}

/// The fence counter: numbers below `below` are reserved on disk.
#[derive(Debug, Clone, Copy)]
struct Fences {
    next: u64,
    below: u64,
}

impl Engine {
    pub(super) fn open(options: MemoryOptions) -> Result<Arc<Self>, MemoryError> {
        let disk = options.data_dir.as_deref().map(Disk::open).transpose()?;
        let counters = disk.as_ref().map(Disk::load_counters).transpose()?.unwrap_or(Counters::new(0, 0));
        let shared = Arc::new(Shared::new(options.max_log_bytes, Arc::clone(&options.clock)));
        let limits = Limits { channels: options.max_channels, essential: options.essential };
        let time = Arc::new(Time::new(options.clock, counters.clock_us));
        let incarnation = time.incarnation();
        // Beginning at the clock too, the counter does not fall even where the data directory was removed.
        let next = counters.fences_below.max(incarnation.0);
        let mut table = Table::new(
            incarnation.0,
            TableLimits {
                bytes: options.max_keyed_bytes,
                durable_bytes: options.max_durable_bytes,
                durable_prefixes: options.durable_prefixes,
            },
        );
        if let Some(disk) = &disk {
            table.restore(disk.load_values()?, time.uptime());
        }
        let below = if disk.is_some() { next + FENCE_BLOCK } else { u64::MAX };
        if let Some(disk) = &disk {
            let stored = disk.store_counters(Counters::new(incarnation.0, below));
            stored.map_err(MemoryError::from_write)?;
        }
        let engine = Arc::new(Engine {
            channels: Channels::new(time.clone(), shared, limits),
            time,
            table: Mutex::new(table),
            fences: Mutex::new(Fences { next, below }),
            disk,
            writing: Arc::new(Semaphore::new(1)),
            away: AtomicBool::new(false),
            state: watch::Sender::new(EngineState::Up { incarnation }),
            answerers: Mutex::default(),
            sweeper: Mutex::default(),
        });
        if options.sweeping == Sweeping::Background {
            engine.start_sweeper();
        }
        Ok(engine)
    }

    pub(super) fn up(&self) -> Result<(), BrokerError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(BrokerError::Unavailable("the engine is away".to_owned()));
        }
        Ok(())
    }

    pub(super) fn state(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    pub(super) fn channels(&self) -> &Arc<Channels> {
        &self.channels
    }

    /// The table, without what has expired.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        table.expire(self.time.uptime());
        table
    }

    pub(super) fn lease(&self, ttl: Duration) -> LeaseId {
        self.table().lease(ttl, self.time.uptime())
    }

    pub(super) fn renew(&self, id: LeaseId) -> Result<(), BrokerError> {
        self.table().renew(id, self.time.uptime())
    }

    /// Does a write to the values, on disk first if it is durable.
    pub(super) async fn edit(self: &Arc<Self>, edit: Edit) -> Result<Edited, BrokerError> {
        {
            let mut table = self.table();
            if self.disk.is_none() || !table.needs_disk(&edit) {
                return match table.check(&edit)? {
                    Some(refused) => Ok(refused),
                    None => table.apply(edit, self.time.uptime()),
                };
            }
        }
        let engine = self.clone();
        self.write(move |disk| engine.edit_durably(disk, edit)).await
    }

    /// The next fence. Only one in [`FENCE_BLOCK`] waits for the disk.
    pub(super) async fn next_fence(self: &Arc<Self>) -> Result<u64, BrokerError> {
        loop {
            if let Some(number) = self.fences.lock().draw() {
                return Ok(number);
            }
            let engine = self.clone();
            self.write(move |disk| engine.reserve_fences(disk)).await?;
        }
    }

    pub(super) fn answerer(&self, node: NodeId) -> Option<Arc<dyn Answer>> {
        self.answerers.lock().get(&node).cloned()
    }

    pub(super) fn set_answerer(&self, node: NodeId, answer: Arc<dyn Answer>) {
        self.answerers.lock().insert(node, answer);
    }

    pub(super) fn forget_answerer(&self, node: NodeId) {
        self.answerers.lock().remove(&node);
    }

    pub(super) fn sweep_all(&self) {
        drop(self.table());
        for shard in 0..self.channels.shards() {
            self.channels.sweep(shard);
        }
    }

    pub(super) fn play(&self, outage: Outage) {
        let wiped = outage == Outage::EndWiped;
        if wiped {
            let incarnation = self.time.reincarnate();
            self.channels.wipe();
            self.table.lock().wipe(incarnation.0);
        }
        self.away.store(outage == Outage::Begin, Ordering::Relaxed);
        self.state.send_replace(match outage {
            Outage::Begin => EngineState::Away,
            Outage::End | Outage::EndWiped => EngineState::Up { incarnation: self.time.incarnation() },
        });
    }

    /// Runs a write on the blocking pool, alone. If the caller gives up, the write goes on.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Disk) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let unavailable = || BrokerError::Unavailable("the broker is shutting down".to_owned());
        let permit: OwnedSemaphorePermit =
            self.writing.clone().acquire_owned().await.map_err(|_| unavailable())?;
        let engine = self.clone();
        let run = move || {
            let _permit = permit;
            match &engine.disk {
                Some(disk) => work(disk),
                None => Err(BrokerError::Unavailable("there is no data directory".to_owned())),
            }
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| unavailable())?
    }

    fn edit_durably(&self, disk: &Disk, edit: Edit) -> Result<Edited, BrokerError> {
        let values = {
            let mut table = self.table();
            if let Some(refused) = table.check(&edit)? {
                return Ok(refused);
            }
            table.pending = Some(edit.key.clone());
            table.stale_disk = false;
            table.durable_values(Some(&edit))
        };
        let stored = disk.store_values(&values);
        let mut table = self.table();
        table.pending = None;
        if let Err(error) = stored {
            table.stale_disk = true;
            return Err(error);
        }
        let edited = table.apply(edit, self.time.uptime());
        // A lease that ended during the write: what is on disk must go again.
        table.stale_disk |= edited.is_err();
        edited
    }

    fn reserve_fences(&self, disk: &Disk) -> Result<(), BrokerError> {
        let next = {
            let fences = self.fences.lock();
            if fences.next < fences.below {
                return Ok(());
            }
            fences.next
        };
        let below = next + FENCE_BLOCK;
        disk.store_counters(Counters::new(self.time.last_us(), below))?;
        self.fences.lock().below = below;
        Ok(())
    }

    /// Writes what is due: values that have ended, and now and then the clock.
    fn tidy_disk(&self, disk: &Disk, clock: Record) -> Result<(), BrokerError> {
        if clock == Record::Due {
            let below = self.fences.lock().below;
            disk.store_counters(Counters::new(self.time.last_us(), below))?;
        }
        let values = {
            let mut table = self.table();
            if !table.stale_disk {
                return Ok(());
            }
            table.stale_disk = false;
            table.durable_values(None)
        };
        disk.store_values(&values).inspect_err(|_| self.table.lock().stale_disk = true)
    }

    fn start_sweeper(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let shards = self.channels.shards();
        // Engines that start together do not sweep together.
        let mut shard = rand::random_range(0..shards);
        self.sweeper.lock().spawn(async move {
            let mut since_clock = Duration::ZERO;
            loop {
                let tick = SWEEP_TICK.mul_f64(rand::random_range(0.9..1.1));
                tokio::time::sleep(tick).await;
                since_clock += tick;
                let Some(engine) = weak.upgrade() else { return };
                engine.channels.sweep(shard);
                shard = (shard + 1) % shards;
                let stale = engine.table().stale_disk;
                let clock = if since_clock >= COUNTERS_INTERVAL { Record::Due } else { Record::NotDue };
                if engine.disk.is_none() || !(stale || clock == Record::Due) {
                    continue;
                }
                let work = engine.clone();
                match engine.write(move |disk| work.tidy_disk(disk, clock)).await {
                    Ok(()) if clock == Record::Due => since_clock = Duration::ZERO,
                    Ok(()) => {}
                    // Nothing that was promised is lost: what has ended would come back for one ttl.
                    Err(error) => tracing::warn!(%error, "the broker's files are behind; trying again"),
                }
            }
        });
    }
}

impl Fences {
    fn draw(&mut self) -> Option<u64> {
        let number = self.next;
        (number < self.below).then(|| {
            self.next += 1;
            number
        })
    }
}

impl MemoryError {
    fn from_write(error: BrokerError) -> Self {
        match error {
            BrokerError::Storage { path, source } => {
                let source = std::io::Error::new(source.kind(), source.to_string());
                MemoryError::Storage { path, source }
            }
            other => MemoryError::Storage {
                path: std::path::PathBuf::new(),
                source: std::io::Error::other(other.to_string()),
            },
        }
    }
}
