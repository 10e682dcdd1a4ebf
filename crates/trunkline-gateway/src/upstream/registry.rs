//! Who is registered: the table that calls are routed by, rebuilt whole at every change.
//!
//! Registrations come from the configuration and from the broker; this module does not talk to the broker. It
//! owns the peers: the first registration at an address begins one, the last one gone ends it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::Channels;
use super::events;
use super::keeper::Keeper;
use super::link::Dial;
use super::options::{Live, Route, UpstreamOptions};
use super::peer::Peer;
use super::registration::{AUTH_SERVICE, Address, Registration, ServedZone};
use super::signal::Changes;
use crate::zone::Zone;

/// Where a registration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The configuration: it never goes away.
    Static,
    /// The upstream itself, kept in the broker.
    Registered,
}

/// A registration and its instance.
pub(super) struct Entry {
    pub(super) registration: Registration,
    pub(super) source: Source,
    pub(super) peer: Arc<Peer>,
}

/// Instances that may take the same calls.
pub(super) type Group = Arc<[Arc<Entry>]>;

/// One state of everything.
#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Arc<Entry>>,
    /// By service; `""` is for all actions without a route.
    classes: HashMap<String, Class>,
    /// The broker's registrations have been read, so that what is missing does not exist.
    pub(super) loaded: bool,
}

#[derive(Default)]
struct Class {
    /// Each with the instances of zone `*`.
    zones: HashMap<Zone, Group>,
    /// Instances of zone `*`.
    all: Group,
}

impl Table {
    /// The instances for a service's calls of a zone; the service `None` is for actions without a route.
    pub(super) fn group(&self, service: Option<&str>, zone: &Zone) -> Group {
        let Some(class) = self.classes.get(service.unwrap_or_default()) else { return Group::default() };
        class.zones.get(zone).unwrap_or(&class.all).clone()
    }

    /// All instances of a service, of whatever zone.
    pub(super) fn members<'a>(
        &'a self,
        service: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let class = self.classes.get(service.unwrap_or_default());
        class
            .into_iter()
            .flat_map(|class| class.zones.values().chain([&class.all]).flat_map(|group| group.iter()))
    }

    /// Every group once, for comparing the members of each.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.classes.values().flat_map(|class| class.zones.values().chain(std::iter::once(&class.all)))
    }

    /// The peers, each once.
    pub(super) fn peers(&self) -> Vec<Arc<Peer>> {
        let mut seen = HashSet::new();
        let mut peers: Vec<Arc<Peer>> = Vec::new();
        for entry in &self.entries {
            if seen.insert(entry.peer.address.clone()) {
                peers.push(entry.peer.clone());
            }
        }
        peers
    }

    fn new(entries: Vec<Arc<Entry>>, routes: &[Route], loaded: bool) -> Self {
        let mut classes: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        for entry in &entries {
            let service = entry.registration.service.as_str();
            let own = service == AUTH_SERVICE || routes.iter().any(|route| route.service == service);
            let class = if own { service } else { "" };
            classes.entry(class.to_owned()).or_default().push(entry.clone());
        }
        let classes = classes.into_iter().map(|(name, entries)| (name, Class::new(&entries))).collect();
        Table { entries, classes, loaded }
    }
}

impl Class {
    fn new(entries: &[Arc<Entry>]) -> Self {
        let group = |serves: &dyn Fn(&ServedZone) -> bool| -> Group {
            let mut seen = HashSet::new();
            let members = entries.iter().filter(|entry| serves(&entry.registration.zone));
            // One instance registered for the zone and for all must not count twice.
            members.filter(|entry| seen.insert(&entry.peer.address)).cloned().collect()
        };
        let zones = entries.iter().filter_map(|entry| match &entry.registration.zone {
            ServedZone::One(zone) => Some(zone.clone()),
            ServedZone::All => None,
        });
        let zones: HashSet<Zone> = zones.collect();
        Class {
            all: group(&|served| *served == ServedZone::All),
            zones: zones
                .into_iter()
                .map(|zone| (zone.clone(), group(&|served| served.serves(&zone))))
                .collect(),
        }
    }
}

