//! The gateway: one node's sessions, connections, services and broker, and the order in which they stop.
//!
//! It takes connections from whoever accepts them and knows no listener, no file and no environment.

mod lease;
mod timers;
mod waiting;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashTable;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trunkline_broker::{Broker, BrokerError, LeaseId};
use trunkline_proto::CloseCode;
use trunkline_service::{Context, Service};
use trunkline_session::{ConnectionId, Now, ReplyBudget, SessionConfig, SessionId};
use trunkline_transport::Connection;

use crate::auth::Authenticator;
use crate::connection::{self, Ending, Flusher, Handle, Refusal};
use crate::context::NodeContext;
use crate::events::Events;
use crate::hub::Hub;
use crate::limits::{self, Limits};
use crate::options::GatewayOptions;
use crate::services::Services;
use crate::session::{Session, SessionPage, SharedRights};
use crate::stats::{Counters, Snapshot, Stats};
use crate::trace::{self, Trace, TraceAnswer, TraceQuestion, TraceStatus};
use crate::upstream::Upstreams;
use lease::KeptLease;
pub(crate) use timers::Moment;
use timers::Timers;
use waiting::Waiting;

/// Connections that are told at once why they are refused. They are beyond the limit of connections, and a peer that
/// does not read holds its place for seconds: without a limit of their own a flood would use up the descriptors.
const MAX_REFUSING: usize = 256;

/// What clients have to leave in once they are told to, of the time that a drain has.
const LEAVING: Duration = Duration::from_secs(5);

/// A gateway. Clones are the same gateway; dropping them ends nothing, [`Gateway::drain`] does.
#[derive(Clone)]
pub struct Gateway {
    node: Arc<Node>,
}

/// What the end of a drain cut off instead of ending it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Connections whose clients did not go.
    pub connections: usize,
    /// Sessions on them; they can be resumed elsewhere.
    pub sessions: usize,
    /// Calls that had no reply when their clients were told to go.
    pub calls: usize,
}

/// What everything of a node shares.
pub(crate) struct Node {
    options: ArcSwap<GatewayOptions>,
    pub(crate) session_config: Arc<SessionConfig>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) authenticator: Authenticator,
    pub(crate) services: Services,
    pub(crate) hub: Hub,
    pub(crate) connections: Connections,
    pub(crate) events: Events,
    pub(crate) rights: SharedRights,
    pub(crate) stats: Stats,
    pub(crate) reply_budget: ReplyBudget,
    /// Whether room for replies is being made.
    pub(crate) making_room: AtomicBool,
    pub(crate) limits: Limits,
    pub(crate) trace: Trace,
    waiting: Waiting,
    pub(crate) timers: Timers,
    flushers: Box<[Arc<Flusher>]>,
    lease: KeptLease,
    origin: Instant,
    next_connection: AtomicU64,
    refusing: Arc<Semaphore>,
    tasks: TaskTracker,
    /// The tasks of connections: also of those that were sent away and whose peer has not closed yet.
    serving: TaskTracker,
    /// Calls that run: the drain lets them end.
    calls: TaskTracker,
    stopping: CancellationToken,
    /// The same for who asks very often: the token has a lock.
    is_stopping: AtomicBool,
}

impl Gateway {
    /// A gateway that serves no connection yet. It must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The broker does not grant the node its lease.
    pub async fn new(
        options: GatewayOptions,
        broker: Arc<dyn Broker>,
        authenticator: Authenticator,
        upstreams: Option<Arc<Upstreams>>,
    ) -> Result<Self, BrokerError> {
        let lease = KeptLease::take(broker.as_ref()).await?;
        let node = Arc::new(Node {
            session_config: Arc::new(options.session.clone()),
            reply_budget: ReplyBudget::new(options.reply_cache_bytes),
            making_room: AtomicBool::new(false),
            limits: Limits::new(&options),
            trace: Trace::new(options.trace),
            services: Services::new(upstreams),
            hub: Hub::default(),
            connections: Connections::default(),
            events: Events::default(),
            rights: SharedRights::default(),
            stats: Stats::default(),
            waiting: Waiting::default(),
            timers: Timers::default(),
            flushers: Flusher::for_each_worker(),
            lease,
            origin: Instant::now(),
            next_connection: AtomicU64::new(1),
            refusing: Arc::new(Semaphore::new(MAX_REFUSING)),
            tasks: TaskTracker::new(),
            serving: TaskTracker::new(),
            calls: TaskTracker::new(),
            stopping: CancellationToken::new(),
            is_stopping: AtomicBool::new(false),
            options: ArcSwap::from_pointee(options),
            broker,
            authenticator,
        });
        node.spawn(waiting::sweep(Arc::clone(&node)));
        node.spawn(keep_lease(Arc::clone(&node)));
        node.spawn(limits::watch(Arc::clone(&node)));
        for flusher in &node.flushers {
            node.spawn(Arc::clone(flusher).run(Arc::clone(&node)));
        }
        node.events.begin(&node);
        node.timers.begin(&node);
        Ok(Gateway { node })
    }

