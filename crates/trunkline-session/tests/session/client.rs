//! The client's engine by itself, against frames that a right node sends, and some that it would not.

use std::time::Duration;

use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{
    BusinessResponse, ChannelGap, ChannelPosition, ChannelRefusal, ChannelResponse, ErrorMessage,
    HeartbeatResponse, Publication, PublishRequest, StartRequest, StartResponse, Verdict, stop_request,
};
use trunkline_proto::{CloseCode, DownBody, DownFrame, ErrorCode, UpBody, UpFrame};
use trunkline_session::client::{
    CallEnd, CallId, ClientCall, ClientConfig, ClientInput, ClientOutput, Dropped, Refusal, Request,
    WantReply,
};
use trunkline_session::{ClientEngine, Now};

use crate::rig::position;

struct Rig {
    engine: ClientEngine,
    now: Now,
    fence: u64,
}

impl Rig {
    fn new() -> Self {
        let config = ClientConfig {
            user: "a".into(),
            instance: 42,
            ack_every: 3,
            ack_after: Duration::from_millis(500),
            queue: 100,
            ..ClientConfig::default()
        };
        let now = Now { at: Duration::from_secs(50), unix_ms: 1_000_000 };
        Rig { engine: ClientEngine::new(config), now, fence: 0 }
    }

    fn live() -> Self {
        let mut rig = Rig::new();
        rig.begin(&[position("user:a", 1, 5), position("all", 1, 9)]);
        rig
    }

    fn outputs(&mut self) -> Vec<ClientOutput> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    fn give(&mut self, input: ClientInput) -> Vec<ClientOutput> {
        self.engine.handle_input(self.now, input);
        self.outputs()
    }

    fn down(&mut self, msg_id: u32, body: DownBody) -> Vec<ClientOutput> {
        self.give(ClientInput::Frame(DownFrame::new(msg_id, body)))
    }

    /// Connects; answers the START.
    fn connect(&mut self) -> (u32, StartRequest) {
        let outputs = self.give(ClientInput::Connected);
        let [ClientOutput::Send(UpFrame { msg_id, body: UpBody::Start(start), .. })] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        (*msg_id, StartRequest::clone(start))
    }

    fn started(&mut self, msg_id: u32, response: StartResponse) -> Vec<ClientOutput> {
        self.down(msg_id, DownBody::StartResp(response.into()))
    }

    fn response(&mut self, verdict: Verdict, positions: &[ChannelPosition]) -> StartResponse {
        self.fence += 1;
        StartResponse {
            success: true,
            heartbeat_interval: 25,
            session_id: "s1".into(),
            resume_token: format!("token-{}", self.fence),
            verdict: verdict as i32,
            positions: positions.to_vec(),
            fence: self.fence,
            ..StartResponse::default()
        }
    }

    fn begin(&mut self, positions: &[ChannelPosition]) -> Vec<ClientOutput> {
        let (msg_id, _) = self.connect();
        let response = self.response(Verdict::Fresh, positions);
        self.started(msg_id, response)
    }

    fn call(&mut self, action: &str, reply: WantReply) -> (CallId, Vec<UpFrame>) {
        let mut call = ClientCall { reply, ..ClientCall::default() };
        call.request.action = action.into();
        let id = self.engine.call(self.now, call).unwrap();
        (id, sent(&self.outputs()))
    }

    fn request(&mut self, request: Request) -> Vec<UpFrame> {
        self.engine.request(self.now, request).unwrap();
        sent(&self.outputs())
    }

    fn publication(&mut self, channel: &str, epoch: u64, offset: u64) -> Vec<ClientOutput> {
        let body = DownBody::Publication(Publication { data: "x".into(), ..Publication::default() });
        self.give(ClientInput::Frame(DownFrame::publication(position(channel, epoch, offset), body)))
    }

    fn pass(&mut self, time: Duration) -> Vec<ClientOutput> {
        let until = self.now.at + time;
        let mut outputs = Vec::new();
        while let Some(next) = self.engine.next_timeout().filter(|next| *next <= until) {
            self.now.at = next;
            outputs.extend(self.give(ClientInput::Timeout));
        }
        self.now.at = until;
        outputs
    }
}

