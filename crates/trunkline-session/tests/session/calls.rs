//! Calls: numbers, the window, the cache, order, bound pushes, what follows a cut.

use std::time::Duration;

use trunkline_proto::wire::ClientAck;
use trunkline_proto::{CloseCode, Dialect, DownBody, ErrorCode, UpBody};
use trunkline_session::engine::{
    BindAnswer, BindHint, BindTarget, CallHistory, CallOutcome, GiveUp, Input, Output, Pressure, StartFacts,
};
use trunkline_session::{ClientSeq, Engine, Protocol, ReplyBudget, SessionConfig};

use crate::rig::*;

fn overloaded() -> CallOutcome {
    CallOutcome::Error(ErrorCode::Overloaded.message("busy"))
}

/// Cuts, and resumes with the token of the last START_RESP.
fn cut_and_resume(rig: &mut Rig, token: &str) -> String {
    rig.cut();
    let facts = rig.resume(token);
    rig.start(facts).resume_token
}

#[test]
fn s5_c2_a_503_keeps_its_number_usable_and_the_next_one_too() {
    let mut rig = Rig::started();
    let outputs = rig.call(7);
    assert_eq!(numbers(&outputs), [7], "the first may be any number");
    let refused = rig.end(7, overloaded());
    assert_eq!(error(&refused).error_code, 503);
    assert_eq!(numbers(&rig.call(8)), [8], "the next number works");
    assert_eq!(numbers(&rig.call(7)), [7], "and the same number runs now");
    assert_eq!(replied(&rig.reply(7, "seven")), "seven");
}

#[test]
fn s5_c2_the_65th_call_is_refused_with_a_time_and_can_come_again() {
    let mut rig = Rig::started();
    let mut running = Vec::new();
    for seq in 1..=64 {
        running.extend(numbers(&rig.call(seq)));
    }
    assert_eq!(running, [1, 2, 3, 4, 5, 6, 7, 8], "eight run at once");
    let refused = rig.call(65);
    assert_eq!((error(&refused).error_code, error(&refused).name.as_str()), (503, "OVERLOADED"));
    assert!(error(&refused).retry_after_ms > 0);
    assert_eq!(error(&rig.call(66)).error_code, 503, "its number counts: the next one is no jump");
    assert_eq!(error(&rig.call(68)).error_code, 400);
    for seq in 1..=2 {
        assert_eq!(numbers(&rig.reply(seq, "r")), [seq + 8], "the next one starts");
    }
    rig.call(66);
    rig.call(65);
    let mut order = Vec::new();
    for seq in 3..=64 {
        order.extend(numbers(&rig.reply(seq, "r")));
    }
    assert_eq!(order[order.len() - 2..], [66, 65], "in the order in which they came");
}

#[test]
fn a_jump_is_400_and_changes_nothing() {
    let mut rig = Rig::started();
    rig.call(3);
    assert_eq!(error(&rig.call(5)).error_code, 400);
    assert_eq!(error(&rig.call(u64::MAX)).error_code, 400);
    assert_eq!(numbers(&rig.call(4)), [4]);
}

#[test]
fn the_highest_number_there_is_ends_nothing_but_the_counting() {
    let mut rig = Rig::started();
    assert_eq!(numbers(&rig.call(u64::MAX)), [u64::MAX]);
    assert_eq!(replied(&rig.reply(u64::MAX, "r")), "r");
    assert_eq!(error(&rig.call(0)).error_code, 520);
}

#[test]
fn c12_a_repeated_number_is_answered_from_the_cache_and_runs_once() {
    let mut rig = Rig::started();
    rig.call(1);
    assert_eq!(rig.call(1), [], "it runs: answered when it ends");
    let ended = rig.reply(1, "one");
    assert_eq!(replied(&ended), "one");
    assert_eq!(sent(&ended).msg_id, 102, "with the msg_id it was last asked with");
    let again = rig.call(1);
    assert_eq!((replied(&again), sent(&again).msg_id, numbers(&again)), ("one", 103, vec![]));
}

