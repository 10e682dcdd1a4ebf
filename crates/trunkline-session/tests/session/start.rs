//! START: verdicts, tokens, fences, late and repeated STARTs, channels and their positions.

use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{ChannelGap, ClientAck, Verdict};
use trunkline_proto::{CloseCode, DownBody, UpBody, UpFrame};
use trunkline_session::engine::{
    AttachRequest, ChannelKind, ChannelStart, Event, Input, Output, StartFacts, TokenlessStart,
};
use trunkline_session::{Channel, ConnectionId, Position, Protocol, Seq, SessionId};

use crate::rig::*;

fn wanted(attach: &[AttachRequest], channel: &str) -> Option<(ChannelKind, Option<Position>)> {
    attach.iter().find(|request| &*request.channel == channel).map(|request| (request.kind, request.from))
}

fn refused_with(rig: &mut Rig, facts: StartFacts) -> u32 {
    let outputs = rig.give(Input::Start(Box::new(facts)));
    let [Output::StartRefused { response, close, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    let DownBody::StartResp(response) = &response.body else { panic!("{response:?}") };
    assert!(!response.success && response.error.is_some());
    close.code
}

#[test]
fn a_channel_that_a_service_takes_and_gives_back_during_a_start_is_delivered() {
    let mut rig = Rig::started();
    let channel = || Channel::from("room:1");
    rig.give(Input::Joined { channel: channel(), position: at(1, 3) });
    rig.cut();
    let facts = rig.facts();
    // The same first START again.
    let (fence, attach) = rig.accepted(facts);
    let error = ErrorCode::Forbidden.message("off");
    assert_eq!(rig.give(Input::Withdrawn { channel: channel(), error }), []);
    assert_eq!(rig.give(Input::Joined { channel: channel(), position: at(1, 5) }), []);
    let outputs = rig.attach_raw(fence, attach);
    assert!(!outputs.contains(&Output::Detach(channel())), "{outputs:?}");
    assert_eq!(outputs.last(), Some(&Output::Deliver(vec![(channel(), at(1, 5))])));
}

#[test]
fn a_position_of_the_future_in_start_is_no_ack_of_what_comes() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.cut();
    let positions = vec![position("all", 1, 99), position("user:a", 1, 4)];
    let facts = StartFacts { positions, ..rig.resume(&first.resume_token) };
    let (fence, attach) = rig.accepted(facts);
    let channels = attach.into_iter().map(|request| ChannelStart {
        channel: request.channel,
        kind: request.kind,
        // The heads.
        position: at(1, 7),
        gap: None,
    });
    let channels = channels.collect();
    rig.give(Input::Attached { fence, channels, refused: Vec::new() });
    assert_eq!(rig.engine.acked_positions(), [position("all", 1, 0), position("user:a", 1, 4)]);
}

#[test]
fn the_first_start_is_fresh_and_start_resp_is_the_first_frame() {
    let mut rig = Rig::new();
    let facts = rig.facts();
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "user:a"), Some((ChannelKind::Implicit, None)));
    let outputs = rig.attach_raw(fence, attach);
    let [Output::Send(first), Output::Deliver(channels), Output::Event(Event::Started)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((first.msg_id, channels.len()), (1, 2));
    let DownBody::StartResp(response) = &first.body else { panic!("{first:?}") };
    assert_eq!(verdict(response), Verdict::Fresh);
    assert_eq!((response.heartbeat_interval, response.resume_window), (25, 120));
    assert_eq!((response.max_frame_size, response.max_frame_size_down), (1 << 20, 2 << 20));
    assert_eq!(response.fence, fence.number());
    assert_eq!(response.positions, [position("all", 1, 0), position("user:a", 1, 0)]);
}

#[test]
fn a_start_whose_place_was_taken_meanwhile_is_told_so_and_not_to_come_anew() {
    let mut rig = Rig::new();
    let facts = rig.facts();
    rig.give(Input::Kick(CloseCode::Replaced.notice("a newer login has taken this place")));
    assert_eq!(
        refused_with(&mut rig, facts),
        4301,
        "4100 would make the two take it from each other for ever"
    );
    let mut rig = Rig::started();
    rig.give(Input::Kick(CloseCode::Stopped.notice("over")));
    let facts = rig.facts();
    assert_eq!(refused_with(&mut rig, facts), 4100, "whoever resumes what has just ended comes anew");
}

