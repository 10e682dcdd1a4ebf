//! The handle that programs hold: it turns method calls into requests for the client's one task.
//!
//! It keeps no protocol state; that is the task's, which never waits for a handle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use trunkline_proto::wire::{self, BusinessRequest, ChannelResponse};
use trunkline_session::client::{ClientCall, Request, WantReply};

use crate::actor::{Actor, LastRefusal};
use crate::defaults;
use crate::error::{CallError, ConnectError};
use crate::event::{Closed, Position, Publication, Push};
use crate::options::Options;
use crate::unread::{EventQueue, Pushes};

/// A client of a gateway: one session, kept alive over any number of connections by one task.
///
/// Clones are handles of the same client. When the last handle is dropped the task ends and its connection is
/// cut: nothing more is read, and the gateway keeps the session for its resume window. [`Client::stop`] ends
/// the session as well. [`Pushes`] keep no client alive.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use trunkline_client::{Client, Event, Options};
///
/// let options = Options::new("alice", "eyJhbGciOi…").endpoint("tcp://127.0.0.1:8090".parse()?);
/// let client = Client::connect(options).await?;
/// let mut pushes = client.pushes();
///
/// let reply = client.call("echo").param("a", "1").data("hello").send().await?;
/// println!("{} {}", reply.code, reply.message);
///
/// while let Some(event) = pushes.next().await {
///     if let Event::Push(push) = event {
///         println!("{}: {}", push.title, push.content);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: mpsc::Sender<Wanted>,
    control: mpsc::Sender<Control>,
    events: Arc<EventQueue>,
    ended: Arc<Mutex<Option<Closed>>>,
    call_timeout: Duration,
    /// The task is tracked so that nothing is detached; it ends by itself when the senders above are gone.
    #[allow(dead_code, reason = "it owns the task's place")]
    tasks: TaskTracker,
}

/// What the task is asked for.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A call.
    Call { call: ClientCall, caller: Caller },
    /// Any request that is no call.
    Request { request: Request, answer: oneshot::Sender<Result<ChannelResponse, CallError>> },
}

/// Who waits for a reply.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) answer: oneshot::Sender<Result<Reply, CallError>>,
    pub(crate) refused: Arc<LastRefusal>,
    pub(crate) on_refusal: OnRefusal,
}

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Control {
    /// End the session, answer when it is done.
    Stop(oneshot::Sender<()>),
    /// Cut the connection.
    Cut,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The service's own code; 200 is success by custom.
    pub code: i32,
    /// A line for people.
    pub message: String,
    /// The body.
    pub data: Bytes,
    /// Headers of the reply.
    pub headers: HashMap<String, String>,
    /// Pushes that the service bound before this reply, in order. They are not among the client's events.
    pub before: Vec<Push>,
    /// Pushes that it bound after this reply.
    pub after: Vec<Push>,
}

/// The answer to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// Delivery goes on after this.
    pub position: Position,
    /// Everything since the position that was asked for is still there. If not, [`crate::Event::Gap`] follows.
    pub recovered: bool,
}

/// Somebody on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: String,
    /// Which of the user's sessions.
    pub session: String,
    /// What the member says of itself.
    pub info: Bytes,
}

impl Client {
    /// Connects and starts a session. Needs a tokio runtime.
    ///
    /// Reconnecting after that goes by itself, until a close code says to stay away. Dropping the future abandons the
    /// attempt.
    ///
    /// # Errors
    /// No endpoint answers, or the gateway refuses. A first attempt is not repeated: what is wrong then is mostly
    /// an address or a token.
    pub async fn connect(options: Options) -> Result<Client, ConnectError> {
        let (requests, request_queue) = mpsc::channel(defaults::QUEUED_REQUESTS);
        // Stopping and cutting are rare, and both are done at once.
        let (control, control_queue) = mpsc::channel(4);
        let events = Arc::new(EventQueue::new(options.event_bytes));
        let ended = Arc::new(Mutex::new(None));
        let call_timeout = options.call_timeout;
        let mut actor =
            Actor::new(options, Arc::clone(&events), Arc::clone(&ended), request_queue, control_queue);
        actor.start_first().await?;
        let tasks = TaskTracker::new();
        tasks.spawn(actor.run());
        Ok(Client { shared: Arc::new(Shared { requests, control, events, ended, call_timeout, tasks }) })
    }

