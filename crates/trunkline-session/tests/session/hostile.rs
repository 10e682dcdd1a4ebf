//! Frames with any values in any order: whatever a peer sends, neither engine panics, and each ends what it began.

use std::time::Duration;

use proptest::prelude::*;
use trunkline_proto::wire::{
    BusinessRequest, BusinessResponse, ChannelGap, ChannelPosition, ChannelRequest, ChannelResponse,
    ClientAck, CloseNotice, ErrorMessage, HeartbeatRequest, HeartbeatResponse, HistoryRequest, Publication,
    PublishRequest, RefreshRequest, StartResponse, StopRequest,
};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_session::client::{ClientCall, ClientConfig, ClientInput, ClientOutput, Request};
use trunkline_session::engine::{Answer, CallOutcome, Input, Output};
use trunkline_session::{Channel, ClientEngine, ConnectionId, Now, Protocol, Seq};

use crate::rig::{Rig, at, reply};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..5_u64, 2 => 60..70_u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..4_u32, 1 => Just(u32::MAX)]
}

fn channel() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "all", "user:a", "user:b", "room:1", "room:2", "session:x"])
        .prop_map(str::to_owned)
}

fn position() -> impl Strategy<Value = ChannelPosition> {
    (channel(), number(), number()).prop_map(|(channel, epoch, offset)| ChannelPosition {
        channel,
        epoch,
        offset,
    })
}

fn positions() -> impl Strategy<Value = Vec<ChannelPosition>> {
    prop::collection::vec(position(), 0..4)
}

fn up_body() -> impl Strategy<Value = UpBody> {
    let request = || {
        (channel(), prop::option::of(position()))
            .prop_map(|(channel, since)| ChannelRequest { channel, since })
    };
    let ack = (number(), positions(), number(), number()).prop_map(
        |(acked_seq_id, positions, replied_client_seq, start_fence)| ClientAck {
            acked_seq_id,
            positions,
            replied_client_seq,
            start_fence,
        },
    );
    prop_oneof![
        1 => Just(UpBody::Start(Box::default())),
        1 => Just(UpBody::Stop(StopRequest { reason: i32::MIN })),
        1 => Just(UpBody::Heartbeat(HeartbeatRequest { client_timestamp: i64::MIN })),
        9 => small().prop_map(|n| UpBody::Business(BusinessRequest { action: n.to_string(), ..Default::default() })),
        3 => ack.prop_map(UpBody::Ack),
        2 => request().prop_map(UpBody::Subscribe),
        2 => request().prop_map(UpBody::Unsubscribe),
        1 => channel().prop_map(|channel| UpBody::Publish(PublishRequest { channel, ..Default::default() })),
        1 => channel().prop_map(|channel| UpBody::History(HistoryRequest { channel, ..Default::default() })),
        1 => request().prop_map(UpBody::Presence),
        1 => Just(UpBody::Refresh(RefreshRequest::default())),
        1 => Just(UpBody::Unknown("77".into())),
    ]
}

/// What happens to the server's engine.
#[derive(Debug, Clone)]
enum Step {
    Frame(Box<UpFrame>),
    Undecodable,
    Start { positions: Vec<ChannelPosition>, last_sent: u64, seed: bool, expires_at: Option<u64> },
    Cut,
    EndCalls,
    Answer,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let header =
        prop::sample::select(vec![("x-order", "request"), ("x-order", ""), ("x-timeout-ms", "-1"), ("", "")]);
    let frame = (small(), number(), header, up_body()).prop_map(|(msg_id, seq_id, header, body)| {
        let headers = [(header.0.to_owned(), header.1.to_owned())].into();
        Step::Frame(Box::new(UpFrame { msg_id, seq_id, headers, body }))
    });
    let start = (positions(), number(), any::<bool>(), prop::option::of(number())).prop_map(
        |(positions, last_sent, seed, expires_at)| Step::Start { positions, last_sent, seed, expires_at },
    );
    prop_oneof![
        20 => frame,
        1 => Just(Step::Undecodable),
        2 => start,
        1 => Just(Step::Cut),
        6 => Just(Step::EndCalls),
        3 => Just(Step::Answer),
        2 => (0..200_000_u64).prop_map(Step::Pass),
    ]
}

#[derive(Default)]
struct UnderWay {
    calls: Vec<u64>,
    operations: Vec<trunkline_session::engine::OperationId>,
    connected: Option<ConnectionId>,
}

impl UnderWay {
    fn note(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Call(call) => {
                    assert!(!self.calls.contains(&call.seq.0), "call {} runs twice at once", call.seq);
                    self.calls.push(call.seq.0);
                }
                Output::Operation { id, .. } => self.operations.push(*id),
                Output::Send(frame) => assert!(self.connected.is_some(), "sent to nobody: {frame:?}"),
                Output::Close { connection, .. } => {
                    assert_eq!(self.connected.take(), Some(*connection), "closed twice, or another's");
                }
                _ => {}
            }
        }
    }
}

