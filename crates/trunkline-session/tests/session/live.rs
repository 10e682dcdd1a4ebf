//! A session that is live: acks, channels, operations, silence, expiry, STOP, kicks, bad frames.

use std::time::Duration;

use trunkline_proto::wire::{
    ChannelGap, ChannelRefusal, ChannelRequest, ChannelResponse, ClientAck, HeartbeatRequest, HistoryRequest,
    PublishRequest, RefreshRequest,
};
use trunkline_proto::{CloseCode, DownBody, ErrorCode, UpBody, UpFrame};
use trunkline_session::engine::{
    Answer, ChannelKind, Event, Input, Operation, OperationId, Output, StartFacts,
};
use trunkline_session::{Channel, Protocol, ReplyBudget, Seq, SessionConfig};

use crate::rig::*;

fn up(msg_id: u32, body: UpBody) -> UpFrame {
    UpFrame::new(msg_id, 0, body)
}

fn subscribe(channel: &str, since: Option<u64>) -> UpBody {
    let since = since.map(|offset| position(channel, 1, offset));
    UpBody::Subscribe(ChannelRequest { channel: channel.into(), since })
}

fn unsubscribe(channel: &str) -> UpBody {
    UpBody::Unsubscribe(ChannelRequest { channel: channel.into(), since: None })
}

fn operation(outputs: &[Output]) -> (OperationId, &Operation) {
    let [Output::Operation { id, operation }] = outputs else { panic!("{outputs:?}") };
    (*id, operation)
}

fn channel_response(outputs: &[Output]) -> (u32, &ChannelResponse) {
    let frame = sent(outputs);
    let DownBody::ChannelResp(response) = &frame.body else { panic!("{frame:?}") };
    (frame.msg_id, response)
}

fn refusal(outputs: &[Output]) -> i32 {
    channel_response(outputs).1.error.as_ref().expect("refused").error_code
}

fn acks(positions: &[(&str, u64, u64)]) -> ClientAck {
    let positions =
        positions.iter().map(|(channel, epoch, offset)| position(channel, *epoch, *offset)).collect();
    ClientAck { positions, ..ClientAck::default() }
}

#[test]
fn s4_c4_an_ack_of_the_future_is_400_changes_nothing_and_the_session_lives() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    rig.sent.positions = [("all".to_owned(), at(5, 30)), ("user:a".to_owned(), at(5, 8))].into();
    for future in [&[("user:a", 5, 8), ("all", 5, 31)][..], &[("all", 6, 1)]] {
        assert_eq!(error(&rig.ack(acks(future))).error_code, 400);
    }
    assert_eq!(rig.ack(acks(&[("all", 5, 30)])), [Output::Acked(vec![position("all", 5, 30)])]);
    assert_eq!(rig.ack(acks(&[("all", 5, 20)])), [], "a lower one is ignored");
    assert_eq!(rig.ack(acks(&[("all", 4, 99)])), [], "so is one of an older epoch");
    assert_eq!(rig.ack(acks(&[("room:left", 5, 99)])), [], "and one for a channel just left");
    rig.cut();
    let facts = rig.resume(&token);
    let (_, attach) = rig.accepted(facts);
    let from: Vec<_> = attach.iter().map(|request| request.from).collect();
    assert_eq!(from, [Some(at(5, 30)), Some(at(1, 0))], "no refused or ignored ack counted");
}

#[test]
fn s4_a_seed_s_ack_of_the_future_is_400_and_the_session_lives() {
    let mut rig = Rig::new();
    let facts = StartFacts { protocol: Protocol::Seed, instance: 0, ..rig.facts() };
    rig.start(facts);
    rig.sent.seq = 17;
    let ack = |acked_seq_id| ClientAck { acked_seq_id, ..ClientAck::default() };
    assert_eq!(error(&rig.ack(ack(18))).error_code, 400);
    assert_eq!(rig.ack(ack(17)), [Output::AckedSeq(Seq(17))]);
    assert_eq!(numbers(&rig.call(1)), [1]);
}