    /// A call of an action, to be completed and sent.
    pub fn call(&self, action: impl Into<String>) -> Call {
        let request = BusinessRequest { action: action.into(), ..BusinessRequest::default() };
        Call {
            client: self.clone(),
            request,
            headers: HashMap::new(),
            timeout: self.shared.call_timeout,
            on_refusal: OnRefusal::Repeat,
        }
    }

    /// The client's events. They wait from the first START on, so none is missed by asking late.
    pub fn pushes(&self) -> Pushes {
        Pushes::new(Arc::clone(&self.shared.events))
    }

    /// Subscribes to a channel, from `since` or from now on. The client keeps the subscription over reconnections.
    ///
    /// # Errors
    /// The user may not, or there is no answer in time.
    pub async fn subscribe(&self, channel: &str, since: Option<Position>) -> Result<Subscribed, CallError> {
        let since =
            since.map(|since| trunkline_session::Position { epoch: since.epoch, offset: since.offset });
        let response = self.request(Request::Subscribe { channel: channel.to_owned(), since }).await?;
        let position =
            Position { channel: channel.to_owned(), epoch: response.epoch, offset: response.offset };
        Ok(Subscribed { position, recovered: response.recovered })
    }

    /// Leaves a channel.
    ///
    /// # Errors
    /// There is no answer in time.
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), CallError> {
        self.request(Request::Unsubscribe { channel: channel.to_owned() }).await.map(drop)
    }

    /// Publishes to a channel; the place of the publication. It is published once, also if the connection is lost
    /// on the way and the request is sent again.
    ///
    /// # Errors
    /// The user may not, or there is no answer in time (it may be published then).
    pub async fn publish(&self, channel: &str, data: impl Into<Bytes>) -> Result<Position, CallError> {
        self.publish_once(channel, data, "").await
    }

    /// The same with an idempotency key of the program's own, so that it can be repeated after a restart.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_once(
        &self,
        channel: &str,
        data: impl Into<Bytes>,
        key: impl Into<String>,
    ) -> Result<Position, CallError> {
        let request = wire::PublishRequest {
            channel: channel.to_owned(),
            data: data.into(),
            idempotency_key: key.into(),
        };
        let response = self.request(Request::Publish(request)).await?;
        Ok(Position { channel: channel.to_owned(), epoch: response.epoch, offset: response.offset })
    }

    /// Up to `limit` publications that a channel's history still has, after `since` or from its oldest; with
    /// `Order::NewestFirst` before `since` or from its newest.
    ///
    /// # Errors
    /// The user may not, or there is no answer in time.
    pub async fn history(
        &self,
        channel: &str,
        since: Option<Position>,
        limit: u32,
        order: Order,
    ) -> Result<Vec<Publication>, CallError> {
        let request = wire::HistoryRequest {
            channel: channel.to_owned(),
            since: since.map(Into::into),
            limit,
            reverse: order == Order::NewestFirst,
        };
        let response = self.request(Request::History(request)).await?;
        let epoch = response.epoch;
        let publications = response.publications.into_iter().map(|publication| Publication {
            position: Position { channel: channel.to_owned(), epoch, offset: publication.offset },
            data: publication.data,
            timestamp: publication.timestamp,
            sender: publication.sender,
        });
        Ok(publications.collect())
    }

    /// Who is on a channel now.
    ///
    /// # Errors
    /// The user may not, or there is no answer in time.
    pub async fn presence(&self, channel: &str) -> Result<Vec<Member>, CallError> {
        let response = self.request(Request::Presence { channel: channel.to_owned() }).await?;
        let member = |member: wire::Member| Member {
            user: member.user,
            session: member.session_id,
            info: member.info,
        };
        Ok(response.members.into_iter().map(member).collect())
    }

    /// Gives the gateway a new token before the old one expires; it is used for every START from now on. A refused
    /// one changes nothing.
    ///
    /// # Errors
    /// The token is refused, or there is no answer in time.
    pub async fn refresh(&self, token: impl Into<String>) -> Result<(), CallError> {
        self.request(Request::Refresh { auth_token: token.into() }).await.map(drop)
    }

    /// Ends the session: the gateway forgets it, the task ends, and [`crate::Event::Closed`] is the last event.
    /// Waits until that is done, a few seconds at most.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.shared.control.send(Control::Stop(answer)).await.is_ok() {
            // An error means that the task has ended meanwhile, which is what was wanted.
            let _ = done.await;
        }
    }

    /// Cuts the connection without a word, as a network would, to see the client come back. Does nothing while there
    /// is none.
    pub async fn cut(&self) {
        // An error means that the task has ended, and its connection with it.
        let _ = self.shared.control.send(Control::Cut).await;
    }

    async fn request(&self, request: Request) -> Result<ChannelResponse, CallError> {
        let (answer, answered) = oneshot::channel();
        let after = self.shared.call_timeout;
        let asked = self.ask(Wanted::Request { request, answer }, answered, after).await;
        asked.unwrap_or(Err(CallError::TimedOut { after, refused: None }))
    }

    /// Hands a request to the task, waiting while its queue is full, and waits for the answer; `None` when the time is
    /// over.
    async fn ask<T>(
        &self,
        wanted: Wanted,
        answered: oneshot::Receiver<Result<T, CallError>>,
        timeout: Duration,
    ) -> Option<Result<T, CallError>> {
        let whole = async {
            if self.shared.requests.send(wanted).await.is_err() {
                return Err(self.ended());
            }
            answered.await.unwrap_or_else(|_| Err(self.ended()))
        };
        tokio::time::timeout(timeout, whole).await.ok()
    }

    fn ended(&self) -> CallError {
        let closed = self.shared.ended.lock().clone();
        CallError::Closed(closed.unwrap_or(Closed { code: None, reason: "the client has ended".into() }))
    }
}

