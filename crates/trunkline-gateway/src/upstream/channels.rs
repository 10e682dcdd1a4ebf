//! The HTTP/2 connections to one instance: which of them takes a call, and whether another is wanted.
//!
//! Calls go to the first connection whose peer lets one more run, so that they leave in few writes and the last
//! connections fall idle when they are not needed. What waits on one that is full goes to another as soon as that has
//! room. It never dials: the keeper does.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::link::Link;

/// See the module. Only the keeper changes it.
pub(super) struct Channels {
    links: ArcSwap<Vec<Link>>,
    /// Connections at most.
    most: usize,
    wanted: Notify,
}

impl Channels {
    pub(super) fn new(most: usize) -> Self {
        Channels { links: ArcSwap::default(), most: most.max(1), wanted: Notify::new() }
    }

    /// An open connection: the first with room, or else the one with the fewest calls.
    pub(super) fn pick(&self) -> Option<Link> {
        let links = self.links.load();
        let open = || links.iter().filter(|link| !link.is_closed());
        if let Some(link) = open().find(|link| link.has_room()) {
            return Some(link.clone());
        }
        let least = open().min_by_key(|link| link.calls())?;
        self.want();
        Some(least.clone())
    }

    /// Calls wait, and no connection has room for them.
    pub(super) fn want(&self) {
        if self.count() < self.most {
            self.wanted.notify_one();
        }
    }

    /// One with room, if there is any.
    pub(super) fn with_room(&self) -> Option<Link> {
        self.links.load().iter().find(|link| !link.is_closed() && link.has_room()).cloned()
    }

    /// There is room on one: those on which calls wait may give them away.
    pub(super) fn relieve(&self) {
        let links = self.links.load();
        if links.len() > 1 {
            links.iter().filter(|link| !link.has_room()).for_each(Link::wake);
        }
    }

    /// Resolves when calls found no room, and there may be another connection. Cancel-safe.
    pub(super) async fn wanted(&self) {
        loop {
            self.wanted.notified().await;
            // It may be long ago; and if there is none at all, another is not what is wanted.
            if self.is_open() && self.with_room().is_none() {
                return;
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.links.load().iter().any(|link| !link.is_closed())
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.links.load().iter().filter(|link| !link.is_closed()).count()
    }

    /// Those that are there, closed ones among them until they are forgotten.
    pub(super) fn all(&self) -> Guard<Arc<Vec<Link>>> {
        self.links.load()
    }

    /// Takes in another, unless there are enough.
    pub(super) fn add(&self, link: Link) {
        self.change(|links| {
            links.retain(|link| !link.is_closed());
            links.push(link);
            links.truncate(self.most);
        });
        self.relieve();
    }

    /// Forgets those that are closed.
    pub(super) fn forget_closed(&self) {
        self.change(|links| links.retain(|link| !link.is_closed()));
    }

    /// Gives up all of them: what runs there goes on, what waits is given back.
    pub(super) fn give_up(&self) {
        self.links.swap(Arc::default()).iter().for_each(Link::give_up);
    }

    /// Gives up the last one, if there are several and it has no calls.
    pub(super) fn shrink(&self) {
        self.change(|links| {
            if links.len() > 1
                && let Some(last) = links.pop_if(|link| link.calls() == 0)
            {
                last.give_up();
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Link>)) {
        let mut links = Vec::clone(&self.links.load());
        change(&mut links);
        self.links.store(Arc::new(links));
    }
}