fn sent(outputs: &[ClientOutput]) -> Vec<UpFrame> {
    outputs
        .iter()
        .filter_map(|output| match output {
            ClientOutput::Send(frame) => Some(frame.clone()),
            _ => None,
        })
        .collect()
}

fn numbers(frames: &[UpFrame]) -> Vec<u64> {
    frames
        .iter()
        .filter(|frame| matches!(frame.body, UpBody::Business(_)))
        .map(|frame| frame.seq_id)
        .collect()
}

fn acked(outputs: &[ClientOutput]) -> Vec<(String, u64)> {
    sent(outputs)
        .into_iter()
        .filter_map(|frame| match frame.body {
            UpBody::Ack(ack) => Some(ack.positions),
            _ => None,
        })
        .flatten()
        .map(|position| (position.channel, position.offset))
        .collect()
}

fn business(message: &str) -> DownBody {
    DownBody::BusinessData(BusinessResponse { code: 200, message: message.into(), ..Default::default() })
}

fn error(code: ErrorCode, retry_after_ms: u32, client_seq: u64) -> DownBody {
    DownBody::Error(ErrorMessage { retry_after_ms, client_seq, ..code.message("") })
}

fn ended(outputs: &[ClientOutput]) -> Vec<CallId> {
    outputs
        .iter()
        .filter_map(|output| match output {
            ClientOutput::CallEnded(id, _) => Some(*id),
            _ => None,
        })
        .collect()
}

fn end_of(outputs: &[ClientOutput], of: CallId) -> &CallEnd {
    let ends: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            ClientOutput::CallEnded(id, end) if *id == of => Some(end),
            _ => None,
        })
        .collect();
    let [end] = ends[..] else { panic!("{outputs:?}") };
    end
}

fn cut(rig: &mut Rig) -> Vec<ClientOutput> {
    rig.give(ClientInput::Disconnected(None))
}

#[test]
fn a_start_says_who_and_where_and_its_proof_is_the_first_frame_up() {
    let mut rig = Rig::new();
    let (msg_id, start) = rig.connect();
    assert_eq!((start.openid.as_str(), start.protocol, start.instance, start.attempt), ("a", 1, 42, 1));
    assert!(start.resume_token.is_empty() && start.positions.is_empty());
    rig.call("early", WantReply::Yes);
    let response = rig.response(Verdict::Fresh, &[position("all", 1, 9)]);
    let outputs = rig.started(msg_id, response);
    let frames = sent(&outputs);
    assert!(matches!(&frames[0].body, UpBody::Ack(ack) if ack.start_fence == 1), "{frames:?}");
    assert_eq!(numbers(&frames), [1]);

    rig.publication("all", 1, 12);
    cut(&mut rig);
    let (_, start) = rig.connect();
    assert_eq!((start.resume_token.as_str(), start.attempt, start.last_sent_client_seq), ("token-1", 2, 1));
    assert_eq!(start.positions, [position("all", 1, 12)]);
}