#[test]
fn s2_a_resume_goes_on_from_the_last_ack_or_the_client_s_position_or_the_begin() {
    let mut rig = Rig::new();
    let mut facts = rig.facts();
    facts.implicit.push(Channel::from("group:g"));
    let first = rig.start(facts);
    rig.sent.positions.insert("all".into(), at(1, 40));
    let acked = ClientAck {
        positions: vec![position("all", 1, 30)],
        start_fence: rig.fence.number(),
        ..ClientAck::default()
    };
    assert_eq!(rig.ack(acked), [Output::Acked(vec![position("all", 1, 30)])]);
    assert_eq!(events(&rig.cut()), [Event::Lost]);

    let mut facts = rig.resume(&first.resume_token);
    facts.implicit.push(Channel::from("group:g"));
    facts.positions = vec![position("group:g", 1, 7)];
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "all"), Some((ChannelKind::Implicit, Some(at(1, 30)))), "the last ack");
    assert_eq!(wanted(&attach, "group:g"), Some((ChannelKind::Implicit, Some(at(1, 7)))), "as given");
    assert_eq!(wanted(&attach, "user:a"), Some((ChannelKind::Implicit, Some(at(1, 0)))), "where it began");
    let response = rig.attach(fence, attach);
    assert_eq!(verdict(&response), Verdict::Resumed);
    assert!(response.fence > first.fence);
}

#[test]
fn s3_what_is_lost_makes_the_verdict_gap_with_its_exact_range() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.cut();
    let facts = rig.resume(&first.resume_token);
    let (fence, attach) = rig.accepted(facts);
    let next = at(1, 900);
    let gap = ChannelGap { channel: "all".into(), epoch: 1, offset: 0, next: Some(next.to_wire("all")) };
    let channels = attach
        .into_iter()
        .map(|AttachRequest { channel, kind, .. }| {
            let lost = (&*channel == "all").then(|| gap.clone());
            ChannelStart { channel, kind, position: if lost.is_some() { next } else { at(1, 0) }, gap: lost }
        })
        .collect();
    let outputs = rig.give(Input::Attached { fence, channels, refused: Vec::new() });
    let DownBody::StartResp(response) = &sent(&outputs).body else { panic!("{outputs:?}") };
    assert_eq!((verdict(response), &response.gaps[..]), (Verdict::Gap, &[gap][..]));
    assert_eq!(response.positions[0], position("all", 1, 900));
}

#[test]
fn every_start_with_the_old_token_gets_the_same_successor_until_it_is_proven() {
    let mut rig = Rig::new();
    let first = rig.begin().resume_token;
    rig.prove();
    let facts = rig.resume(&first);
    let second = rig.start(facts).resume_token;
    assert_ne!(first, second);
    // Its START_RESP was lost, twice.
    for _ in 0..2 {
        let facts = rig.resume(&first);
        assert_eq!(rig.start(facts).resume_token, second);
    }
    rig.prove();
    let facts = rig.resume(&first);
    assert_eq!(refused_with(&mut rig, facts), 4101);
    assert!(rig.engine.reads(), "the session and its connection are as before");
    let facts = rig.resume(&second);
    rig.start(facts);
}

#[test]
fn a_start_with_the_new_token_proves_it_too() {
    let mut rig = Rig::new();
    let first = rig.begin().resume_token;
    let facts = rig.resume(&first);
    let second = rig.start(facts).resume_token;
    let facts = rig.resume(&second);
    rig.start(facts);
    let facts = rig.resume(&first);
    assert_eq!(refused_with(&mut rig, facts), 4101);
}

