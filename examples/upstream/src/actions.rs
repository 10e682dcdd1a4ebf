//! The actions: hello, logout, echo, time, calculate, status, user_list, broadcast, before, after; any other is 404.
//!
//! Everything is said through [`Context`], so that the same code could run in the gateway's process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use trunkline_service::{
    Call, Caller, Code, Context, ContextError, Push, PushOutcome, Reply, Service, SessionEvent, Status,
    SyncHint, Target,
};

use crate::calculate::calculate;
use crate::clock;

/// Actions that may run twice: they change nothing.
pub(crate) const IDEMPOTENT: [&str; 5] = ["echo", "time", "calculate", "status", "user_list"];
/// Users who said hello. Beyond it hello is refused: the list is in memory.
const MAX_USERS: usize = 100_000;
/// `user_list` names so many of them, so that its reply fits a frame.
const MAX_LISTED: usize = 1_000;

/// See the module.
pub struct Actions {
    context: OnceLock<Arc<dyn Context>>,
    /// By user: the session that said hello, and when.
    users: Mutex<BTreeMap<String, (String, i64)>>,
    started: Instant,
    /// What hello tells as the user's zone.
    zone: u32,
}

impl Actions {
    /// A service of these zones. Hello tells the one that it serves; which of several a user is in only the gateway
    /// knows, so it then tells 1, the first.
    pub fn of_zones(zones: &[String]) -> Self {
        let zone = match zones {
            [zone] => zone.parse().unwrap_or(1),
            _ => 1,
        };
        Actions { context: OnceLock::new(), users: Mutex::default(), started: Instant::now(), zone }
    }

    /// How many users said hello and have not left.
    pub fn users(&self) -> usize {
        self.users.lock().len()
    }

    /// Pushes to everybody who is connected; answers how many live sessions that were.
    pub async fn broadcast(&self, text: &str) -> Result<u32, ContextError> {
        let push = Push {
            msg_type: "broadcast".to_owned(),
            title: "System message".to_owned(),
            content: text.to_owned(),
            data: text.to_owned().into(),
            ..Push::default()
        };
        self.context()?.broadcast(None, push).await
    }

    fn context(&self) -> Result<&Arc<dyn Context>, ContextError> {
        self.context.get().ok_or_else(|| ContextError {
            code: Code::Internal.name().to_owned(),
            message: "the service is not mounted".to_owned(),
            ..ContextError::default()
        })
    }

    fn hello(&self, caller: &Caller, call: &Call) -> Reply {
        if caller.user.is_empty() {
            return Reply::code(400, "hello needs a user");
        }
        let mut users = self.users.lock();
        if users.len() >= MAX_USERS && !users.contains_key(&caller.user) {
            return Reply::code(507, "too many users are here");
        }
        users.insert(caller.user.clone(), (caller.session.clone(), clock::unix_seconds()));
        let name = call.params.get("name").filter(|name| !name.is_empty()).unwrap_or(&caller.user);
        let mut reply = text(format!("Hello, {name}! Users here: {}", users.len()));
        // The seed's gateway reads both: who to push to, and a zone as a number.
        reply.headers.insert("gid".to_owned(), caller.user.clone());
        reply.headers.insert("zone".to_owned(), self.zone.to_string());
        reply
    }

    fn logout(&self, caller: &Caller) -> Reply {
        let mut users = self.users.lock();
        users.remove(&caller.user);
        text(format!("Good-bye. Users here: {}", users.len()))
    }

    async fn echo(&self, call: Call) -> Reply {
        let to = |name: &str| call.params.get(name).filter(|id| !id.is_empty()).cloned();
        let target =
            to("demo_unicast_gid").map(Target::Group).or(to("demo_unicast_openid").map(Target::User));
        let mut data = b"Echo: ".to_vec();
        data.extend_from_slice(&call.data);
        let mut reply = Reply::ok(data);
        if let Some(target) = target {
            let push = Push { data: call.data.clone(), ..demo("echo", "Echo push", "you said this") };
            note(&mut reply, self.push(target, push).await);
        }
        reply
    }

    fn time() -> Reply {
        let now = clock::unix_seconds();
        let mut reply = text(clock::text(now));
        reply.headers.insert("timezone".to_owned(), "UTC".to_owned());
        reply.headers.insert("unix".to_owned(), now.to_string());
        reply
    }