#[test]
fn a_subscription_is_answered_before_it_is_delivered_and_a_gap_follows_it_at_once() {
    let mut rig = Rig::started();
    let outputs = rig.frame(up(3, subscribe("room:1", Some(4))));
    let (id, asked) = operation(&outputs);
    assert_eq!(asked, &Operation::Subscribe { channel: Channel::from("room:1"), since: Some(at(1, 4)) });
    let gap =
        ChannelGap { channel: "room:1".into(), epoch: 1, offset: 4, next: Some(position("room:1", 1, 9)) };
    let answer = Answer::Subscribed { position: at(1, 9), gap: Some(gap.clone()) };
    let outputs = rig.give(Input::Answer { id, result: Ok(answer) });
    let [Output::Send(told), Output::Send(lost), Output::Deliver(channels)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    let DownBody::ChannelResp(told) = &told.body else { panic!("{told:?}") };
    assert_eq!((told.epoch, told.offset, told.recovered), (1, 9, false));
    assert_eq!(lost.body, DownBody::Gap(gap));
    assert_eq!(channels[..], [(Channel::from("room:1"), at(1, 9))]);
    assert_eq!(refusal(&rig.frame(up(4, subscribe("room:1", None)))), 409);

    let outputs = rig.frame(up(5, unsubscribe("room:1")));
    assert!(matches!(&outputs[..], [Output::Detach(_), Output::Send(_)]), "{outputs:?}");
    assert_eq!(refusal(&rig.frame(up(6, unsubscribe("room:1")))), 404);
    assert_eq!(refusal(&rig.frame(up(7, unsubscribe("all")))), 403);
}

#[test]
fn s7_another_s_channel_cannot_be_subscribed() {
    let mut rig = Rig::started();
    for channel in ["user:b", "session:1", "zone:2", "group:3"] {
        assert_eq!(refusal(&rig.frame(up(3, subscribe(channel, None)))), 403, "{channel}");
    }
    assert_eq!(refusal(&rig.frame(up(3, subscribe("", None)))), 400);
}

#[test]
fn an_unsubscription_that_overtakes_its_subscription_takes_effect_behind_it() {
    let mut rig = Rig::started();
    let outputs = rig.frame(up(3, subscribe("room:1", None)));
    let (id, _) = operation(&outputs);
    assert_eq!(rig.frame(up(4, unsubscribe("room:1"))), []);
    let answer = Answer::Subscribed { position: at(1, 9), gap: None };
    let outputs = rig.give(Input::Answer { id, result: Ok(answer) });
    let order: Vec<_> = frames(&outputs).map(|frame| frame.msg_id).collect();
    assert_eq!(order, [3, 4]);
    assert!(outputs.contains(&Output::Detach(Channel::from("room:1"))));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Deliver(_))), "{outputs:?}");
    // And where it fails, both are told.
    let outputs = rig.frame(up(5, subscribe("room:2", None)));
    let (id, _) = operation(&outputs);
    rig.frame(up(6, unsubscribe("room:2")));
    let outputs = rig.give(Input::Answer { id, result: Err(ErrorCode::Forbidden.message("no")) });
    assert_eq!(frames(&outputs).count(), 2);
}

#[test]
fn operations_are_answered_with_their_msg_id_and_are_bounded() {
    let config = SessionConfig { operations: 3, ..SessionConfig::default() };
    let mut rig = Rig::with(config, ReplyBudget::default());
    rig.begin();
    let publish = PublishRequest { channel: "room:1".into(), ..PublishRequest::default() };
    let history = HistoryRequest { channel: "room:1".into(), limit: 5, ..HistoryRequest::default() };
    let presence = ChannelRequest { channel: "room:1".into(), since: None };
    let mut ids = Vec::new();
    for (msg_id, body) in [
        (1, UpBody::Publish(publish)),
        (2, UpBody::History(history)),
        (3, UpBody::Presence(presence.clone())),
    ] {
        let outputs = rig.frame(up(msg_id, body));
        ids.push(operation(&outputs).0);
    }
    assert_eq!(refusal(&rig.frame(up(4, UpBody::Presence(presence)))), 503);
    for (msg_id, id) in [(3, ids[2]), (1, ids[0]), (2, ids[1])] {
        let response = ChannelResponse { channel: "room:1".into(), offset: 8, ..ChannelResponse::default() };
        let outputs = rig.give(Input::Answer { id, result: Ok(Answer::Channel(response.clone())) });
        assert_eq!(channel_response(&outputs), (msg_id, &response));
        assert_eq!(rig.give(Input::Answer { id, result: Ok(Answer::Channel(response)) }), [], "once");
    }
}