#[test]
fn an_ack_that_comes_twice_or_from_an_earlier_start_proves_nothing_more() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.prove();
    rig.prove();
    let facts = rig.resume(&first.resume_token);
    rig.start(facts);
    // Late, on the new connection: the fence of the first START.
    assert_eq!(rig.ack(ClientAck { start_fence: first.fence, ..ClientAck::default() }), []);
    let facts = rig.resume(&first.resume_token);
    rig.start(facts);
    let future = ClientAck { start_fence: rig.fence.number() + 1, ..ClientAck::default() };
    assert_eq!(error(&rig.ack(future)).error_code, 400);
}

#[test]
fn s7_the_same_token_twice_at_once_is_one_session_and_the_later_fence_wins() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.prove();
    let (one, two) = (rig.resume(&first.resume_token), rig.resume(&first.resume_token));
    // They reach the engine in the wrong order.
    let (one, two) = (StartFacts { attempt: 5, ..one }, StartFacts { attempt: 5, ..two });
    let winner = two.connection;
    let (fence, attach) = rig.accepted(two);
    assert_eq!(refused_with(&mut rig, one), 4301);
    rig.attach(fence, attach);
    assert_eq!(rig.engine.connection(), Some((winner, fence)));
}

#[test]
fn a_late_start_of_the_same_client_is_closed_and_changes_nothing() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.prove();
    let late = rig.resume(&first.resume_token);
    let facts = rig.resume(&first.resume_token);
    let second = rig.start(facts);
    rig.prove();
    // It was delayed on its way: its attempt is lower, though its fence is the newest.
    let newest = rig.facts().fence;
    let late = StartFacts { fence: newest, attempt: 2, ..late };
    assert_eq!(refused_with(&mut rig, late), CloseCode::Replaced.number());
    assert!(rig.engine.reads());
    let facts = rig.resume(&second.resume_token);
    rig.start(facts);
}

#[test]
fn a_later_start_replaces_the_connection_and_the_old_one_can_do_nothing() {
    let mut rig = Rig::new();
    let first = rig.begin();
    let old_fence = rig.fence;
    let facts = rig.resume(&first.resume_token);
    let outputs = rig.give(Input::Start(Box::new(facts)));
    let [Output::StartAccepted(accepted)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(accepted.replaced, Some(ConnectionId(1)));
    let (fence, attach) = (accepted.fence, accepted.attach.clone());
    rig.attach(fence, attach);
    rig.sent.positions.insert("all".into(), at(1, 9));
    for body in [
        UpBody::Ack(ClientAck { positions: vec![position("all", 1, 9)], ..ClientAck::default() }),
        UpBody::Stop(Default::default()),
        UpBody::Heartbeat(Default::default()),
    ] {
        let frame = UpFrame::new(1, 0, body);
        let input = Input::Frame { fence: old_fence, frame, sent: &rig.sent, gate: &*rig.gate };
        rig.engine.handle_input(rig.now, input);
        assert_eq!(rig.outputs(), []);
    }
    assert_eq!(rig.give(Input::Disconnected { fence: old_fence }), []);
    assert!(rig.engine.reads(), "a late, old connection cannot erase the newer route");
}

#[test]
fn a_start_without_token_of_the_same_client_is_the_same_start_until_proven() {
    let mut rig = Rig::new();
    let first = rig.begin();
    assert_eq!(rig.engine.judge_tokenless(9, 2), TokenlessStart::SameStart);
    assert_eq!(rig.engine.judge_tokenless(9, 0), TokenlessStart::Late);
    assert_eq!(rig.engine.judge_tokenless(8, 2), TokenlessStart::Another);
    assert_eq!(rig.engine.judge_tokenless(0, 2), TokenlessStart::Another, "0 is not compared");
    // What was sent meanwhile, and even acked, is given again: its START_RESP may be what was lost.
    rig.sent.positions.insert("all".into(), at(1, 9));
    rig.ack(ClientAck { positions: vec![position("all", 1, 9)], ..ClientAck::default() });
    rig.cut();
    let facts = rig.facts();
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "all"), Some((ChannelKind::Implicit, Some(at(1, 0)))));
    let again = rig.attach(fence, attach);
    assert_eq!((&again.session_id, &again.resume_token), (&first.session_id, &first.resume_token));
    assert_eq!(verdict(&again), Verdict::Fresh, "to its client it is new");
    rig.prove();
    assert_eq!(rig.engine.judge_tokenless(9, 9), TokenlessStart::Another);
    let facts = rig.facts();
    assert_eq!(refused_with(&mut rig, facts), 4101, "a proven session needs its token");
}