    fn status(&self) -> Reply {
        let uptime = self.started.elapsed().as_secs();
        let mut reply = text(format!(
            "service: upstream-server\nstatus: healthy\nuptime_seconds: {uptime}\nusers: {}\ncurrent_time: {}\n",
            self.users(),
            clock::text(clock::unix_seconds()),
        ));
        reply.headers.insert("uptime".to_owned(), format!("{uptime}s"));
        reply
    }

    fn user_list(&self) -> Reply {
        let users = self.users.lock();
        let mut list = format!("Users here: {}\n", users.len());
        for (user, (_, since)) in users.iter().take(MAX_LISTED) {
            // Writing to a String cannot fail.
            let _infallible = writeln!(list, "OpenID: {user}, since {}", clock::text(*since));
        }
        let mut reply = text(list);
        reply.headers.insert("user_count".to_owned(), users.len().to_string());
        reply
    }

    async fn broadcast_now(&self, call: &Call) -> Reply {
        let message = call.params.get("message").map_or("System message", String::as_str);
        match self.broadcast(message).await {
            Ok(count) => {
                let mut reply = text(format!("The message went to {count} sessions"));
                reply.headers.insert("user_count".to_owned(), count.to_string());
                reply
            }
            Err(error) => Reply::code(502, format!("the broadcast failed: {error}")),
        }
    }

    /// Pushes from inside the call, bound to its reply: the gateway sends both as one frame, in the hint's order.
    async fn bound(&self, caller: &Caller, call: &Call, hint: SyncHint, name: &str) -> Reply {
        let message = call.params.get("message").map_or("bound push", String::as_str);
        let push = Push {
            hint,
            bind_client_seq: call.client_seq,
            data: format!("notify_{name}_data").into(),
            ..demo(&format!("{name}_test"), &format!("Notify {name} response"), message)
        };
        let mut reply = text(format!("Response of {name}: {message}"));
        note(&mut reply, self.push(Target::Session(caller.session.clone()), push).await);
        reply.headers.insert("test-type".to_owned(), name.to_owned());
        reply
    }

    async fn push(&self, target: Target, push: Push) -> Result<PushOutcome, ContextError> {
        self.context()?.push(target, push).await
    }
}

#[async_trait]
impl Service for Actions {
    fn action_prefix(&self) -> &str {
        ""
    }

    fn mounted(&self, context: Arc<dyn Context>) {
        // A service is mounted once; a second context would be the same gateway's.
        let _already = self.context.set(context);
    }

    fn is_idempotent(&self, action: &str) -> bool {
        IDEMPOTENT.contains(&action)
    }

    async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        Ok(match call.action.as_str() {
            "hello" => self.hello(caller, &call),
            "logout" => self.logout(caller),
            "echo" => self.echo(call).await,
            "time" => Actions::time(),
            "calculate" => calculate(&call.params),
            "status" => self.status(),
            "user_list" => self.user_list(),
            "broadcast" => self.broadcast_now(&call).await,
            "before" => self.bound(caller, &call, SyncHint::BeforeResponse, "before").await,
            "after" => self.bound(caller, &call, SyncHint::AfterResponse, "after").await,
            _ => Reply::code(
                404,
                "no such action: hello, logout, echo, time, calculate, status, user_list, broadcast, before and after are known",
            ),
        })
    }

    async fn session_event(&self, caller: &Caller, event: SessionEvent) {
        if let SessionEvent::Ended(_) = event {
            let mut users = self.users.lock();
            if users.get(&caller.user).is_some_and(|(session, _)| *session == caller.session) {
                users.remove(&caller.user);
            }
        }
    }
}

fn text(data: String) -> Reply {
    let mut reply = Reply::ok(data);
    reply.headers.insert("content-type".to_owned(), "text/plain".to_owned());
    reply
}

fn demo(msg_type: &str, title: &str, content: &str) -> Push {
    Push { msg_type: msg_type.into(), title: title.into(), content: content.into(), ..Push::default() }
}

/// Says in the reply what became of a push.
fn note(reply: &mut Reply, outcome: Result<PushOutcome, ContextError>) {
    let text = match outcome {
        Ok(outcome) => format!("{outcome:?}").to_lowercase(),
        Err(error) => error.code,
    };
    reply.headers.insert("notify".to_owned(), text);
}