/// Which end of a history is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As it was published.
    OldestFirst,
    /// Backwards.
    NewestFirst,
}

/// A call that is being put together; nothing happens before [`Call::send`].
#[derive(Debug)]
#[must_use = "a call that is not sent does nothing"]
pub struct Call {
    client: Client,
    request: BusinessRequest,
    headers: HashMap<String, String>,
    timeout: Duration,
    on_refusal: OnRefusal,
}

/// What becomes of a call that the gateway refuses for now, with 503 or 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnRefusal {
    /// It is sent again when the gateway says, until its time is over.
    Repeat,
    /// That is its answer.
    Tell,
}

impl Call {
    /// A named argument.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.params.insert(name.into(), value.into());
        self
    }

    /// The body.
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.request.data = data.into();
        self
    }

    /// A header, such as `x-order: request`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// How long to wait for the reply; the gateway is told too, unless a header `x-timeout-ms` says otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.headers.entry("x-timeout-ms".into()).or_insert_with(|| millis.to_string());
        self
    }

    /// Ends with [`CallError::Refused`] where the gateway refuses the call for now (503 or 429); unless this is said, it
    /// is sent again when the gateway wants it, until the call's time is over.
    pub fn once(mut self) -> Self {
        self.on_refusal = OnRefusal::Tell;
        self
    }

    /// Sends the call and waits for its reply, over reconnections if need be. It runs once: where the gateway cannot
    /// tell whether it ran, the result is [`CallError::ResultUnknown`].
    ///
    /// Dropping the future gives up waiting; the call may run all the same.
    ///
    /// # Errors
    /// See [`CallError`]. A service's own code is no error: it is [`Reply::code`].
    pub async fn send(self) -> Result<Reply, CallError> {
        let (answer, answered) = oneshot::channel();
        let call = ClientCall { request: self.request, headers: self.headers, reply: WantReply::Yes };
        let refused = Arc::new(LastRefusal::default());
        let caller = Caller { answer, refused: Arc::clone(&refused), on_refusal: self.on_refusal };
        let wanted = Wanted::Call { call, caller };
        let asked = self.client.ask(wanted, answered, self.timeout).await;
        asked.unwrap_or_else(|| {
            Err(CallError::TimedOut { after: self.timeout, refused: refused.lock().take() })
        })
    }
}