#[test]
fn positions_are_the_whole_list_and_nobody_attaches_to_another_s_channel() {
    let mut rig = Rig::new();
    let former = SessionId(5);
    let own = format!("session:{former}");
    let mut facts = rig.facts();
    facts.former = Some(former);
    facts.positions = ["room:1", "user:b", "session:x", "zone:9", "group:h", "", &own, "user:a", "room:1"]
        .map(|channel| position(channel, 3, 4))
        .to_vec();
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(attach.len(), 3, "{attach:?}");
    assert_eq!(wanted(&attach, "room:1"), Some((ChannelKind::Own, Some(at(3, 4)))));
    assert_eq!(wanted(&attach, "user:a"), Some((ChannelKind::Implicit, Some(at(3, 4)))));
    let first = rig.attach(fence, attach);
    assert_eq!(verdict(&first), Verdict::Fresh);
    assert_eq!((first.gaps.len(), first.gaps[0].channel.as_str()), (1, own.as_str()));
    assert_eq!(first.gaps[0].next, None);
    let refused: Vec<_> = first.refused.iter().map(|refusal| refusal.channel.as_str()).collect();
    assert_eq!(refused, ["", "group:h", "session:x", "user:b", "zone:9"]);
    assert!(first.refused.iter().skip(1).all(|refusal| {
        refusal.error.as_ref().unwrap().error_code == ErrorCode::Forbidden.number() as i32
    }));

    let facts = rig.resume(&first.resume_token);
    let (_, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "room:1"), None, "not listed, so left");
}

#[test]
fn what_a_service_joined_stays_over_a_resume_and_what_it_left_does_not_come_back() {
    let mut rig = Rig::new();
    let first = rig.begin();
    let channel = Channel::from("room:9");
    let told = rig.give(Input::Joined { channel: channel.clone(), position: at(2, 3) });
    let [Output::Send(frame), Output::Deliver(channels)] = &told[..] else { panic!("{told:?}") };
    let DownBody::ChannelResp(response) = &frame.body else { panic!("{frame:?}") };
    assert_eq!(
        (frame.msg_id, response.epoch, response.offset, &channels[..]),
        (0, 2, 3, &[(channel.clone(), at(2, 3))][..])
    );
    rig.cut();
    let facts = rig.resume(&first.resume_token);
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "room:9"), Some((ChannelKind::Joined, Some(at(2, 3)))));

    // Withdrawn while it is being attached: START_RESP says so, and it is not delivered.
    let error = ErrorCode::Forbidden.message("no more");
    assert_eq!(rig.give(Input::Withdrawn { channel: channel.clone(), error: error.clone() }), []);
    let outputs = rig.attach_raw(fence, attach);
    assert!(outputs.contains(&Output::Detach(channel.clone())), "{outputs:?}");
    let DownBody::StartResp(response) = &sent(&outputs).body else { panic!("{outputs:?}") };
    assert!(response.positions.iter().all(|position| position.channel != "room:9"));
    assert_eq!(response.refused[0].channel, "room:9");

    // Withdrawn while connected: the cursor stops first, then the client is told.
    rig.give(Input::Joined { channel: channel.clone(), position: at(2, 4) });
    let told = rig.give(Input::Withdrawn { channel: channel.clone(), error });
    let [Output::Detach(_), Output::Send(frame)] = &told[..] else { panic!("{told:?}") };
    let DownBody::ChannelResp(response) = &frame.body else { panic!("{frame:?}") };
    assert_eq!((frame.msg_id, response.error.as_ref().unwrap().error_code), (0, 403));
}