#[test]
fn what_a_lost_connection_asked_for_is_not_answered_on_the_next_and_does_not_stay() {
    let subscribed = || Ok(Answer::Subscribed { position: at(1, 9), gap: None });
    let channel = || Channel::from("room:1");
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    let id = operation(&rig.frame(up(3, subscribe("room:1", None)))).0;
    rig.cut();
    let facts = rig.resume(&token);
    rig.start(facts);
    assert_eq!(rig.give(Input::Answer { id, result: subscribed() }), [Output::Detach(channel())]);
    assert!(rig.engine.channels().all(|(channel, _)| &**channel != "room:1"));

    // The next connection has asked for it too: what is attached is wanted.
    let old = operation(&rig.frame(up(3, subscribe("room:1", None)))).0;
    let facts = rig.resume(&token);
    rig.start(facts);
    let new = operation(&rig.frame(up(3, subscribe("room:1", None)))).0;
    assert_eq!(rig.give(Input::Answer { id: old, result: subscribed() }), []);
    assert_eq!(rig.give(Input::Answer { id: new, result: subscribed() }).len(), 2);

    let last = operation(&rig.frame(up(3, subscribe("room:2", None)))).0;
    rig.frame(up(0, UpBody::Stop(Default::default())));
    let outputs = rig.give(Input::Answer { id: last, result: subscribed() });
    assert_eq!(outputs, [Output::Detach(Channel::from("room:2"))]);
}

#[test]
fn a_service_that_joins_during_a_subscription_has_the_channel() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    let id = operation(&rig.frame(up(3, subscribe("room:1", Some(2))))).0;
    assert_eq!(rig.give(Input::Joined { channel: Channel::from("room:1"), position: at(1, 9) }).len(), 2);
    let answer = Answer::Subscribed { position: at(1, 2), gap: None };
    assert_eq!(refusal(&rig.give(Input::Answer { id, result: Ok(answer) })), 409, "one cursor, one position");

    // And one that the client was on by itself no longer depends on its list.
    let id = operation(&rig.frame(up(3, subscribe("room:2", None)))).0;
    rig.give(Input::Answer { id, result: Ok(Answer::Subscribed { position: at(1, 9), gap: None }) });
    assert_eq!(rig.give(Input::Joined { channel: Channel::from("room:2"), position: at(1, 12) }), []);
    let facts = rig.resume(&token);
    let (_, attach) = rig.accepted(facts);
    let from: Vec<_> = attach.iter().map(|request| (&*request.channel, request.from)).collect();
    assert!(from.contains(&("room:2", Some(at(1, 9)))), "{from:?}");
}

#[test]
fn a_session_is_on_a_bounded_number_of_channels() {
    let config = SessionConfig { channels: 4, ..SessionConfig::default() };
    let mut rig = Rig::with(config, ReplyBudget::default());
    let mut facts = rig.facts();
    facts.positions = ["r:1", "r:2", "r:3"].map(|channel| position(channel, 1, 1)).to_vec();
    let response = rig.start(facts);
    assert_eq!((response.positions.len(), response.refused.len()), (4, 1));
    assert_eq!(response.refused[0].error.as_ref().unwrap().error_code, 507);
    assert_eq!(refusal(&rig.frame(up(3, subscribe("r:4", None)))), 507);
}

#[test]
fn s10_c11_a_client_that_keeps_the_heartbeat_it_was_told_lives_for_a_day() {
    let mut rig = Rig::new();
    let told = u64::try_from(rig.begin().heartbeat_interval).unwrap();
    // The advertised interval leaves room below the 30 s at which idle paths are closed.
    assert!(told < 30);
    for beat in 0..24 * 3600 / told {
        assert_eq!(rig.pass(Duration::from_secs(told)), [], "beat {beat}");
        let beat = HeartbeatRequest { client_timestamp: 5 };
        let outputs = rig.frame(up(9, UpBody::Heartbeat(beat)));
        let DownBody::HeartbeatResp(answer) = &sent(&outputs).body else { panic!("{outputs:?}") };
        assert_eq!((sent(&outputs).msg_id, answer.client_timestamp), (9, 5));
        assert_eq!(u64::try_from(answer.server_timestamp).unwrap(), rig.now.unix_ms);
    }
}

