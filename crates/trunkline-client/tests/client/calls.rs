//! Calls and requests: what goes out, and what callers get.

use std::time::Duration;

use trunkline_client::{CallError, Event, Order, Position};
use trunkline_proto::wire::{self, ChannelResponse};
use trunkline_proto::{DownBody, DownFrame, ErrorCode, UpBody};

use crate::script::{EPOCH, Gateway, at, next, reply};

#[tokio::test]
async fn a_call_carries_what_was_said_and_brings_the_reply() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let call = client.call("echo").param("a", "1").data("hello").header("x-order", "request");
    let (answer, ()) = tokio::join!(call.timeout(Duration::from_secs(20)).send(), async {
        let frame = peer.recv().await;
        let UpBody::Business(request) = frame.body else { panic!("not a call") };
        assert_eq!((request.action.as_str(), &request.data[..]), ("echo", &b"hello"[..]));
        assert_eq!(request.params["a"], "1");
        assert_eq!(
            (frame.headers["x-order"].as_str(), frame.headers["x-timeout-ms"].as_str()),
            ("request", "20000")
        );
        assert_eq!(frame.seq_id, 1);
        peer.send(reply(frame.msg_id, "world")).await;
    });
    let answer = answer.unwrap();
    assert_eq!((answer.code, &answer.data[..]), (200, &b"world"[..]));
}

#[tokio::test]
async fn replies_find_their_calls_in_any_order() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let (first, second, ()) = tokio::join!(client.call("a").send(), client.call("b").send(), async {
        let (one, two) = (peer.call().await, peer.call().await);
        let texts = |action: &str| if action == "a" { "for a" } else { "for b" };
        peer.send(reply(two.0, texts(&two.2.action))).await;
        peer.send(reply(one.0, texts(&one.2.action))).await;
    });
    assert_eq!(first.unwrap().data, "for a");
    assert_eq!(second.unwrap().data, "for b");
}

#[tokio::test]
async fn bound_pushes_come_with_their_reply_on_their_side_of_it() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    let push = |title: &str| {
        let push = wire::BusinessResponse { title: title.into(), code: 200, ..Default::default() };
        DownFrame::new(0, DownBody::BusinessData(push))
    };
    let (answer, ()) = tokio::join!(client.call("both").send(), async {
        let (msg_id, ..) = peer.call().await;
        let frames = vec![push("one"), push("two"), reply(msg_id, "reply"), push("three")];
        peer.send(DownFrame::new(msg_id, DownBody::Group(frames))).await;
        peer.publish("user:alice", 1, 1).await;
    });
    let answer = answer.unwrap();
    let titles =
        |pushes: &[trunkline_client::Push]| pushes.iter().map(|push| push.title.clone()).collect::<Vec<_>>();
    assert_eq!(titles(&answer.before), ["one", "two"]);
    assert_eq!(titles(&answer.after), ["three"]);
    assert_eq!(answer.data, "reply");
    assert!(matches!(next(&mut pushes).await, Event::Publication(_)), "bound pushes are no events as well");
}

#[tokio::test]
async fn a_call_that_goes_out_once_ends_with_the_refusal() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let (answer, ()) = tokio::join!(client.call("x").once().send(), async {
        let (msg_id, ..) = peer.call().await;
        let busy =
            wire::ErrorMessage { retry_after_ms: 5, ..ErrorCode::Overloaded.message("nobody is there") };
        peer.send(DownFrame::new(msg_id, DownBody::Error(busy))).await;
    });
    let error = answer.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused(error) if error.error_message == "nobody is there"),
        "{error}"
    );
    assert_eq!(error.retry_after(), Some(Duration::from_millis(5)));
    // The next frame is the next call: the refused one was not sent again.
    let (answer, ()) = tokio::join!(client.call("y").send(), async {
        let (msg_id, _, request) = peer.call().await;
        assert_eq!(request.action, "y");
        peer.send(reply(msg_id, "well")).await;
    });
    assert_eq!(answer.unwrap().data, "well");
}

#[tokio::test]
async fn errors_say_their_code_and_a_refusal_for_load_is_sent_again() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let (answer, ()) = tokio::join!(client.call("x").send(), async {
        let first = peer.call().await;
        let busy = wire::ErrorMessage { retry_after_ms: 5, ..ErrorCode::Overloaded.message("busy") };
        peer.send(DownFrame::new(first.0, DownBody::Error(busy))).await;
        let again = peer.call().await;
        assert_eq!(again, first, "the same number and content");
        let error = ErrorCode::NotFound.message("no such action");
        peer.send(DownFrame::new(again.0, DownBody::Error(error))).await;
    });
    let error = answer.unwrap_err();
    assert_eq!(error.to_string(), "404 NOT_FOUND: no such action");
    let (answer, ()) = tokio::join!(client.call("y").send(), async {
        let (msg_id, ..) = peer.call().await;
        let error = ErrorCode::ResultUnknown.message("forgotten");
        peer.send(DownFrame::new(msg_id, DownBody::Error(error))).await;
    });
    assert_eq!(answer.unwrap_err(), CallError::ResultUnknown("forgotten".into()));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_client_well() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let patience = Duration::from_millis(20);
    assert_eq!(
        client.call("slow").timeout(patience).send().await,
        Err(CallError::TimedOut { after: patience, refused: None })
    );
    let (slow, ..) = peer.call().await;
    let (answer, ()) = tokio::join!(client.call("quick").send(), async {
        let (msg_id, seq, _) = peer.call().await;
        assert_eq!(seq, 2);
        peer.send(reply(slow, "late")).await;
        peer.send(reply(msg_id, "in time")).await;
    });
    assert_eq!(answer.unwrap().data, "in time");
}