/// See the module.
pub(super) struct Registry {
    table: ArcSwap<Table>,
    state: Mutex<State>,
    /// What peers are made with.
    options: Arc<UpstreamOptions>,
    live: ArcSwap<Live>,
    dial: Arc<dyn Dial>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    pub(super) changes: Changes,
}

#[derive(Default)]
struct State {
    /// By the broker's key.
    registered: BTreeMap<String, Registration>,
    peers: HashMap<Address, Arc<Peer>>,
    loaded: bool,
}

impl Registry {
    pub(super) fn new(
        options: Arc<UpstreamOptions>,
        dial: Arc<dyn Dial>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let registry = Registry {
            table: ArcSwap::default(),
            state: Mutex::default(),
            live: ArcSwap::from_pointee(Live::of(&options)),
            options,
            dial,
            tasks,
            cancel,
            changes: Changes::default(),
        };
        registry.rebuild(&mut registry.state.lock());
        registry
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(super) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// What can change does, for the calls from now on; calls that run end where they are.
    pub(super) fn reconfigure(&self, live: Live) {
        let mut state = self.state.lock();
        self.live.store(Arc::new(live));
        self.rebuild(&mut state);
    }

    /// The broker's registrations as they stand; what is not among them is gone.
    pub(super) fn replace(&self, registered: BTreeMap<String, Registration>) {
        let mut state = self.state.lock();
        if state.loaded && state.registered == registered {
            return;
        }
        state.registered = registered;
        state.loaded = true;
        self.rebuild(&mut state);
    }

    /// One registration more, or anew.
    pub(super) fn put(&self, key: String, registration: Registration) {
        let mut state = self.state.lock();
        if state.registered.get(&key) == Some(&registration) {
            return;
        }
        state.registered.insert(key, registration);
        self.rebuild(&mut state);
    }

    pub(super) fn remove(&self, key: &str) {
        let mut state = self.state.lock();
        if state.registered.remove(key).is_some() {
            self.rebuild(&mut state);
        }
    }

    pub(super) fn registered(&self) -> BTreeMap<String, Registration> {
        self.state.lock().registered.clone()
    }

    fn rebuild(&self, state: &mut State) {
        let live = self.live.load();
        let statics = live.statics.iter().map(|registration| (Source::Static, registration.clone()));
        let registered =
            state.registered.values().map(|registration| (Source::Registered, registration.clone()));
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for (source, registration) in statics.chain(registered) {
            let place =
                (registration.address.clone(), registration.zone.clone(), registration.service.clone());
            if !seen.insert(place) {
                continue;
            }
            let peer = state.peers.entry(registration.address.clone());
            let peer = peer.or_insert_with(|| self.begin_peer(&registration)).clone();
            entries.push(Arc::new(Entry { registration, source, peer }));
        }
        state.peers.retain(|address, peer| {
            let mut limits = entries.iter().filter(|entry| entry.peer.address == *address).peekable();
            let lives = limits.peek().is_some();
            let limit = limits.filter_map(|entry| entry.registration.max_in_flight).max();
            peer.set_limit(limit.unwrap_or(live.max_in_flight));
            if !lives {
                tracing::info!(%address, "upstream gone");
                peer.cancel.cancel();
            }
            lives
        });
        self.table.store(Arc::new(Table::new(entries, &live.routes, state.loaded)));
        self.changes.tell();
    }

    fn begin_peer(&self, registration: &Registration) -> Arc<Peer> {
        let address = registration.address.clone();
        let cancel = self.cancel.child_token();
        let channels = Arc::new(Channels::new(self.options.channels));
        let peer = Peer::new(address, channels, self.options.health.clone(), self.changes.clone(), cancel);
        let peer = Arc::new(peer);
        let keeper = Keeper {
            peer: peer.clone(),
            service: registration.service.clone(),
            dial: self.dial.clone(),
            options: self.options.clone(),
            tasks: self.tasks.clone(),
            cut: self.cancel.clone(),
            changes: self.changes.clone(),
        };
        self.tasks.spawn(keeper.run());
        self.tasks.spawn(events::pump(peer.clone(), self.changes.clone()));
        peer
    }
}