#[test]
fn silence_is_4002_after_two_and_a_half_heartbeats_and_the_session_waits() {
    let mut rig = Rig::started();
    assert_eq!(rig.pass(Duration::from_millis(62_499)), []);
    let outputs = rig.pass(Duration::from_millis(1));
    assert_eq!((closed_with(&outputs), events(&outputs)), (Some(4002), vec![Event::Lost]));
    assert_eq!(rig.cut(), [], "the transport's own end comes later and says nothing new");
    assert_eq!(rig.pass(Duration::from_millis(119_999)), []);
    assert_eq!(events(&rig.pass(Duration::from_millis(1))), [Event::Ended(0)]);
    assert!(rig.engine.is_ended());
    assert_eq!(rig.engine.next_timeout(), None);
    let facts = rig.facts();
    assert_eq!(closed_with(&rig.give(Input::Start(Box::new(facts)))), Some(4100));
}

#[test]
fn an_expired_token_has_60_seconds_to_be_refreshed() {
    let mut rig = Rig::new();
    let mut facts = rig.facts();
    facts.expires_at = Some(rig.now.unix_ms + 30_000);
    rig.start(facts);
    let keep = |rig: &mut Rig, seconds| {
        rig.frame(up(9, UpBody::Heartbeat(HeartbeatRequest::default())));
        rig.pass(Duration::from_secs(seconds))
    };
    assert_eq!(keep(&mut rig, 50), []);
    // A refused one changes nothing, a good one moves the end.
    let refresh = || UpBody::Refresh(RefreshRequest { auth_token: "new".into() });
    let outputs = rig.frame(up(5, refresh()));
    let (id, asked) = operation(&outputs);
    assert_eq!(asked, &Operation::Refresh { auth_token: "new".into() });
    let outputs = rig.give(Input::Answer { id, result: Err(ErrorCode::Unauthenticated.message("no")) });
    let DownBody::StartResp(response) = &sent(&outputs).body else { panic!("{outputs:?}") };
    assert!(!response.success && response.resume_token.is_empty() && response.positions.is_empty());
    let id = operation(&rig.frame(up(6, refresh()))).0;
    let good = Answer::Refreshed { expires_at: Some(rig.now.unix_ms + 20_000) };
    let outputs = rig.give(Input::Answer { id, result: Ok(good) });
    let DownBody::StartResp(response) = &sent(&outputs).body else { panic!("{outputs:?}") };
    assert!(response.success && response.error.is_none() && response.fence == 0);
    assert_eq!(keep(&mut rig, 40), []);
    assert_eq!(keep(&mut rig, 39), []);
    let outputs = keep(&mut rig, 1);
    assert_eq!(closed_with(&outputs), Some(4303));
    assert!(!rig.engine.is_ended(), "with a new token its client can resume");
}

#[test]
fn s9_stop_closes_and_ends_the_session_and_gives_everything_back() {
    let budget = ReplyBudget::default();
    let mut rig = Rig::with(SessionConfig::default(), budget.clone());
    rig.begin();
    for seq in 1..=20 {
        rig.call(seq);
    }
    rig.reply(1, "one");
    let outputs = rig.frame(up(0, UpBody::Stop(Default::default())));
    assert_eq!(closed_with(&outputs), Some(4300));
    assert_eq!(events(&outputs).last(), Some(&Event::Ended(4300)));
    assert!(rig.engine.is_ended());
    assert_eq!((budget.used(), rig.engine.next_timeout()), (0, None));
    assert_eq!(rig.reply(2, "two"), []);
}

#[test]
fn c6_an_ended_session_says_so_once_and_closes_its_connection() {
    let mut rig = Rig::started();
    let outputs = rig.give(Input::Kick(CloseCode::Kicked.notice("an operator")));
    assert_eq!((closed_with(&outputs), events(&outputs).last()), (Some(4304), Some(&Event::Ended(4304))));
    assert_eq!(rig.give(Input::Kick(CloseCode::Kicked.notice("again"))), []);
    assert_eq!(rig.cut(), []);
    assert_eq!(rig.pass(Duration::from_secs(1000)), []);
    // A drain ends the connection only.
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    let mut notice = CloseCode::GoingAway.notice("drain");
    notice.reconnect_after_ms = 700;
    let outputs = rig.give(Input::Kick(notice));
    assert!(matches!(&outputs[0], Output::Close { notice, .. } if notice.reconnect_after_ms == 700));
    let facts = rig.resume(&token);
    rig.start(facts);
}