#[tokio::test]
async fn a_call_that_is_refused_to_the_end_says_why() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let patience = Duration::from_millis(200);
    let (answer, ()) = tokio::join!(client.call("x").timeout(patience).send(), async {
        for attempt in 1..=2 {
            let (msg_id, ..) = peer.call().await;
            let mut error = ErrorCode::Overloaded.message(format!("nobody serves zone 003 ({attempt})"));
            error.retry_after_ms = 1;
            peer.send(DownFrame::new(msg_id, DownBody::Error(error))).await;
        }
    });
    let error = answer.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { after, .. } if after == patience), "{error:?}");
    let text = error.to_string();
    assert_eq!(
        text,
        "no answer within 200ms; the gateway last said 503 OVERLOADED: nobody serves zone 003 (2)"
    );
}

#[tokio::test]
async fn what_is_larger_than_the_gateway_takes_is_not_sent() {
    let gateway = Gateway::new().await;
    let (client, _pushes, mut peer) = gateway.session(gateway.options()).await;
    let error = client.call("big").data(vec![0; 1 << 20]).send().await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { limit: 1_048_576, size: 1_048_577.. }), "{error:?}");
    let error = client.publish("room:1", vec![0; 1 << 20]).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    let (answer, ()) = tokio::join!(client.call("fits").data(vec![0; (1 << 20) - 100]).send(), async {
        let (msg_id, _, request) = peer.call().await;
        assert_eq!(request.action, "fits");
        peer.send(reply(msg_id, "")).await;
    });
    answer.unwrap();
}

#[tokio::test]
async fn channels_are_subscribed_published_and_read() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    let script = async {
        let subscribe = peer.recv().await;
        let UpBody::Subscribe(request) = subscribe.body else { panic!("not a subscription") };
        assert_eq!(request.since, Some(at("room:1", 41)));
        let head = ChannelResponse {
            channel: "room:1".into(),
            epoch: EPOCH,
            offset: 41,
            recovered: true,
            ..Default::default()
        };
        peer.send(DownFrame::new(subscribe.msg_id, DownBody::ChannelResp(head))).await;
        peer.publish("room:1", 42, 3).await;
        let publish = peer.recv().await;
        let UpBody::Publish(request) = publish.body else { panic!("not a publication: {:?}", publish.body) };
        assert!(!request.idempotency_key.is_empty(), "so that it can be repeated");
        let place =
            ChannelResponse { channel: "room:1".into(), epoch: EPOCH, offset: 43, ..Default::default() };
        peer.send(DownFrame::new(publish.msg_id, DownBody::ChannelResp(place))).await;
        let history = peer.recv().await;
        let UpBody::History(request) = history.body else { panic!("not a history") };
        assert_eq!((request.limit, request.reverse), (10, true));
        let item = wire::Publication { offset: 43, data: "hi".into(), timestamp: 7, sender: "alice".into() };
        let items = ChannelResponse {
            channel: "room:1".into(),
            epoch: EPOCH,
            publications: vec![item],
            ..Default::default()
        };
        peer.send(DownFrame::new(history.msg_id, DownBody::ChannelResp(items))).await;
        let presence = peer.recv().await;
        let members =
            vec![wire::Member { user: "alice".into(), session_id: "s1".into(), ..Default::default() }];
        let present = ChannelResponse { channel: "room:1".into(), members, ..Default::default() };
        peer.send(DownFrame::new(presence.msg_id, DownBody::ChannelResp(present))).await;
        let refused = peer.recv().await;
        let error = Some(ErrorCode::Forbidden.message("not yours"));
        let response = ChannelResponse { channel: "room:2".into(), error, ..Default::default() };
        peer.send(DownFrame::new(refused.msg_id, DownBody::ChannelResp(response))).await;
    };
    let program = async {
        let since = Position { channel: "room:1".into(), epoch: EPOCH, offset: 41 };
        let subscribed = client.subscribe("room:1", Some(since.clone())).await.unwrap();
        assert_eq!((subscribed.position, subscribed.recovered), (since, true));
        let Event::Publication(publication) = next(&mut pushes).await else { panic!("no publication") };
        assert_eq!((publication.position.offset, &publication.data[..]), (42, &b"xxx"[..]));
        assert_eq!(client.publish("room:1", "hi").await.unwrap().offset, 43);
        let history = client.history("room:1", None, 10, Order::NewestFirst).await.unwrap();
        assert_eq!((history[0].position.offset, history[0].sender.as_str()), (43, "alice"));
        assert_eq!(client.presence("room:1").await.unwrap()[0].session, "s1");
        let error = client.subscribe("room:2", None).await.unwrap_err();
        assert_eq!(error.to_string(), "403 FORBIDDEN: not yours");
    };
    tokio::join!(script, program);
}