#[test]
fn a_number_with_other_content_is_seq_reused_and_does_not_run() {
    let mut rig = Rig::started();
    rig.call(1);
    rig.reply(1, "one");
    rig.call(2);
    let frames = [rig.call_frame(1, "other"), rig.call_frame(2, "other")];
    for frame in frames {
        let outputs = rig.frame(frame);
        assert_eq!(error(&outputs).name, "SEQ_REUSED");
        assert_eq!(numbers(&outputs), Vec::<u64>::new());
    }
    assert_eq!(replied(&rig.call(1)), "one", "and the first is as before");
    // A refused number keeps its content too.
    rig.end(2, overloaded());
    let frame = rig.call_frame(2, "other");
    assert_eq!(error(&rig.frame(frame)).name, "SEQ_REUSED");
    // A forgotten one as well.
    rig.ack(ClientAck { replied_client_seq: 1, ..ClientAck::default() });
    let frame = rig.call_frame(1, "other");
    assert_eq!(error(&rig.frame(frame)).name, "SEQ_REUSED");
}

#[test]
fn a_number_that_left_the_window_is_unknown_but_one_that_runs_is_never_forgotten() {
    let mut rig = Rig::started();
    for seq in 1..=70 {
        rig.call(seq);
        if seq != 2 {
            rig.reply(seq, "r");
        }
    }
    assert_eq!(error(&rig.call(6)).name, "RESULT_UNKNOWN", "64 numbers are 7 to 70");
    assert_eq!(replied(&rig.call(7)), "r");
    assert_eq!(rig.call(2), []);
    assert_eq!(replied(&rig.reply(2, "two")), "two");
    assert_eq!(error(&rig.call(2)).name, "RESULT_UNKNOWN");
}

