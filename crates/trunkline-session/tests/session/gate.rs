//! The node's limits as an engine meets them: who is asked, who is told, and whose place it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use trunkline_proto::{CloseCode, DownBody, UpBody, UpFrame, wire};
use trunkline_session::engine::{Answer, CallStage, Input, Output};
use trunkline_session::{
    CallGate, ClientSeq, Now, Place, Places, ReplyBudget, RequestRefusal, SessionConfig, TurnedAway,
};

use crate::rig::*;

#[test]
fn the_node_is_asked_once_for_each_call_that_would_run_and_gets_its_place_back() {
    let places = Arc::new(Counted::default());
    let mut rig = Rig::started();
    rig.gate = Box::new(Limited(Arc::clone(&places), 9));
    let running: Vec<Output> = (1..=9).flat_map(|seq| rig.call(seq)).collect();
    assert_eq!(running.len(), 8);
    assert_eq!(places.held(), 9, "eight run and one waits");
    let refused = rig.call(10);
    assert!(
        matches!(&refused[..], [Output::CallRefused(ClientSeq(10), RequestRefusal::InFlight), _]),
        "{refused:?}"
    );
    let told = error(&refused);
    assert_eq!((told.error_code, told.retry_after_ms), (503, 70), "as the node says");
    let stage = |rig: &Rig, seq| rig.engine.call_stage(ClientSeq(seq));
    assert_eq!(
        [1, 9, 10, 11].map(|seq| stage(&rig, seq)),
        [CallStage::Running, CallStage::Waiting, CallStage::Refused, CallStage::Unknown]
    );
    assert_eq!(rig.call(1), [], "what runs is not asked for again");
    assert_eq!(places.asked(), 10);
    let ended = rig.reply(1, "one");
    assert!(matches!(stage(&rig, 1), CallStage::Kept { .. }));
    assert_eq!(numbers(&ended), [9]);
    assert_eq!(replied(&rig.call(1)), "one");
    assert_eq!(places.asked(), 10, "nor what is answered from the cache");
    rig.call(10);
    assert_eq!(places.asked(), 11, "what was refused is");
    // What waits goes with the session; what runs has its place until it ends, wherever that is.
    let mut rig = Rig::started();
    let places = Arc::new(Counted::default());
    rig.gate = Box::new(Limited(Arc::clone(&places), 20));
    let running: Vec<Output> = (1..=10).flat_map(|seq| rig.call(seq)).collect();
    assert_eq!((running.len(), places.held()), (8, 10));
    rig.give(Input::Kick(CloseCode::Kicked.notice("")));
    assert_eq!(places.held(), 8);
    assert_eq!(places.bytes.load(Relaxed), 8 * "a1".len(), "as many as each came with");
    drop(running);
    assert_eq!((places.held(), places.bytes.load(Relaxed)), (0, 0));
}

#[test]
fn other_requests_that_are_refused_are_counted_too() {
    let config = SessionConfig { frames_per_second: 1, frame_burst: 1, ..SessionConfig::default() };
    let mut rig = Rig::with(config, ReplyBudget::default());
    rig.begin();
    let history = || UpBody::History(wire::HistoryRequest { channel: "room:1".into(), ..Default::default() });
    rig.frame(UpFrame::new(5, 0, history()));
    let refused = rig.frame(UpFrame::new(6, 0, history()));
    assert!(matches!(&refused[..], [Output::RequestRefused(RequestRefusal::FrameRate), _]), "{refused:?}");
    assert_eq!(error(&refused).error_code, 429);
}

#[test]
fn a_large_operation_asks_for_room_and_gives_it_back_when_it_has_ended() {
    let publish = |bytes: usize| {
        let data = vec![7; bytes].into();
        UpBody::Publish(wire::PublishRequest { channel: "room:1".into(), data, ..Default::default() })
    };
    let places = Arc::new(Counted::default());
    let mut rig = Rig::started();
    rig.gate = Box::new(Limited(Arc::clone(&places), 2));
    let small = rig.frame(UpFrame::new(1, 0, publish(1_000)));
    assert!(matches!(&small[..], [Output::Operation { .. }]), "{small:?}");
    assert_eq!(places.asked(), 0, "as many as a session may have are no load");
    let large: Vec<Output> =
        (2..4).flat_map(|msg_id| rig.frame(UpFrame::new(msg_id, 0, publish(2_000)))).collect();
    assert_eq!((places.held(), places.bytes.load(Relaxed)), (2, 2 * (2_000 + "room:1".len())));
    let refused = rig.frame(UpFrame::new(4, 0, publish(2_000)));
    let [Output::RequestRefused(RequestRefusal::CallBytes), Output::Send(frame)] = &refused[..] else {
        panic!("{refused:?}")
    };
    let DownBody::ChannelResp(told) = &frame.body else { panic!("{frame:?}") };
    let error = told.error.as_ref().expect("a refusal");
    assert_eq!((error.error_code, error.retry_after_ms), (503, 70), "as the node says");
    let token = UpBody::Refresh(wire::RefreshRequest { auth_token: "a".repeat(2_000) });
    let refused = rig.frame(UpFrame::new(5, 0, token));
    assert!(matches!(&refused[..], [Output::RequestRefused(RequestRefusal::CallBytes), _]), "{refused:?}");
    // The place is the work's: it ends with that, whatever has become of the session.
    rig.give(Input::Kick(CloseCode::Kicked.notice("")));
    assert_eq!(places.held(), 2);
    for output in large {
        let Output::Operation { id, .. } = output else { panic!("{output:?}") };
        rig.give(Input::Answer { id, result: Ok(Answer::Channel(wire::ChannelResponse::default())) });
    }
    assert_eq!((places.held(), places.bytes.load(Relaxed)), (0, 0));
}

/// Counts places.
#[derive(Debug, Default)]
struct Counted {
    held: AtomicUsize,
    bytes: AtomicUsize,
    asked: AtomicUsize,
}

impl Counted {
    fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

impl Places for Counted {
    fn leave(&self, calls: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.held.fetch_sub(calls, Relaxed);
    }
}

/// A node with so many places.
struct Limited(Arc<Counted>, usize);

impl CallGate for Limited {
    fn enter(&self, _: Now, bytes: usize) -> Result<Place, TurnedAway> {
        self.0.asked.fetch_add(1, Relaxed);
        if self.0.held() >= self.1 {
            return Err(TurnedAway { why: RequestRefusal::InFlight, retry_after: Duration::from_millis(70) });
        }
        self.0.held.fetch_add(1, Relaxed);
        self.0.bytes.fetch_add(bytes, Relaxed);
        Ok(Place::held(Arc::<Counted>::clone(&self.0), bytes))
    }

    fn hold(&self, bytes: usize) -> Result<Place, TurnedAway> {
        self.0.asked.fetch_add(1, Relaxed);
        if self.0.held() >= self.1 {
            return Err(TurnedAway {
                why: RequestRefusal::CallBytes,
                retry_after: Duration::from_millis(70),
            });
        }
        self.0.held.fetch_add(1, Relaxed);
        self.0.bytes.fetch_add(bytes, Relaxed);
        Ok(Place::held(Arc::<Counted>::clone(&self.0), bytes))
    }
}