    /// Changes limits, login policy, rights and namespaces of a running gateway, from the next frame, START or
    /// connection on. What sessions and zones were built from (`node`, `session`, `zones`, `implicit_history`,
    /// `reply_cache_bytes`) stays as it is.
    pub fn reconfigure(&self, options: GatewayOptions) {
        let node = &self.node;
        let running = node.options.load_full();
        let options = options.changed_from(&running);
        node.limits.configure(&options);
        node.trace.configure(running.trace, options.trace);
        node.options.store(Arc::new(options));
    }

    /// Mounts a service of this process.
    pub fn mount(&self, service: Arc<dyn Service>) {
        self.node.services.mount(service, self.context());
    }

    /// What services may ask of this node.
    pub fn context(&self) -> Arc<dyn Context> {
        Arc::new(NodeContext::new(Arc::clone(&self.node)))
    }

    /// What the gateway's other surfaces share with it.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Serves a connection in a task of its own. Over the limit it is told 4005 and closed.
    pub fn serve(&self, connection: Connection) {
        let node = Arc::clone(&self.node);
        let full = node.connections.len() >= node.options().max_connections;
        if full || node.is_stopping() {
            return self.refuse(connection, if full { Refusal::Full } else { Refusal::Stopping });
        }
        node.stats.connections_accepted.one();
        let serving = connection::serve(Arc::clone(&node), connection);
        node.serving.spawn(serving);
    }

    /// Tells a connection why it is not served, and closes it. When very many are being told, it is dropped instead.
    pub fn refuse(&self, connection: Connection, why: Refusal) {
        self.note_refused(why);
        let node = &self.node;
        let Ok(place) = Arc::clone(&node.refusing).try_acquire_owned() else { return };
        node.spawn(async move {
            connection::refuse(connection, why).await;
            drop(place);
        });
    }

    /// Counts a connection that was refused before it came here.
    pub fn note_refused(&self, why: Refusal) {
        self.node.stats.connections_refused.one();
        self.node.stats.refused_by.one(&Refusal::ALL, &why);
    }

    /// Says what has become of a message of a session: where it is now, and the steps that the trace has of it. For
    /// operators alone: it names users' channels and actions.
    pub fn trace(&self, session: SessionId, question: &TraceQuestion) -> TraceAnswer {
        trace::answer(&self.node, session, question)
    }

    /// Whether a trace is kept, and what it holds.
    pub fn trace_status(&self) -> TraceStatus {
        self.node.trace.status()
    }

    /// Begins to keep a trace, or stops and forgets it.
    pub fn trace_switch(&self, on: bool) -> TraceStatus {
        if self.node.trace.switch(on) {
            tracing::info!(on, "the trace of messages was switched");
        }
        self.node.trace.status()
    }

    /// What memory the process has and may have; a limit of 0 is none. While it has more no session begins and no call
    /// starts, and what is under way can end.
    pub fn memory(&self, used: u64, limit: u64) {
        self.node.limits.memory.read(used, limit);
    }

    /// What the node does and holds now.
    pub fn snapshot(&self) -> Snapshot {
        let node = &self.node;
        let live = node.hub.live() as u64;
        let (queued_frames, queued_bytes) = node.connections.queued();
        let held = node.broker.figures();
        let mut snapshot = Snapshot {
            connections: node.stats.connections(),
            sessions_live: live,
            sessions_waiting: (node.hub.len() as u64).saturating_sub(live),
            calls_running: node.stats.calls_running.value(),
            reply_cache_bytes: node.reply_budget.used(),
            tasks: (node.tasks.len() + node.serving.len()) as u64,
            queued_frames,
            queued_bytes,
            channels: held.channels as u64,
            publication_bytes: held.log_bytes as u64,
            limits: limits::figures(node),
            counters: node.stats.counters(),
            ..Snapshot::default()
        };
        node.stats.labelled(&mut snapshot);
        snapshot
    }

    /// What the node has done, without a look at each connection and session.
    pub fn counters(&self) -> Counters {
        self.node.stats.counters()
    }

    /// Live connections, without a look at each of them.
    pub fn connections(&self) -> u64 {
        self.node.stats.connections().values().sum()
    }

    /// How many sessions the node has, with and without a connection.
    pub fn session_count(&self) -> usize {
        self.node.hub.len()
    }

    /// The sessions of this node by their id, from the one after `after` on, at most so many.
    pub fn sessions(&self, after: Option<SessionId>, limit: usize) -> SessionPage {
        let node = &self.node;
        let (total, page) = node.hub.page(after, limit);
        let next = page.last().filter(|_| page.len() == limit).map(|session| session.id.to_string());
        let sessions = page.iter().map(|session| session.figures(node)).collect();
        SessionPage { total, sessions, next }
    }