#[test]
fn an_ack_of_replies_frees_them() {
    let budget = ReplyBudget::new(1 << 20);
    let mut rig = Rig::with(SessionConfig::default(), budget.clone());
    rig.begin();
    for seq in 1..=3 {
        rig.call(seq);
        rig.reply(seq, "r");
    }
    let full = budget.used();
    assert_eq!(rig.ack(ClientAck { replied_client_seq: 2, ..ClientAck::default() }), []);
    assert_eq!(budget.used() * 3, full);
    assert_eq!(error(&rig.call(1)).name, "RESULT_UNKNOWN");
    assert_eq!(replied(&rig.call(3)), "r");
    // What runs is not freed by a client that is wrong about it.
    rig.call(4);
    rig.ack(ClientAck { replied_client_seq: 4, ..ClientAck::default() });
    assert_eq!(replied(&rig.reply(4, "four")), "four");
    let future = rig.ack(ClientAck { replied_client_seq: 5, ..ClientAck::default() });
    assert_eq!(error(&future).error_code, 400);
    drop(rig);
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_cache_of_a_session_is_bounded_and_its_oldest_reply_goes() {
    let budget = ReplyBudget::default();
    let mut rig =
        Rig::with(SessionConfig { reply_cache: 10_000, ..SessionConfig::default() }, budget.clone());
    rig.begin();
    let large = "x".repeat(4000);
    // 2 ends first, so it is the oldest.
    for seq in 1..=3 {
        rig.call(seq);
    }
    for seq in [2, 1, 3] {
        assert_eq!(replied(&rig.reply(seq, &large)), large);
    }
    assert!(budget.used() <= 10_000);
    assert_eq!(error(&rig.call(2)).name, "RESULT_UNKNOWN");
    assert_eq!((replied(&rig.call(1)), replied(&rig.call(3))), (&*large, &*large));
}

#[test]
fn a_node_without_room_for_replies_refuses_before_the_call_runs() {
    let budget = ReplyBudget::new(100);
    let mut other = Rig::with(SessionConfig::default(), budget.clone());
    other.begin();
    let mut rig = Rig::with(SessionConfig::default(), budget.clone());
    rig.begin();
    for seq in 1..=9 {
        rig.call(seq);
    }
    other.call(1);
    other.reply(1, &"x".repeat(500));
    let refused = rig.call(10);
    assert_eq!((error(&refused).error_code, numbers(&refused)), (503, vec![]));
    // The ninth has waited, and has not run: it is refused too. The first is answered.
    let outputs = rig.reply(1, "one");
    assert_eq!(numbers(&outputs), Vec::<u64>::new());
    let told: Vec<_> = frames(&outputs).collect();
    assert!(matches!(&told[0].body, DownBody::BusinessData(_)), "{told:?}");
    assert!(matches!(&told[1].body, DownBody::Error(error) if error.error_code == 503), "{told:?}");
    drop(other);
    rig.ack(ClientAck { replied_client_seq: 1, ..ClientAck::default() });
    assert_eq!(numbers(&rig.call(9)), [9]);
}

#[test]
fn s6_c3_a_reply_over_the_limit_is_one_error_frame_and_the_next_flows() {
    let mut rig = Rig::started();
    rig.call(1);
    rig.call(2);
    let large = "x".repeat(1 << 20);
    let outputs = rig.reply(1, &large);
    assert_eq!((error(&outputs).error_code, sent(&outputs).msg_id), (502, 101));
    assert_eq!(replied(&rig.reply(2, "next")), "next");
    assert_eq!(error(&rig.call(1)).error_code, 502, "it has run, so that is its final answer");
    // The largest that fits does.
    rig.call(3);
    let frame = |n: usize| {
        let mut rig = Rig::started();
        rig.call(1);
        let outputs = rig.reply(1, &"x".repeat(n));
        Dialect::Protobuf.encode_down(sent(&outputs)).len()
    };
    let overhead = frame(1 << 19) - (1 << 19);
    let outputs = rig.reply(3, &"x".repeat((1 << 20) - overhead - 1));
    assert!(matches!(sent(&outputs).body, DownBody::BusinessData(_)));
    assert!(Dialect::Protobuf.encode_down(sent(&outputs)).len() <= 1 << 20);
}

#[test]
fn c12_replies_leave_in_completion_order_and_in_request_order_if_asked() {
    let mut rig = Rig::started();
    for seq in 1..=5 {
        let mut frame = rig.call_frame(seq, "a");
        if [1, 3, 5].contains(&seq) {
            frame.headers.insert("x-order".into(), "request".into());
        }
        rig.frame(frame);
    }
    assert_eq!(rig.reply(5, "5"), []);
    assert_eq!(replied(&rig.reply(4, "4")), "4", "asked for no order");
    assert_eq!(rig.reply(3, "3"), []);
    let outputs = rig.reply(1, "1");
    let order: Vec<_> = frames(&outputs).map(|frame| frame.msg_id).collect();
    assert_eq!(order, [101, 103, 105]);
    assert_eq!(replied(&rig.reply(2, "2")), "2");
}

#[test]
fn a_refused_call_holds_up_nobody_s_order() {
    let mut rig = Rig::started();
    for seq in 1..=2 {
        let mut frame = rig.call_frame(seq, "a");
        frame.headers.insert("x-order".into(), "request".into());
        rig.frame(frame);
    }
    assert_eq!(rig.reply(2, "2"), []);
    let outputs = rig.end(1, overloaded());
    let sent: Vec<_> = frames(&outputs).map(|frame| frame.msg_id).collect();
    assert_eq!(sent, [101, 102]);
}

#[test]
fn o1_bound_pushes_and_their_reply_are_one_frame_in_their_order() {
    let mut rig = Rig::started();
    rig.call(1);
    assert_eq!(rig.bind(1, BindHint::After, "a1"), BindAnswer::Bound);
    assert_eq!(rig.bind(1, BindHint::Before, "b1"), BindAnswer::Bound);
    assert_eq!(rig.bind(1, BindHint::Before, "b2"), BindAnswer::Bound);
    let CallOutcome::Reply(mut answer) = reply("r") else { unreachable!() };
    answer.bound = vec![bound(BindHint::After, "a2"), bound(BindHint::Before, "b3")];
    let outputs = rig.end(1, CallOutcome::Reply(answer));
    assert_eq!(group(sent(&outputs)), ["b1", "b2", "b3", "r", "a1", "a2"]);
    assert_eq!(sent(&outputs).msg_id, 101);
    assert_eq!(rig.bind(1, BindHint::Before, "late"), BindAnswer::TooLate);
    assert_eq!(rig.bind(1, BindHint::After, "late"), BindAnswer::PublishNow);
    assert_eq!(rig.bind(2, BindHint::Before, "early"), BindAnswer::NoSuchCall);
    assert_eq!(
        group(sent(&rig.call(1))),
        ["b1", "b2", "b3", "r", "a1", "a2"],
        "a re-sent call gets all again"
    );
}

#[test]
fn o1_a_late_after_never_passes_a_reply_that_waits_for_its_order() {
    let mut rig = Rig::started();
    for seq in 1..=2 {
        let mut frame = rig.call_frame(seq, "a");
        frame.headers.insert("x-order".into(), "request".into());
        rig.frame(frame);
    }
    rig.reply(2, "2");
    assert_eq!(rig.bind(2, BindHint::After, "after"), BindAnswer::Bound);
    let outputs = rig.reply(1, "1");
    assert_eq!(group(frames(&outputs).nth(1).unwrap()), ["2", "after"]);
}

#[test]
fn bound_pushes_share_the_fate_of_a_failed_reply_and_of_one_nobody_heard() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    rig.call(1);
    rig.bind(1, BindHint::Before, "b");
    let outputs = rig.end(1, CallOutcome::Error(ErrorCode::UpstreamTimeout.message("late")));
    assert_eq!(group(sent(&outputs)), ["b", "504"]);

    rig.call(2);
    rig.cut();
    assert_eq!(rig.reply(2, "two"), [], "nobody is there");
    assert_eq!(rig.bind(2, BindHint::Before, "b"), BindAnswer::Bound, "the reply has not left");
    cut_and_resume(&mut rig, &token);
    assert_eq!(group(sent(&rig.call(2))), ["b", "two"]);
    assert_eq!(rig.bind(2, BindHint::Before, "b"), BindAnswer::TooLate);
}

