//! The rooms, and what can be done in them: a use of every power that a service has.
//!
//! | action | parameters | what it shows |
//! |---|---|---|
//! | `room.join`, `room.leave` | `room` | a service subscribes a session to a channel, and takes it off |
//! | `room.say` | `room`; data | a publication, once however often the call is repeated |
//! | `room.who` | `room` | presence |
//! | `room.count` | `room` | state of the service's own |
//! | `room.whisper` | `to`; data | a push to a user, with what became of it |
//! | `room.bell` | – | pushes bound to the reply: one from inside the call, one with the reply |
//! | `room.shout` | data | a push to everybody |
//! | `room.kick` | `user` | a disconnection, for admins; for others a failure with a code |
//! | `room.seen` | – | the session events of the caller's session |
//!
//! Everything is in memory and bounded.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use trunkline_service::{
    Call, Caller, Code, Context, ContextError, PublishOptions, Push, PushOutcome, Reply, Role, Service,
    SessionEvent, Status, SyncHint, Target,
};

/// A client that joins closes with this code when it is kicked: KICKED, stay away.
const KICKED: u32 = 4304;
/// Rooms that are counted; more are refused.
const MAX_ROOMS: usize = 10_000;
/// Sessions whose events are kept; of more the newest are not.
const MAX_SESSIONS: usize = 10_000;
/// Events kept for each of them.
const MAX_EVENTS: usize = 16;

/// See the module.
#[derive(Default)]
pub struct Rooms {
    context: OnceLock<Arc<dyn Context>>,
    said: Mutex<HashMap<String, u64>>,
    seen: Mutex<HashMap<String, Vec<&'static str>>>,
}

impl Rooms {
    fn context(&self) -> Result<&dyn Context, Status> {
        let context = self.context.get().ok_or_else(|| Status::new(Code::Internal, "not mounted yet"))?;
        Ok(context.as_ref())
    }

    async fn join(&self, caller: &Caller, call: &Call) -> Result<Reply, Status> {
        let channel = channel(call)?;
        self.context()?.subscribe(me(caller), &channel).await.map_err(failed)?;
        Ok(Reply::ok(channel))
    }

    async fn leave(&self, caller: &Caller, call: &Call) -> Result<Reply, Status> {
        let left = self.context()?.unsubscribe(me(caller), &channel(call)?).await.map_err(failed)?;
        Ok(Reply::ok(left.to_string()))
    }

    async fn say(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        let channel = channel(&call)?;
        // (session, number) names the call, so that one that is sent again after a cut is heard once.
        let key = format!("{}/{}", caller.session, call.client_seq);
        let said =
            self.context()?.publish(&channel, call.data, PublishOptions::keyed(key)).await.map_err(failed)?;
        let mut rooms = self.said.lock();
        if rooms.len() >= MAX_ROOMS && !rooms.contains_key(&channel) {
            return Ok(Reply::code(507, "too many rooms"));
        }
        let count = rooms.entry(channel).or_default();
        *count += 1;
        let mut reply = Reply::ok(count.to_string());
        reply.headers.insert("offset".to_owned(), said.1.to_string());
        Ok(reply)
    }

    async fn who(&self, call: &Call) -> Result<Reply, Status> {
        let members = self.context()?.presence(&channel(call)?).await.map_err(failed)?;
        let users: BTreeSet<String> = members.into_iter().map(|member| member.user).collect();
        Ok(Reply::ok(users.into_iter().collect::<Vec<_>>().join(" ")))
    }

    fn count(&self, call: &Call) -> Result<Reply, Status> {
        let channel = channel(call)?;
        Ok(Reply::ok(self.said.lock().get(&channel).copied().unwrap_or_default().to_string()))
    }

    async fn whisper(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        let to = param(&call, "to")?.to_owned();
        let push = Push {
            msg_type: "whisper".to_owned(),
            title: caller.user.clone(),
            data: call.data,
            ..Push::default()
        };
        let outcome = self.context()?.push(Target::User(to), push).await.map_err(failed)?;
        Ok(Reply::ok(word(outcome)))
    }