#[test]
fn ten_undecodable_frames_in_a_row_are_4400_and_nine_are_not() {
    let mut rig = Rig::started();
    let fence = rig.fence;
    let garbage = |rig: &mut Rig| rig.give(Input::Undecodable { fence, detail: "not a frame".into() });
    for _ in 0..9 {
        assert_eq!(error(&garbage(&mut rig)).error_code, 400);
    }
    assert_eq!(numbers(&rig.call(1)), [1], "one that decodes begins the count anew");
    for _ in 0..9 {
        assert_eq!(closed_with(&garbage(&mut rig)), None);
    }
    assert_eq!(closed_with(&garbage(&mut rig)), Some(4400));
}

#[test]
fn unknown_types_and_a_second_start_are_400() {
    let mut rig = Rig::started();
    for body in [UpBody::Unknown("99".into()), UpBody::Start(Box::default())] {
        let outputs = rig.frame(up(4, body));
        assert_eq!((sent(&outputs).msg_id, error(&outputs).error_code), (4, 400));
    }
    assert!(rig.engine.reads());
}

#[test]
fn too_many_frames_of_any_kind_are_answered_429_and_none_is_dropped() {
    let config = SessionConfig { frames_per_second: 1, frame_burst: 1, ..SessionConfig::default() };
    let mut rig = Rig::with(config, ReplyBudget::default());
    rig.begin();
    rig.frame(up(3, subscribe("room:1", None)));
    assert_eq!(error(&rig.frame(up(4, subscribe("room:2", None)))).error_code, 429);
    assert_eq!(closed_with(&rig.frame(up(0, UpBody::Stop(Default::default())))), Some(4300));
}

#[test]
fn a_channel_that_a_resume_was_refused_can_be_subscribed_again() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    let subscribed = || Ok(Answer::Subscribed { position: at(1, 9), gap: None });
    let id = operation(&rig.frame(up(3, subscribe("room:own", None)))).0;
    rig.give(Input::Answer { id, result: subscribed() });
    rig.give(Input::Joined { channel: Channel::from("room:joined"), position: at(1, 9) });
    let facts = StartFacts { positions: vec![position("room:own", 1, 9)], ..rig.resume(&token) };
    let (fence, attach) = rig.accepted(facts);
    let (rooms, attach): (Vec<_>, Vec<_>) =
        attach.into_iter().partition(|request| request.channel.starts_with("room:"));
    assert_eq!(rooms.len(), 2);
    let late = || Some(ErrorCode::Overloaded.message("not in time: subscribe again"));
    let refused =
        rooms.iter().map(|request| ChannelRefusal { channel: request.channel.to_string(), error: late() });
    rig.attach_refusing(fence, attach, refused.collect());
    for channel in ["room:own", "room:joined"] {
        let id = operation(&rig.frame(up(4, subscribe(channel, None)))).0;
        let outputs = rig.give(Input::Answer { id, result: subscribed() });
        assert_eq!(channel_response(&outputs).1.error, None, "{channel}");
        assert_eq!(outputs.last(), Some(&Output::Deliver(vec![(Channel::from(channel), at(1, 9))])));
        assert_eq!(refusal(&rig.frame(up(5, subscribe(channel, None)))), 409, "it is on it now");
    }
    // What a service joined does not come to depend on the client's list.
    let facts = rig.resume(&token);
    let (_, attach) = rig.accepted(facts);
    assert!(
        attach
            .iter()
            .any(|request| &*request.channel == "room:joined" && request.kind == ChannelKind::Joined)
    );
}

#[test]
fn a_channel_withdrawn_without_a_connection_is_let_go_of_and_nobody_is_told() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    let id = operation(&rig.frame(up(3, subscribe("room:1", None)))).0;
    rig.give(Input::Answer { id, result: Ok(Answer::Subscribed { position: at(1, 9), gap: None }) });
    rig.cut();
    let channel = || Channel::from("room:1");
    let withdrawn = || Input::Withdrawn { channel: channel(), error: ErrorCode::Forbidden.message("off") };
    assert_eq!(rig.give(withdrawn()), [Output::Detach(channel())]);
    assert_eq!(rig.give(withdrawn()), [], "once");
    let facts = rig.resume(&token);
    let (_, attach) = rig.accepted(facts);
    assert!(attach.iter().all(|request| request.channel != channel()));
}