#[test]
fn a_bound_push_with_which_the_group_would_be_too_large_is_refused_at_once() {
    let mut rig = Rig::started();
    rig.call(1);
    let half = "x".repeat(1 << 19);
    assert_eq!(rig.bind(1, BindHint::Before, &half), BindAnswer::Bound);
    assert_eq!(
        rig.bind(1, BindHint::Before, &half),
        BindAnswer::TooLarge,
        "the largest reply must still fit"
    );
    let outputs = rig.reply(1, &"y".repeat((1 << 20) - 100));
    let frame = sent(&outputs);
    assert!(matches!(&frame.body, DownBody::Group(frames) if frames.len() == 2));
    assert!(Dialect::Protobuf.encode_down(frame).len() <= 2 << 20);
    // An answer whose own pushes do not fit cannot be delivered, and says so; what was bound before comes.
    rig.call(2);
    rig.bind(2, BindHint::Before, "b");
    let CallOutcome::Reply(mut answer) = reply("r") else { unreachable!() };
    answer.bound = vec![bound(BindHint::After, &half), bound(BindHint::After, &half)];
    let outputs = rig.end(2, CallOutcome::Reply(answer));
    assert_eq!(group(sent(&outputs)), ["b", "502"]);
}

#[test]
fn msg_id_0_runs_and_only_an_error_is_answered() {
    let mut rig = Rig::started();
    for seq in 1..=3 {
        let mut frame = rig.call_frame(seq, &format!("a{seq}"));
        frame.msg_id = 0;
        assert_eq!(numbers(&rig.frame(frame)), [seq]);
    }
    assert_eq!(rig.reply(1, "one"), []);
    let failed = rig.end(2, CallOutcome::Error(ErrorCode::UpstreamFailed.message("no")));
    assert_eq!((sent(&failed).msg_id, error(&failed).client_seq, error(&failed).error_code), (0, 2, 502));
    // Bound pushes have no reply to go with: they are published, before before after.
    rig.bind(3, BindHint::After, "a");
    rig.bind(3, BindHint::Before, "b");
    let outputs = rig.reply(3, "three");
    let published: Vec<_> = outputs
        .iter()
        .map(|output| match output {
            Output::Publish(BindTarget::Session, push) => push.message.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(published, ["b", "a"]);
    let mut again = rig.call_frame(1, "a1");
    again.msg_id = 0;
    assert_eq!(rig.frame(again), [], "seen, and ended well");
}

#[test]
fn a_reply_goes_only_to_the_connection_that_asked_last() {
    let mut rig = Rig::new();
    let token = rig.begin().resume_token;
    rig.call(1);
    rig.call(2);
    let token = cut_and_resume(&mut rig, &token);
    assert_eq!(rig.reply(1, "one"), [], "nobody has asked on this connection");
    assert_eq!(replied(&rig.call(1)), "one");
    assert_eq!(rig.call(2), []);
    assert_eq!(replied(&rig.reply(2, "two")), "two");
    cut_and_resume(&mut rig, &token);
    assert_eq!(replied(&rig.call(2)), "two");
}

#[test]
fn start_resp_says_the_highest_number_and_numbers_go_on_over_a_resume() {
    let mut rig = Rig::new();
    let first = rig.begin();
    assert_eq!(first.last_client_seq, 0);
    rig.call(10);
    rig.call(11);
    rig.cut();
    // The client has sent 12 and 13, and they were lost with the cut: they have not run here.
    let facts = StartFacts { last_sent_client_seq: ClientSeq(13), ..rig.resume(&first.resume_token) };
    assert_eq!(rig.start(facts).last_client_seq, 11);
    for seq in [12, 13] {
        let outputs = rig.call(seq);
        assert_eq!(started_calls(&outputs)[0].history, CallHistory::New);
    }
    assert_eq!(rig.call(10), [], "it still runs");
}

#[test]
fn start_resp_claims_no_number_that_was_never_received() {
    let mut rig = Rig::new();
    let facts = StartFacts { last_sent_client_seq: ClientSeq(100), ..rig.facts() };
    let first = rig.start(facts);
    assert_eq!(first.last_client_seq, 0, "what went to a former session was not received here");
    rig.call(50);
    assert_eq!(error(&rig.call(300)).error_code, 400);
    rig.cut();
    // A client sends again what is above and wants no reply: 51 to 100 may never have arrived.
    let facts = StartFacts { last_sent_client_seq: ClientSeq(100), ..rig.resume(&first.resume_token) };
    assert_eq!(rig.start(facts).last_client_seq, 50);
}

#[test]
fn an_ack_of_protocol_0_frees_what_it_answers_and_nothing_else() {
    let mut rig = Rig::new();
    let budget = ReplyBudget::default();
    rig.engine = Engine::new(SESSION, 5, rig.config.clone(), budget.clone());
    let facts = StartFacts { protocol: Protocol::Seed, instance: 0, ..rig.facts() };
    rig.start(facts);
    for seq in 1..=3 {
        rig.call(seq);
        rig.reply(seq, "r");
    }
    let each = budget.used() / 3;
    // The rig's message ids are 100 above the numbers.
    rig.engine.answers_acked(&[102, 999]);
    assert_eq!(budget.used(), 2 * each);
    assert_eq!(error(&rig.call(2)).name, "RESULT_UNKNOWN");
    assert_eq!(replied(&rig.call(1)), "r");
    assert!(rig.engine.cached_since().is_some());
    rig.engine.give_up_replies(GiveUp::Left);
    assert_eq!((budget.used(), rig.engine.cached_since()), (0, None));
}

#[test]
fn what_nobody_has_heard_is_given_up_last() {
    let mut rig = Rig::started();
    rig.call(1);
    rig.cut();
    rig.reply(1, "unheard");
    rig.engine.give_up_replies(GiveUp::Left);
    assert!(rig.engine.cached_since().is_some());
    rig.engine.give_up_replies(GiveUp::All);
    assert_eq!(rig.engine.cached_since(), None);
}

#[test]
fn s8_c13_a_restarted_app_has_a_fresh_session_whose_numbers_begin_anywhere() {
    let mut rig = Rig::started();
    let outputs = rig.call(1);
    assert_eq!(started_calls(&outputs)[0].history, CallHistory::New);
    assert_eq!(numbers(&rig.call(2)), [2]);
}

#[test]
fn after_fresh_what_was_sent_before_is_a_retry_with_holes_and_new_numbers_follow() {
    let mut rig = Rig::new();
    let facts = StartFacts { last_sent_client_seq: ClientSeq(100), ..rig.facts() };
    rig.start(facts);
    // 90 and 95 have no answer, those between had theirs from the former session.
    for seq in [90, 95] {
        let outputs = rig.call(seq);
        assert_eq!(started_calls(&outputs)[0].history, CallHistory::MayHaveRun, "{seq}");
    }
    let outputs = rig.call(101);
    assert_eq!(started_calls(&outputs)[0].history, CallHistory::New);
    assert_eq!(error(&rig.call(103)).error_code, 400);
    let unknown = rig.end(90, CallOutcome::Error(ErrorCode::ResultUnknown.message("")));
    assert_eq!(error(&unknown).error_code, 520);
    assert_eq!(error(&rig.call(90)).error_code, 520, "and it does not run again");
    assert_eq!(error(&rig.call(36)).name, "RESULT_UNKNOWN", "older than 64");
}

#[test]
fn a_full_reply_queue_starts_no_call_until_there_is_room() {
    let mut rig = Rig::started();
    assert_eq!(rig.give(Input::Pressure(Pressure::Full)), []);
    for seq in 1..=3 {
        assert_eq!(rig.call(seq), []);
    }
    assert_eq!(numbers(&rig.give(Input::Pressure(Pressure::Room))), [1, 2, 3]);
}

#[test]
fn a_client_that_is_too_fast_is_told_429_and_its_number_can_come_again() {
    let config = SessionConfig { frames_per_second: 10, frame_burst: 2, ..SessionConfig::default() };
    let mut rig = Rig::with(config, ReplyBudget::default());
    rig.begin();
    rig.call(1);
    rig.reply(1, "one");
    rig.call(2);
    let refused = rig.call(3);
    assert_eq!(error(&refused).name, "RATE_LIMITED");
    // At least until it would pass, and not everybody's moment.
    assert!((100..=150).contains(&error(&refused).retry_after_ms), "{refused:?}");
    assert_eq!(error(&rig.call(1)).name, "RATE_LIMITED");
    let heartbeat = trunkline_proto::UpFrame::new(5, 0, UpBody::Heartbeat(Default::default()));
    assert!(matches!(sent(&rig.frame(heartbeat)).body, DownBody::HeartbeatResp(_)), "never refused for load");
    rig.pass(Duration::from_millis(100));
    assert_eq!(numbers(&rig.call(3)), [3], "it runs now");
    rig.pass(Duration::from_millis(100));
    assert_eq!(replied(&rig.call(1)), "one", "and the limit changed nothing of what was answered");
}

#[test]
fn a_seed_client_s_reply_waits_for_its_next_connection() {
    let mut rig = Rig::new();
    let seed = |facts| StartFacts { protocol: Protocol::Seed, instance: 0, ..facts };
    let facts = seed(rig.facts());
    rig.start(facts);
    rig.call(1);
    rig.call(2);
    rig.cut();
    rig.reply(2, "two");
    rig.reply(1, "one");
    let facts = seed(rig.facts());
    let (fence, attach) = rig.accepted(facts);
    let outputs = rig.attach_raw(fence, attach);
    let told: Vec<_> = frames(&outputs).skip(1).collect();
    assert_eq!(told.iter().map(|frame| frame.msg_id).collect::<Vec<_>>(), [102, 101], "as they ended");
    assert_eq!(rig.cut().len(), 1);
    let facts = seed(rig.facts());
    let (fence, attach) = rig.accepted(facts);
    let outputs = rig.attach_raw(fence, attach);
    assert_eq!(frames(&outputs).count(), 1, "once: the ledger has them now");
}

#[test]
fn ends_of_calls_that_are_unknown_or_of_a_session_that_ended_change_nothing() {
    let mut rig = Rig::started();
    assert_eq!(rig.reply(1, "x"), []);
    rig.call(1);
    rig.reply(1, "one");
    assert_eq!(rig.reply(1, "again"), []);
    rig.call(2);
    rig.give(Input::Kick(CloseCode::Kicked.notice("")));
    assert_eq!(rig.reply(2, "x"), []);
}