    /// Two ways to the same frame: a push from inside the call, and one that goes with the reply.
    async fn bell(&self, caller: &Caller, call: &Call) -> Result<Reply, Status> {
        let ring = |title: &str, hint| Push {
            msg_type: "bell".to_owned(),
            title: title.to_owned(),
            hint,
            bind_client_seq: call.client_seq,
            ..Push::default()
        };
        let before = ring("before", SyncHint::BeforeResponse);
        let outcome = self.context()?.push(me(caller), before).await.map_err(failed)?;
        let pushes = vec![(me(caller), ring("after", SyncHint::AfterResponse))];
        Ok(Reply { pushes, ..Reply::ok(word(outcome)) })
    }

    async fn shout(&self, call: Call) -> Result<Reply, Status> {
        let push = Push { msg_type: "shout".to_owned(), data: call.data, ..Push::default() };
        let heard = self.context()?.broadcast(None, push).await.map_err(failed)?;
        Ok(Reply::ok(heard.to_string()))
    }

    async fn kick(&self, caller: &Caller, call: &Call) -> Result<Reply, Status> {
        if caller.role != Role::Admin {
            return Err(Status::new(Code::Forbidden, "only an admin may kick"));
        }
        let user = Target::User(param(call, "user")?.to_owned());
        let count = self.context()?.disconnect(user, KICKED, "kicked by an admin").await.map_err(failed)?;
        Ok(Reply::ok(count.to_string()))
    }

    fn seen(&self, caller: &Caller) -> Reply {
        let seen = self.seen.lock();
        Reply::ok(seen.get(&caller.session).map(|events| events.join(" ")).unwrap_or_default())
    }
}

#[async_trait]
impl Service for Rooms {
    fn action_prefix(&self) -> &str {
        "room."
    }

    fn mounted(&self, context: Arc<dyn Context>) {
        // It is called once; another context would lead to the same gateway.
        let _already = self.context.set(context);
    }

    fn is_idempotent(&self, action: &str) -> bool {
        matches!(action, "room.join" | "room.leave" | "room.who" | "room.count" | "room.seen")
    }

    async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        match call.action.as_str() {
            "room.join" => self.join(caller, &call).await,
            "room.leave" => self.leave(caller, &call).await,
            "room.say" => self.say(caller, call).await,
            "room.who" => self.who(&call).await,
            "room.count" => self.count(&call),
            "room.whisper" => self.whisper(caller, call).await,
            "room.bell" => self.bell(caller, &call).await,
            "room.shout" => self.shout(call).await,
            "room.kick" => self.kick(caller, &call).await,
            "room.seen" => Ok(self.seen(caller)),
            other => Err(Status::new(Code::NotFound, format!("rooms know no action {other:?}"))),
        }
    }

    async fn session_event(&self, caller: &Caller, event: SessionEvent) {
        let mut seen = self.seen.lock();
        let word = match event {
            SessionEvent::Started => "started",
            SessionEvent::Resumed => "resumed",
            SessionEvent::Lost => "lost",
            SessionEvent::Ended(_) => {
                seen.remove(&caller.session);
                return;
            }
        };
        if seen.len() < MAX_SESSIONS || seen.contains_key(&caller.session) {
            let events = seen.entry(caller.session.clone()).or_default();
            if events.len() < MAX_EVENTS {
                events.push(word);
            }
        }
    }
}

fn me(caller: &Caller) -> Target {
    Target::Session(caller.session.clone())
}

fn param<'a>(call: &'a Call, name: &str) -> Result<&'a str, Status> {
    let value = call.params.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| Status::new(Code::BadRequest, format!("the parameter {name} is missing")))
}

fn channel(call: &Call) -> Result<String, Status> {
    Ok(format!("room:{}", param(call, "room")?))
}

/// What the gateway refuses is passed on under its own name.
fn failed(error: ContextError) -> Status {
    Status::new(Code::from_name(&error.code).unwrap_or(Code::Internal), error.message)
}

fn word(outcome: PushOutcome) -> String {
    format!("{outcome:?}").to_lowercase()
}
