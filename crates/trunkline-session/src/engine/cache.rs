//! What the cached replies of a session cost: bytes by call number, in the order in which the calls ended.

use std::collections::{HashMap, VecDeque};

use crate::budget::Charge;
use crate::ids::ClientSeq;

/// The charges of cached replies. It holds no reply.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    charges: HashMap<ClientSeq, Charge>,
    by_end: VecDeque<ClientSeq>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn keep(&mut self, seq: ClientSeq, charge: Charge) {
        self.drop_reply(seq);
        self.bytes += charge.bytes();
        self.charges.insert(seq, charge);
        self.by_end.push_back(seq);
    }

    /// The reply has grown; its place in the order stays.
    pub(crate) fn recharge(&mut self, seq: ClientSeq, charge: Charge) {
        self.bytes += charge.bytes();
        if let Some(old) = self.charges.insert(seq, charge) {
            self.bytes -= old.bytes();
        }
    }

    /// The reply whose call ended first.
    pub(crate) fn oldest(&self) -> Option<ClientSeq> {
        self.by_end.front().copied()
    }

    pub(crate) fn drop_reply(&mut self, seq: ClientSeq) {
        if let Some(charge) = self.charges.remove(&seq) {
            self.bytes -= charge.bytes();
            // At most a window's worth of numbers, and mostly the first.
            self.by_end.retain(|kept| *kept != seq);
        }
    }
}