#[test]
fn a_service_that_joins_during_the_start_is_told_behind_start_resp() {
    let mut rig = Rig::new();
    let facts = rig.facts();
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(rig.give(Input::Joined { channel: Channel::from("room:9"), position: at(2, 3) }), []);
    let outputs = rig.attach_raw(fence, attach);
    let sent: Vec<_> = frames(&outputs).collect();
    assert!(
        matches!(sent[0].body, DownBody::StartResp(_)) && matches!(sent[1].body, DownBody::ChannelResp(_))
    );
}

#[test]
fn a_start_that_cannot_attach_is_refused_and_a_living_session_lives_on() {
    let mut rig = Rig::new();
    let first = rig.begin();
    rig.cut();
    let facts = rig.resume(&first.resume_token);
    let (fence, _) = rig.accepted(facts);
    let error = ErrorCode::Overloaded.message("the broker is away");
    let mut close = CloseCode::Overloaded.notice("the broker is away");
    close.reconnect_after_ms = 500;
    let outputs = rig.give(Input::StartFailed { fence, error: error.clone(), close: close.clone() });
    assert!(matches!(&outputs[..], [Output::StartRefused { close, .. }] if close.reconnect_after_ms == 500));
    let facts = rig.resume(&first.resume_token);
    assert_eq!(verdict(&rig.start(facts)), Verdict::Resumed);

    let mut new = Rig::new();
    let facts = new.facts();
    let (fence, _) = new.accepted(facts);
    let outputs = new.give(Input::StartFailed { fence, error, close });
    assert_eq!(closed_with(&outputs), Some(4005));
    assert!(new.engine.is_ended());
}

#[test]
fn c7_a_seed_start_of_a_gone_session_is_fresh_with_error_410() {
    let mut rig = Rig::new();
    let facts = StartFacts { protocol: Protocol::Seed, last_acked_seq: Seq(41), instance: 0, ..rig.facts() };
    let response = rig.start(facts);
    assert_eq!(verdict(&response), Verdict::Fresh);
    assert_eq!(response.error.unwrap().error_code, 410);
}

#[test]
fn a_seed_session_resumes_without_token_and_its_positions_are_the_ledger_s() {
    let mut rig = Rig::new();
    let seed = |facts| StartFacts { protocol: Protocol::Seed, instance: 0, ..facts };
    let facts = seed(rig.facts());
    let first = rig.start(facts);
    assert_eq!(first.error, None);
    rig.cut();
    let mut facts = seed(rig.facts());
    facts.positions = vec![position("all", 1, 6)];
    facts.last_acked_seq = Seq(3);
    let (fence, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "all"), Some((ChannelKind::Implicit, Some(at(1, 6)))));
    let response = rig.attach(fence, attach);
    assert_eq!((verdict(&response), response.error), (Verdict::Resumed, None));
}

#[test]
fn a_seed_s_new_session_begins_with_what_its_device_had_not_acked() {
    let mut rig = Rig::new();
    let former = SessionId(5);
    let mut facts = rig.facts();
    facts.protocol = Protocol::Seed;
    facts.former = Some(former);
    facts.positions = vec![position("user:a", 1, 3), position(&format!("session:{former}"), 1, 8)];
    let (_, attach) = rig.accepted(facts);
    assert_eq!(wanted(&attach, "user:a"), Some((ChannelKind::Implicit, Some(at(1, 3)))));
    let rest = wanted(&attach, &format!("session:{former}"));
    assert_eq!(rest, Some((ChannelKind::Joined, Some(at(1, 8)))));
}

#[test]
fn stale_attachments_and_frames_before_start_resp_are_ignored() {
    let mut rig = Rig::new();
    let facts = rig.facts();
    let (old, attach) = rig.accepted(facts);
    let facts = rig.facts();
    let (fence, _) = rig.accepted(facts);
    assert_eq!(rig.attach_raw(old, attach.clone()), []);
    rig.fence = fence;
    assert_eq!(rig.call(1), []);
    rig.attach(fence, attach);
    assert_eq!(numbers(&rig.call(1)), [1]);
}