fn take(rig: &mut Rig, way: &mut UnderWay, step: Step) {
    let outputs = match step {
        Step::Frame(frame) => rig.frame(*frame),
        Step::Undecodable => rig.give(Input::Undecodable { fence: rig.fence, detail: "x".into() }),
        Step::Start { positions, last_sent, seed, expires_at } => {
            let mut facts = rig.facts();
            facts.protocol = if seed { Protocol::Seed } else { Protocol::Trunkline };
            facts.positions = positions;
            facts.last_sent_client_seq.0 = last_sent;
            facts.last_acked_seq = Seq(last_sent);
            facts.expires_at = expires_at;
            let connection = facts.connection;
            let outputs = rig.give(Input::Start(Box::new(facts)));
            let [Output::StartAccepted(accepted)] = &outputs[..] else { return };
            way.connected = Some(connection);
            let (fence, attach) = (accepted.fence, accepted.attach.clone());
            rig.attach_raw(fence, attach)
        }
        Step::Cut => {
            way.connected = None;
            rig.cut()
        }
        Step::EndCalls => {
            let mut outputs = Vec::new();
            for (n, seq) in std::mem::take(&mut way.calls).into_iter().enumerate() {
                let code = [503, 429, 502, 520][n % 4];
                let error = ErrorMessage { error_code: code, ..ErrorMessage::default() };
                let outcome = if n % 5 < 3 { reply("r") } else { CallOutcome::Error(error) };
                let ended = rig.end(seq, outcome);
                way.note(&ended);
                outputs.push(());
            }
            return;
        }
        Step::Answer => {
            for id in std::mem::take(&mut way.operations) {
                let answer = Answer::Subscribed { position: at(1, u64::MAX), gap: None };
                let answered = rig.give(Input::Answer { id, result: Ok(answer) });
                way.note(&answered);
            }
            let channel = Channel::from("room:2");
            rig.give(Input::Joined { channel, position: at(3, 3) })
        }
        Step::Pass(ms) => rig.pass(Duration::from_millis(ms)),
    };
    way.note(&outputs);
}

fn down_body() -> impl Strategy<Value = DownBody> {
    let error = || {
        (small(), number(), prop::sample::select(vec![400, 429, 503, 520, -1])).prop_map(
            |(retry_after_ms, client_seq, error_code)| ErrorMessage {
                error_code,
                retry_after_ms,
                client_seq,
                ..ErrorMessage::default()
            },
        )
    };
    let gap = || {
        (position(), prop::option::of(position())).prop_map(|(at, next)| ChannelGap {
            channel: at.channel,
            epoch: at.epoch,
            offset: at.offset,
            next,
        })
    };
    let start = (any::<bool>(), positions(), prop::collection::vec(gap(), 0..3), number(), any::<i32>())
        .prop_map(|(success, positions, gaps, last_client_seq, n)| StartResponse {
            success,
            positions,
            gaps,
            last_client_seq,
            heartbeat_interval: n,
            verdict: n,
            ..StartResponse::default()
        });
    let response = (position(), prop::option::of(error())).prop_map(|(at, error)| ChannelResponse {
        channel: at.channel,
        epoch: at.epoch,
        offset: at.offset,
        error,
        ..ChannelResponse::default()
    });
    let reply = || DownFrame::new(2, DownBody::BusinessData(BusinessResponse::default()));
    prop_oneof![
        6 => start.prop_map(|start| DownBody::StartResp(start.into())),
        1 => Just(DownBody::HeartbeatResp(HeartbeatResponse::default())),
        3 => Just(DownBody::BusinessData(BusinessResponse::default())),
        3 => error().prop_map(DownBody::Error),
        2 => response.prop_map(DownBody::ChannelResp),
        3 => Just(DownBody::Publication(Publication::default())),
        1 => small().prop_map(|n| DownBody::Close(CloseNotice { code: 3999 + n % 600, ..Default::default() })),
        2 => gap().prop_map(DownBody::Gap),
        1 => Just(DownBody::Group(vec![reply(), reply(), DownFrame::new(0, DownBody::Group(vec![reply()]))])),
        1 => Just(DownBody::Unknown("99".into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_client_makes_the_engine_panic_send_to_nobody_or_run_a_call_twice_at_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut rig = Rig::new();
        let mut way = UnderWay::default();
        take(&mut rig, &mut way, Step::Start { positions: vec![], last_sent: 0, seed: false, expires_at: None });
        for step in steps {
            take(&mut rig, &mut way, step);
        }
    }

    #[test]
    fn no_gateway_makes_the_client_panic_or_end_a_call_twice(
        frames in prop::collection::vec((small(), prop::option::of(position()), down_body(), 0..40_000_u64), 1..120),
    ) {
        let mut engine = ClientEngine::new(ClientConfig { instance: 1, ..ClientConfig::default() });
        let mut now = Now { at: Duration::ZERO, unix_ms: 0 };
        let mut open = 0_i64;
        for (msg_id, position, body, ms) in frames {
            now.at += Duration::from_millis(ms);
            if engine.next_timeout().is_some_and(|at| at <= now.at) {
                engine.handle_input(now, ClientInput::Timeout);
            }
            if !engine.is_live() && msg_id == 3 {
                engine.handle_input(now, ClientInput::Disconnected(None));
                engine.handle_input(now, ClientInput::Connected);
            }
            if engine.call(now, ClientCall::default()).is_ok() {
                open += 1;
            }
            let _closed = engine.request(now, Request::Subscribe { channel: "room:1".into(), since: None });
            let frame = DownFrame { position, ..DownFrame::new(msg_id, body) };
            engine.handle_input(now, ClientInput::Frame(frame));
            while let Some(output) = engine.poll_output() {
                if let ClientOutput::CallEnded(..) = output {
                    open -= 1;
                }
            }
            prop_assert!(open >= 0);
        }
        engine.stop(trunkline_proto::wire::stop_request::Reason::AppClose);
        while let Some(output) = engine.poll_output() {
            if let ClientOutput::CallEnded(..) = output {
                open -= 1;
            }
        }
        prop_assert_eq!(open, 0, "every call has ended once");
    }
}