    /// Tells every client to go elsewhere (4000) and waits until they are gone, at most until `end`. Who has a call
    /// running is told when the calls have ended, or when there is just the time left to be told: the reply would be lost
    /// with this process. No further call starts. Sessions stay resumable for whoever serves their channels next. Answers what
    /// the deadline cut.
    pub async fn drain(&self, end: Instant) -> Cut {
        let node = &self.node;
        let left = end.saturating_duration_since(Instant::now());
        let calls_end = end - (left / 2).min(LEAVING);
        node.is_stopping.store(true, SeqCst);
        // Calls look in the other order: whoever is not counted yet sees that the node stops.
        fence(SeqCst);
        node.stopping.cancel();
        node.tasks.close();
        node.serving.close();
        node.calls.close();
        let calling = node.hub.calling();
        self.send_away(|handle| !calling.contains(&handle.id));
        // A call that has not ended by then is cut with its connection: nobody is left to take its reply.
        let in_time = tokio::time::timeout_at(calls_end, node.calls.wait()).await;
        let calls = in_time.map_or_else(|_elapsed| node.calls.len(), |()| 0);
        self.send_away(|_| true);
        // In this order: the end of a connection may begin a task.
        let ended = async {
            node.serving.wait().await;
            node.tasks.wait().await;
        };
        let done = tokio::time::timeout_at(end, ended).await;
        let cut = match done {
            Ok(()) => Cut { calls, ..Cut::default() },
            Err(_elapsed) => Cut { connections: node.serving.len(), sessions: node.hub.live(), calls },
        };
        node.events.finish(end).await;
        node.timers.finish(end).await;
        cut
    }

    fn send_away(&self, which: impl Fn(&Handle) -> bool) {
        for handle in self.node.connections.all().iter().filter(|handle| which(handle)) {
            // Jittered, so that ten thousand clients do not come back in one moment.
            let after = rand::random_range(0..1_000);
            handle.end(
                Ending::new(CloseCode::GoingAway, "the node stops: reconnect and resume").after_ms(after),
            );
        }
    }
}

impl Node {
    /// The options in force. Not to be held across an await: they may change.
    pub(crate) fn options(&self) -> Guard<Arc<GatewayOptions>> {
        self.options.load()
    }

    /// Runs a task that the drain waits for.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A call begins; it ends when the token is dropped.
    pub(crate) fn call_begins(&self) -> TaskTrackerToken {
        self.calls.token()
    }

    /// Resolves when the node begins to stop.
    pub(crate) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether it has begun.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// The time for an engine.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: self.uptime(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    /// How long the node runs.
    pub(crate) fn uptime(&self) -> Duration {
        self.origin.elapsed()
    }

    /// An engine's time as the runtime's.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.origin + at
    }

    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Relaxed))
    }

    /// Who writes to this connection where many are written to together.
    pub(crate) fn flusher(&self, id: ConnectionId) -> &Arc<Flusher> {
        &self.flushers[id.0 as usize % self.flushers.len()]
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.lease.id()
    }

    /// Looks at a session without a connection again at this time.
    pub(crate) fn watch_waiting(&self, session: &Arc<Session>, at: Instant) {
        self.waiting.add(session, at);
    }
}

/// Runs until the node stops.
async fn keep_lease(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = node.stopping() => return,
            () = node.lease.keep(node.broker.as_ref()) => {}
        }
        for session in node.hub.all() {
            session.join_anew(&node).await;
        }
    }
}

/// The live connections of a node, by their ids, which they have themselves.
#[derive(Default)]
pub(crate) struct Connections {
    hasher: RandomState,
    handles: Mutex<HashTable<Arc<Handle>>>,
}

impl Connections {
    /// Takes a connection in, once.
    pub(crate) fn insert(&self, handle: &Arc<Handle>) {
        let hash = |handle: &Arc<Handle>| self.hasher.hash_one(handle.id);
        self.handles.lock().insert_unique(hash(handle), Arc::clone(handle), hash);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut handles = self.handles.lock();
        let gone = handles.find_entry(self.hasher.hash_one(id), |handle| handle.id == id);
        // Dropped behind the lock, should it be the last one.
        let gone = gone.map(|known| known.remove().0).ok();
        drop(handles);
        drop(gone);
    }

    fn get(&self, id: ConnectionId) -> Option<Arc<Handle>> {
        self.handles.lock().find(self.hasher.hash_one(id), |handle| handle.id == id).cloned()
    }

    /// Wakes a connection's actor, if it is still there.
    fn wake(&self, id: ConnectionId) {
        if let Some(handle) = self.get(id) {
            handle.wake();
        }
    }

    /// Ends a connection that may be gone already.
    pub(crate) fn end(&self, id: ConnectionId, ending: Ending) {
        if let Some(handle) = self.get(id) {
            handle.end(ending);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.handles.lock().len()
    }

    /// Frames and bytes that wait to be written, without those in channels' logs.
    fn queued(&self) -> (u64, u64) {
        let each = self.all();
        each.iter().map(|handle| handle.queued()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.handles.lock().iter().cloned().collect()
    }
}