#[test]
fn publications_are_delivered_once_and_in_order_and_what_is_wrong_is_dropped_aloud() {
    let mut rig = Rig::live();
    assert!(matches!(&rig.publication("all", 1, 12)[..], [ClientOutput::Publication { .. }]));
    for old in [12, 11, 1] {
        let outputs = rig.publication("all", 1, old);
        assert!(matches!(outputs[..], [ClientOutput::Dropped(Dropped::Duplicate(_))]), "{outputs:?}");
    }
    let older_epoch = rig.publication("all", 0, 99);
    assert!(matches!(older_epoch[..], [ClientOutput::Dropped(Dropped::Duplicate(_))]), "{older_epoch:?}");
    let stray = rig.publication("room:9", 1, 1);
    assert_eq!(stray, [ClientOutput::Dropped(Dropped::Stray)]);
    let outputs = rig.publication("all", 2, 1);
    let [ClientOutput::Gap(gap), ClientOutput::Publication { .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((gap.epoch, gap.offset, &gap.next), (1, 12, &Some(position("all", 2, 0))));
    for body in [DownBody::Unknown("99".into()), business("nobody asked")] {
        let outputs = rig.down(77, body);
        assert_eq!(outputs, [ClientOutput::Dropped(Dropped::Unexpected)]);
    }
}

#[test]
fn a_channel_that_begins_after_an_empty_position_is_no_gap() {
    let mut rig = Rig::new();
    rig.begin(&[position("room:1", 5, 0), position("room:2", 5, 0)]);
    // (5, 0) means "from the first publication after 5": this is it.
    let outputs = rig.publication("room:1", 7, 1);
    assert!(matches!(outputs[..], [ClientOutput::Publication { .. }]), "{outputs:?}");
    cut(&mut rig);
    let (msg_id, _) = rig.connect();
    let response = rig.response(Verdict::Resumed, &[position("room:1", 7, 1), position("room:2", 9, 0)]);
    let outputs = rig.started(msg_id, response);
    assert!(!outputs.iter().any(|output| matches!(output, ClientOutput::Gap(_))), "{outputs:?}");
    assert!(rig.engine.positions().contains(&position("room:2", 9, 0)));
}

#[test]
fn s3_a_gap_while_connected_moves_the_position_and_is_told_once() {
    let mut rig = Rig::live();
    let next = Some(position("all", 1, 40));
    let gap = ChannelGap { channel: "all".into(), epoch: 1, offset: 9, next };
    assert_eq!(rig.down(0, DownBody::Gap(gap.clone())), [ClientOutput::Gap(gap.clone())]);
    let again = rig.down(0, DownBody::Gap(gap));
    assert!(matches!(again[..], [ClientOutput::Dropped(Dropped::Duplicate(_))]));
    assert!(rig.engine.positions().contains(&position("all", 1, 40)));
}

#[test]
fn start_resp_tells_gaps_and_a_jump_that_it_does_not_tell_is_told_too() {
    let mut rig = Rig::live();
    cut(&mut rig);
    let (msg_id, _) = rig.connect();
    let told = ChannelGap { channel: "all".into(), epoch: 1, offset: 9, next: Some(position("all", 3, 0)) };
    let mut response = rig.response(Verdict::Gap, &[position("all", 3, 0), position("user:a", 1, 50)]);
    response.gaps = vec![told.clone()];
    let outputs = rig.started(msg_id, response);
    let gaps: Vec<_> = outputs.iter().filter(|output| matches!(output, ClientOutput::Gap(_))).collect();
    let next = Some(position("user:a", 1, 50));
    let untold = ChannelGap { channel: "user:a".into(), epoch: 1, offset: 5, next };
    assert_eq!(gaps, [&ClientOutput::Gap(told), &ClientOutput::Gap(untold)]);

    // A channel that is no longer live, and one that goes back: what comes again was delivered before.
    cut(&mut rig);
    let (msg_id, _) = rig.connect();
    let mut response = rig.response(Verdict::Resumed, &[position("user:a", 1, 40)]);
    let error = Some(ErrorCode::Forbidden.message("no right"));
    response.refused = vec![ChannelRefusal { channel: "all".into(), error }];
    let outputs = rig.started(msg_id, response);
    assert!(
        outputs.iter().any(|output| matches!(output, ClientOutput::Left { channel, .. } if channel == "all"))
    );
    assert_eq!(rig.engine.positions(), [position("user:a", 1, 50)]);
}

#[test]
fn acks_leave_after_so_many_or_so_long_and_tell_what_moved() {
    let mut rig = Rig::live();
    assert_eq!(acked(&rig.publication("all", 1, 10)), []);
    assert_eq!(acked(&rig.publication("all", 1, 11)), []);
    assert_eq!(acked(&rig.publication("all", 1, 12)), [("all".to_owned(), 12)], "three");
    rig.publication("user:a", 1, 6);
    assert_eq!(acked(&rig.pass(Duration::from_millis(499))), []);
    assert_eq!(acked(&rig.pass(Duration::from_millis(1))), [("user:a".to_owned(), 6)], "half a second");
    assert_eq!(acked(&rig.pass(Duration::from_secs(20))), []);
    rig.publication("user:a", 1, 7);
    rig.engine.ack_now();
    assert_eq!(acked(&rig.outputs()), [("user:a".to_owned(), 7)]);
}

#[test]
fn o1_a_group_is_given_in_order_and_a_second_time_not_at_all() {
    let mut rig = Rig::live();
    let (id, frames) = rig.call("x", WantReply::Yes);
    let msg_id = frames[0].msg_id;
    let inner = |msg_id, text| DownFrame::new(msg_id, business(text));
    let group = || DownBody::Group(vec![inner(0, "before"), inner(msg_id, "reply"), inner(0, "after")]);
    let outputs = rig.down(msg_id, group());
    let [
        ClientOutput::Push(before),
        ClientOutput::CallEnded(ended, CallEnd::Reply { response, .. }),
        ClientOutput::Push(after),
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    let order = [&before.message, &response.message, &after.message];
    assert_eq!((*ended, order), (id, [&"before".to_owned(), &"reply".to_owned(), &"after".to_owned()]));
    assert_eq!(rig.down(msg_id, group()), [ClientOutput::Dropped(Dropped::Unexpected)]);
}

#[test]
fn c12_calls_without_answer_are_sent_again_with_their_numbers_and_their_ends_are_told_apart() {
    let mut rig = Rig::live();
    let (one, frames) = rig.call("one", WantReply::Yes);
    rig.call("two", WantReply::Yes);
    let (three, _) = rig.call("three", WantReply::Yes);
    rig.down(frames[0].msg_id, business("r"));
    cut(&mut rig);
    let (msg_id, start) = rig.connect();
    assert_eq!(start.last_sent_client_seq, 3);
    let mut response = rig.response(Verdict::Resumed, &[]);
    response.last_client_seq = 2;
    let frames = sent(&rig.started(msg_id, response));
    assert_eq!(numbers(&frames), [2, 3]);
    let msg_ids: Vec<_> = frames.iter().filter(|frame| frame.seq_id > 0).map(|frame| frame.msg_id).collect();
    let outputs = rig.down(msg_ids[1], error(ErrorCode::ResultUnknown, 0, 0));
    assert!(matches!(end_of(&outputs, three), CallEnd::ResultUnknown(_)));
    let outputs = rig.down(msg_ids[0], error(ErrorCode::UpstreamFailed, 0, 0));
    assert!(matches!(outputs[..], [ClientOutput::CallEnded(id, CallEnd::Error(_))] if id != one));
    assert_eq!(rig.call("four", WantReply::Yes).1[0].seq_id, 4, "numbers are never used again");
}

#[test]
fn s5_a_refused_call_is_sent_again_when_it_was_told_to_and_not_before() {
    let mut rig = Rig::live();
    let (id, frames) = rig.call("x", WantReply::Yes);
    let msg_id = frames[0].msg_id;
    let outputs = rig.down(msg_id, error(ErrorCode::Overloaded, 120, 0));
    assert!(
        matches!(&outputs[..], [ClientOutput::CallRefused(of, why)] if *of == id && why.error_code == 503),
        "who gives up now can say why: {outputs:?}"
    );
    assert_eq!(rig.pass(Duration::from_millis(119)), []);
    assert_eq!(numbers(&sent(&rig.pass(Duration::from_millis(1)))), [1]);
    rig.down(msg_id, error(ErrorCode::RateLimited, 50, 0));
    assert_eq!(numbers(&sent(&rig.pass(Duration::from_millis(50)))), [1]);
    let outputs = rig.down(msg_id, business("at last"));
    assert!(matches!(end_of(&outputs, id), CallEnd::Reply { .. }));
}

#[test]
fn no_number_is_more_than_63_above_the_oldest_without_answer() {
    let mut rig = Rig::live();
    let mut frames = Vec::new();
    for n in 0..70 {
        frames.extend(rig.call(&format!("c{n}"), WantReply::Yes).1);
    }
    assert_eq!(numbers(&frames).last(), Some(&64));
    let second = frames[1].msg_id;
    assert_eq!(numbers(&sent(&rig.down(second, business("r")))), [0; 0], "the oldest has no answer yet");
    // 503 is no final answer.
    rig.down(frames[0].msg_id, error(ErrorCode::Overloaded, 9999, 0));
    assert_eq!(numbers(&sent(&rig.outputs())), [0; 0]);
    rig.pass(Duration::from_secs(10));
    assert_eq!(numbers(&sent(&rig.down(frames[0].msg_id, business("r")))), [65, 66]);
}

#[test]
fn a_queue_that_is_full_refuses_and_an_abandoned_call_ends_in_silence() {
    let mut rig = Rig::new();
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(rig.call(&format!("c{n}"), WantReply::Yes).0);
    }
    let refused = rig.engine.call(rig.now, ClientCall::default());
    assert_eq!(refused, Err(Refusal::QueueFull));
    rig.engine.abandon(ids[0]);
    let frames = sent(&rig.begin(&[]));
    assert_eq!(numbers(&frames).len(), 64);
    rig.engine.abandon(ids[1]);
    let first = frames.iter().find(|frame| frame.seq_id == 1).unwrap().msg_id;
    assert_eq!(ended(&rig.down(first, business("r"))), []);
}

#[test]
fn a_call_without_reply_ends_when_the_gateway_has_it_and_its_error_is_still_told() {
    let mut rig = Rig::live();
    let (one, frames) = rig.call("one", WantReply::ErrorsOnly);
    assert_eq!(frames[0].msg_id, 0);
    let (two, _) = rig.call("two", WantReply::ErrorsOnly);
    let outputs = rig.down(0, error(ErrorCode::Forbidden, 0, 2));
    assert!(matches!(end_of(&outputs, two), CallEnd::Error(_)));
    let beat = rig.pass(Duration::from_secs(25));
    assert!(sent(&beat).iter().any(|frame| matches!(frame.body, UpBody::Heartbeat(_))));
    let (three, _) = rig.call("three", WantReply::ErrorsOnly);
    let outputs = rig.down(9, DownBody::HeartbeatResp(HeartbeatResponse::default()));
    assert_eq!(
        (ended(&outputs), end_of(&outputs, one)),
        (vec![one], &CallEnd::Received),
        "not the third yet"
    );
    let outputs = rig.down(0, error(ErrorCode::UpstreamTimeout, 0, 1));
    assert!(matches!(outputs[..], [ClientOutput::LateError(id, _)] if id == one));

    cut(&mut rig);
    let (msg_id, _) = rig.connect();
    let mut response = rig.response(Verdict::Resumed, &[]);
    response.last_client_seq = 2;
    assert_eq!(
        numbers(&sent(&rig.started(msg_id, response))),
        [3],
        "what the node has not seen is sent again"
    );
    cut(&mut rig);
    let (msg_id, _) = rig.connect();
    let mut response = rig.response(Verdict::Resumed, &[]);
    response.last_client_seq = 3;
    let outputs = rig.started(msg_id, response);
    assert_eq!(end_of(&outputs, three), &CallEnd::Received);
}

#[test]
fn a_window_full_of_calls_without_reply_asks_with_a_heartbeat() {
    let mut rig = Rig::live();
    let mut frames = Vec::new();
    for n in 0..65 {
        frames.extend(rig.call(&format!("c{n}"), WantReply::ErrorsOnly).1);
    }
    let beats: Vec<_> = frames.iter().filter(|frame| matches!(frame.body, UpBody::Heartbeat(_))).collect();
    assert_eq!((numbers(&frames).len(), beats.len()), (64, 1));
    let outputs = rig.down(beats[0].msg_id, DownBody::HeartbeatResp(HeartbeatResponse::default()));
    assert_eq!((ended(&outputs).len(), numbers(&sent(&outputs))), (64, vec![65]));
}

#[test]
fn s10_heartbeats_leave_as_told_and_a_silent_gateway_is_left() {
    let mut rig = Rig::live();
    let beats = |outputs: &[ClientOutput]| {
        sent(outputs).iter().filter(|frame| matches!(frame.body, UpBody::Heartbeat(_))).count()
    };
    assert_eq!(beats(&rig.pass(Duration::from_millis(24_999))), 0);
    assert_eq!(beats(&rig.pass(Duration::from_millis(1))), 1);
    assert_eq!(beats(&rig.pass(Duration::from_millis(37_499))), 1);
    let outputs = rig.pass(Duration::from_millis(1));
    let [ClientOutput::Close { code: 4002 }, ClientOutput::Lost(lost)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(lost.advice, Advice::Resume);
    assert_eq!(rig.engine.next_timeout(), None);
}

#[test]
fn a_start_without_answer_is_given_up_and_its_late_answer_ignored() {
    let mut rig = Rig::new();
    let (msg_id, _) = rig.connect();
    let outputs = rig.pass(Duration::from_secs(10));
    assert!(matches!(outputs[..], [ClientOutput::Close { .. }, ClientOutput::Lost(_)]), "{outputs:?}");
    let response = rig.response(Verdict::Fresh, &[]);
    assert_eq!(rig.started(msg_id, response), []);
    let (again, start) = rig.connect();
    assert!(again != msg_id && start.attempt == 2);
}

#[test]
fn closing_codes_say_what_to_do() {
    let lost = |code: CloseCode, after: u32| {
        let mut rig = Rig::live();
        rig.call("x", WantReply::Yes);
        let mut notice = code.notice("why");
        notice.reconnect_after_ms = after;
        assert_eq!(rig.down(0, DownBody::Close(notice)), []);
        let outputs = rig.give(ClientInput::Disconnected(Some(1006)));
        let ends = ended(&outputs).len();
        let Some(ClientOutput::Lost(lost)) = outputs.last().cloned() else { panic!("{outputs:?}") };
        assert_eq!((lost.code, lost.reason.as_str()), (Some(code.number()), "why"));
        (lost, ends, rig)
    };
    let (resume, ends, mut rig) = lost(CloseCode::GoingAway, 700);
    assert_eq!((resume.advice, ends), (Advice::Resume, 0));
    assert_eq!(resume.reconnect_after, Some(Duration::from_millis(700)));
    assert_eq!(rig.connect().1.resume_token, "token-1");

    let (fresh, ends, mut rig) = lost(CloseCode::TokenUsed, 0);
    assert_eq!((fresh.advice, ends), (Advice::Fresh, 0));
    let (_, start) = rig.connect();
    assert!(start.resume_token.is_empty());
    assert_eq!(start.positions.len(), 2, "what they have lost is told by the fresh session");

    for code in [CloseCode::Replaced, CloseCode::BadFrame] {
        let (away, ends, mut rig) = lost(code, 0);
        assert_eq!((away.advice, ends), (code.advice(), 1), "its call has ended: the client is closed");
        assert!(rig.engine.is_closed());
        assert_eq!(rig.give(ClientInput::Connected), []);
        assert_eq!(rig.engine.call(rig.now, ClientCall::default()), Err(Refusal::Closed));
    }
}

#[test]
fn s7_a_refused_start_is_followed_by_its_close() {
    let mut rig = Rig::new();
    let (msg_id, _) = rig.connect();
    let error = Some(ErrorCode::Unauthenticated.message("the token has expired"));
    assert_eq!(rig.started(msg_id, StartResponse { error, ..StartResponse::default() }), []);
    let notice = CloseCode::Unauthenticated.notice("the token has expired");
    rig.down(0, DownBody::Close(notice));
    let outputs = rig.give(ClientInput::Disconnected(None));
    assert!(matches!(&outputs[..], [ClientOutput::Lost(lost)] if lost.advice == Advice::StayAway));
}

#[test]
fn requests_are_kept_over_a_cut_and_what_start_has_done_is_answered() {
    let mut rig = Rig::live();
    let subscribe = |channel: &str| Request::Subscribe { channel: channel.into(), since: None };
    let unsubscribe = |channel: &str| Request::Unsubscribe { channel: channel.into() };
    let frames = rig.request(subscribe("room:1"));
    let joined = ChannelResponse { channel: "room:1".into(), epoch: 4, offset: 7, ..Default::default() };
    rig.down(frames[0].msg_id, DownBody::ChannelResp(joined));
    assert!(rig.engine.positions().contains(&position("room:1", 4, 7)));

    let publish = PublishRequest { channel: "room:1".into(), ..PublishRequest::default() };
    let frames = rig.request(Request::Publish(publish));
    let UpBody::Publish(first) = &frames[0].body else { panic!("{frames:?}") };
    assert!(!first.idempotency_key.is_empty(), "so that it can be sent again");
    rig.request(unsubscribe("room:1"));
    rig.request(subscribe("room:2"));
    rig.request(unsubscribe("room:2"));
    cut(&mut rig);
    let (msg_id, start) = rig.connect();
    assert!(start.positions.iter().all(|position| position.channel != "room:1"), "it is to be left");
    let response = rig.response(Verdict::Resumed, &[position("user:a", 1, 5), position("all", 1, 9)]);
    let outputs = rig.started(msg_id, response);
    let frames: Vec<_> = sent(&outputs).into_iter().skip(1).map(|frame| frame.body).collect();
    let [UpBody::Publish(again), UpBody::Subscribe(two), UpBody::Unsubscribe(two_left)] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert_eq!(again, first);
    assert_eq!((two.channel.as_str(), two_left.channel.as_str()), ("room:2", "room:2"), "in their order");
    let answered = outputs.iter().filter(|output| matches!(output, ClientOutput::Answered(_, Ok(_)))).count();
    assert_eq!(answered, 1, "room:1 is left: {outputs:?}");
    assert!(!outputs.iter().any(|output| matches!(output, ClientOutput::Gap(_))), "{outputs:?}");
}

#[test]
fn what_since_has_lost_is_told_with_the_answer_even_if_the_gap_behind_is_cut_off() {
    let mut rig = Rig::live();
    let since = Some(crate::rig::at(4, 2));
    let frames = rig.request(Request::Subscribe { channel: "room:1".into(), since });
    let joined = ChannelResponse { channel: "room:1".into(), epoch: 4, offset: 7, ..Default::default() };
    let outputs = rig.down(frames[0].msg_id, DownBody::ChannelResp(joined));
    let next = Some(position("room:1", 4, 7));
    let gap = ChannelGap { channel: "room:1".into(), epoch: 4, offset: 2, next };
    assert_eq!(outputs[1..], [ClientOutput::Gap(gap.clone())]);
    let again = rig.down(0, DownBody::Gap(gap));
    assert!(matches!(again[..], [ClientOutput::Dropped(_)]), "once");
}

#[test]
fn a_refresh_is_answered_and_the_next_start_has_the_new_token() {
    let mut rig = Rig::live();
    let frames = rig.request(Request::Refresh { auth_token: "new".into() });
    let good = StartResponse { success: true, ..StartResponse::default() };
    let outputs = rig.started(frames[0].msg_id, good);
    assert!(matches!(outputs[..], [ClientOutput::Answered(_, Ok(_))]));
    assert_eq!(rig.engine.session_id(), "s1", "nothing else of the session changes");
    cut(&mut rig);
    assert_eq!(rig.connect().1.auth_token, "new");
}

#[test]
fn a_refused_refresh_changes_nothing_and_the_next_start_has_the_token_that_was_good() {
    let mut rig = Rig::live();
    rig.engine.set_auth_token("old".into());
    let frames = rig.request(Request::Refresh { auth_token: "bad".into() });
    let error = Some(ErrorCode::Unauthenticated.message("no"));
    let refused =
        DownBody::StartResp(Box::new(StartResponse { success: false, error, ..StartResponse::default() }));
    let outputs = rig.down(frames[0].msg_id, refused);
    assert!(matches!(outputs[..], [ClientOutput::Answered(_, Err(_))]), "{outputs:?}");
    cut(&mut rig);
    assert_eq!(rig.connect().1.auth_token, "old");
}

/// A refresh that a cut left without answer goes with the next START.
fn refreshing_through_a_cut(rig: &mut Rig) -> u32 {
    rig.engine.set_auth_token("old".into());
    rig.request(Request::Refresh { auth_token: "new".into() });
    cut(rig);
    let (msg_id, start) = rig.connect();
    assert_eq!(start.auth_token, "new");
    msg_id
}

#[test]
fn a_start_that_is_refused_for_the_token_of_a_refresh_is_made_again_with_the_old_one() {
    let mut rig = Rig::live();
    let msg_id = refreshing_through_a_cut(&mut rig);
    let error = Some(ErrorCode::Unauthenticated.message("expired"));
    rig.down(msg_id, DownBody::StartResp(Box::new(StartResponse { error, ..StartResponse::default() })));
    let outputs = rig.give(ClientInput::Disconnected(Some(4302)));
    let [ClientOutput::Answered(_, Err(error)), ClientOutput::Lost(lost)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((error.error_code, error.error_message.as_str()), (401, "expired"));
    assert_eq!((lost.advice, lost.code), (Advice::Resume, Some(4302)));
    assert_eq!(rig.connect().1.auth_token, "old");
    // Without a refresh the same refusal is the end.
    let outputs = rig.give(ClientInput::Disconnected(Some(4302)));
    assert!(matches!(&outputs[..], [ClientOutput::Lost(lost)] if lost.advice == Advice::StayAway));
    assert!(rig.engine.is_closed());
}

#[test]
fn a_refresh_asked_for_while_a_start_is_under_way_is_not_answered_by_it() {
    let mut rig = Rig::live();
    let msg_id = refreshing_through_a_cut(&mut rig);
    assert_eq!(rig.request(Request::Refresh { auth_token: "newer".into() }), [], "there is no session");
    let good = StartResponse { success: true, ..StartResponse::default() };
    let outputs = rig.started(msg_id, good);
    let answered = outputs.iter().filter(|output| matches!(output, ClientOutput::Answered(..))).count();
    assert_eq!(answered, 1, "the one whose token START had");
    let sent: Vec<_> = sent(&outputs).into_iter().map(|frame| frame.body.clone()).collect();
    assert!(
        sent.iter().any(|body| matches!(body, UpBody::Refresh(refresh) if refresh.auth_token == "newer")),
        "{sent:?}"
    );
}

#[test]
fn a_few_replies_are_acked_after_a_while() {
    let mut rig = Rig::live();
    let (_, frames) = rig.call("x", WantReply::Yes);
    rig.down(frames[0].msg_id, DownBody::BusinessData(BusinessResponse::default()));
    let due = rig.engine.next_timeout().unwrap();
    assert_eq!(due, rig.now.at + Duration::from_millis(500));
    rig.now.at = due;
    let outputs = rig.give(ClientInput::Timeout);
    let UpBody::Ack(ack) = &sent(&outputs)[0].body else { panic!("{outputs:?}") };
    assert_eq!(ack.replied_client_seq, 1);
    assert!(rig.engine.next_timeout().unwrap() > due + Duration::from_secs(1), "told once");
}

#[test]
fn a_service_s_join_and_a_withdrawal_are_told() {
    let mut rig = Rig::live();
    let joined = ChannelResponse { channel: "room:9".into(), epoch: 2, offset: 3, ..Default::default() };
    let outputs = rig.down(0, DownBody::ChannelResp(joined));
    assert_eq!(outputs, [ClientOutput::Joined(position("room:9", 2, 3))]);
    assert!(matches!(rig.publication("room:9", 2, 4)[..], [ClientOutput::Publication { .. }]));
    let error = Some(ErrorCode::Forbidden.message("no more"));
    let left = ChannelResponse { channel: "room:9".into(), error, ..Default::default() };
    assert!(matches!(&rig.down(0, DownBody::ChannelResp(left))[..], [ClientOutput::Left { .. }]));
    assert_eq!(rig.publication("room:9", 2, 5), [ClientOutput::Dropped(Dropped::Stray)]);
}

#[test]
fn s9_stop_ends_everything_that_is_open() {
    let mut rig = Rig::live();
    let (sent_call, _) = rig.call("x", WantReply::Yes);
    rig.engine.stop(stop_request::Reason::UserLogout);
    let outputs = rig.outputs();
    assert!(matches!(sent(&outputs)[0].body, UpBody::Stop(_)));
    assert!(matches!(end_of(&outputs, sent_call), CallEnd::ResultUnknown(_)));
    assert!(rig.engine.is_closed());
}

#[test]
fn positions_of_a_former_run_are_given_at_the_first_start() {
    let mut rig = Rig::new();
    rig.engine.restore([position("room:1", 4, 7)]);
    assert_eq!(rig.connect().1.positions, [position("room:1", 4, 7)]);
}
