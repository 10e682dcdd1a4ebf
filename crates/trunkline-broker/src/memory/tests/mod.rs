//! The memory engine: the conformance suite, and what is its own.

mod bounds;
mod durable;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;

use super::{MemoryBroker, MemoryOptions, Outage, Sweeping};
use crate::broker::Broker;
use crate::clock::ManualClock;
use crate::conformance::Harness;
use crate::names::NodeId;

/// A wall clock as it stands in 2026.
const NOW_US: u64 = 1_790_000_000_000_000;

fn options(clock: &Arc<ManualClock>, data_dir: Option<PathBuf>) -> MemoryOptions {
    let sweeping = Sweeping::Manual;
    MemoryOptions { data_dir, clock: clock.clone(), sweeping, ..MemoryOptions::new(NodeId(1)) }
}

/// A memory broker whose time stands still.
struct Memory {
    clock: Arc<ManualClock>,
    folder: TempDir,
    nodes: Option<(Arc<MemoryBroker>, Arc<MemoryBroker>)>,
}

impl Memory {
    fn open(&mut self) {
        let broker = MemoryBroker::open(options(&self.clock, Some(self.folder.path().to_owned()))).unwrap();
        let peer = broker.peer(NodeId(2));
        self.nodes = Some((Arc::new(broker), Arc::new(peer)));
    }

    fn node(&self) -> &Arc<MemoryBroker> {
        &self.nodes.as_ref().unwrap().0
    }
}

async fn memory() -> Memory {
    let clock = Arc::new(ManualClock::at(NOW_US));
    let mut memory = Memory { clock, folder: tempfile::tempdir().unwrap(), nodes: None };
    memory.open();
    memory
}

#[async_trait]
impl Harness for Memory {
    fn broker(&self) -> Arc<dyn Broker> {
        self.node().clone()
    }

    fn peer(&self) -> Arc<dyn Broker> {
        self.nodes.as_ref().unwrap().1.clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.node().sweep();
    }

    async fn go_away(&self) {
        self.node().play(Outage::Begin);
    }

    async fn come_back(&self) {
        self.node().play(Outage::End);
    }

    async fn lose_data(&self) {
        self.node().play(Outage::EndWiped);
    }

    async fn restart(&mut self) {
        self.nodes = None;
        self.open();
    }
}

conformance_tests!(memory);

#[tokio::test]
async fn the_whole_suite_runs_as_one() {
    crate::conformance::all(memory).await;
}
