//! What the seed's gateway got wrong, each by its number in the list of defects; those that other modules show already
//! (c1, c5, c6, c9, c12, c13) are not repeated.

use std::time::Duration;

use tokio::time::interval;
use trunkline_proto::wire::{self, StartRequest, UpstreamResponse, Verdict};
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestUpstream, Transport, Way};

use crate::common::{again, business, call_frame, client, come_back, error, position, published, server};

#[tokio::test]
async fn c2_a_refusal_for_load_ends_no_session_and_uses_up_no_number() {
    let config = "[limits]\ncalls_per_second = 2\ncall_burst = 1";
    let server = server().anonymous().config(config).start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    let (mut refused, mut msg_id) = (0, 100);
    for number in 1..=4 {
        // Again and again under the same number, until it runs.
        loop {
            msg_id += 1;
            alice.send(&call_frame(msg_id, number, "count", &[("key", "k")], "")).await.unwrap();
            let answer = alice.reply(msg_id).await.unwrap();
            if let trunkline_proto::DownBody::BusinessData(reply) = answer.body {
                assert_eq!(reply.data, number.to_string(), "each number runs once");
                break;
            }
            let refusal = error(answer);
            assert_eq!(refusal.error_code, 503, "{refusal:?}");
            // As long as the calls refused in the last second would stand in a queue, and up to twice that.
            assert!((1..=3000).contains(&refusal.retry_after_ms), "{refusal:?}");
            refused += 1;
            tokio::time::sleep(Duration::from_millis(u64::from(refusal.retry_after_ms))).await;
        }
    }
    assert!(refused > 0, "nothing was refused");
    assert_eq!(upstream.count("k"), 4);
}

#[tokio::test]
async fn c3_what_cannot_be_sent_wedges_nothing() {
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::start_with(server.ready().grpc().unwrap(), |request| {
        let length = request.params.get("length")?.parse().ok()?;
        Some(Ok(UpstreamResponse { code: 200, data: vec![b'x'; length].into(), ..Default::default() }))
    })
    .await
    .unwrap();
    upstream.register("*", "").await.unwrap();
    let mut alice = client(&server, "alice").await;
    for length in ["1048576", "2000000", "10", "3000000", "1048577", "20"] {
        let answer = alice.call_with("fill", &[("length", length)], "").await.unwrap();
        match answer.body {
            trunkline_proto::DownBody::BusinessData(reply) => {
                assert_eq!(reply.data.len().to_string(), length)
            }
            trunkline_proto::DownBody::Error(error) => {
                assert!(error.error_code >= 413, "{length}: {error:?}")
            }
            other => panic!("{length}: {other:?}"),
        }
    }
    upstream.push_to_user("alice", "flows").await.unwrap();
    assert_eq!(published(&alice.push().await.unwrap()).1, "flows");
}

#[tokio::test]
async fn c4_an_ack_of_the_future_makes_nothing_stale() {
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    // As a seed client acks: by number.
    let mut seed = server.connect(Way::TCP).await.unwrap();
    let start = StartRequest { openid: "seed".into(), auth_token: "x".into(), ..Default::default() };
    seed.send(&UpFrame::new(1, 0, UpBody::Start(start.into()))).await.unwrap();
    assert_eq!(seed.frame().await.unwrap().seq_id, 1);
    seed.ack(wire::ClientAck { acked_seq_id: 5_000, ..Default::default() }).await.unwrap();
    let refusal = seed.frame().await.unwrap();
    assert_eq!((refusal.seq_id, error(refusal).error_code), (2, 400));
    for number in 3..8 {
        upstream.push_to_user("seed", "real").await.unwrap();
        let frame = seed.frame().await.unwrap();
        assert_eq!((frame.seq_id, business(frame).message.as_str()), (number, "[test] real"));
    }
}

#[tokio::test]
async fn c7_a_lost_session_is_nobody_elses_for_the_asking() {
    let server = server().start().await.unwrap();
    let token = server.token("victim", &[]).await.unwrap();
    let start = TestClient::start_request("victim", &token);
    let mut victim = server.connect(Way::TCP).await.unwrap();
    let started = victim.start(start.clone()).await.unwrap();
    victim.prove(started.fence).await.unwrap();
    drop(victim);
    let mallory = server.token("mallory", &[]).await.unwrap();
    for (openid, token, resume) in [
        ("victim", "", ""),
        ("victim", mallory.as_str(), ""),
        ("victim", mallory.as_str(), started.resume_token.as_str()),
        ("mallory", mallory.as_str(), started.resume_token.as_str()),
    ] {
        let theft = StartRequest {
            resume_token: resume.into(),
            device_id: start.device_id.clone(),
            instance: start.instance,
            attempt: 99,
            ..TestClient::start_request(openid, token)
        };
        let mut thief = server.connect(Way::TCP).await.unwrap();
        let response = thief.start(theft).await.unwrap();
        assert!(!response.success, "{openid} with {resume:?} got in");
        assert_eq!((response.last_client_seq, response.session_id.as_str()), (0, ""), "nothing is told");
    }
    let positions = vec![position(&started, "user:victim")];
    let (_victim, resumed) = come_back(server.ready(), Way::TCP, again(&start, &started, positions)).await;
    assert_eq!(resumed.verdict(), Verdict::Resumed, "the victim's session is untouched");
}

#[tokio::test]
async fn c8_what_was_pushed_before_start_arrives_as_whole_frames() {
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    for (round, transport) in [Transport::Tcp, Transport::Tls, Transport::Quic].into_iter().enumerate() {
        let way = Way { transport, dialect: Dialect::Protobuf };
        let user = format!("seed{round}");
        let start = || StartRequest { openid: user.clone(), auth_token: "x".into(), ..Default::default() };
        let mut seed = server.connect(way).await.unwrap();
        seed.send(&UpFrame::new(1, 0, UpBody::Start(start().into()))).await.unwrap();
        seed.frame().await.unwrap();
        drop(seed);
        for number in 0..10 {
            let push = wire::UnicastPushRequest {
                target_type: "openid".into(),
                target_id: user.clone(),
                data: vec![number; 40_000].into(),
                ..Default::default()
            };
            assert!(upstream.gateway().push_to_client(push).await.unwrap().into_inner().success);
        }
        let mut seed = server.connect(way).await.unwrap();
        seed.send(&UpFrame::new(1, 0, UpBody::Start(start().into()))).await.unwrap();
        let first = seed.frame().await.unwrap();
        assert_eq!((first.msg_id, first.seq_id), (1, 1), "START_RESP is the first frame");
        for number in 0..10 {
            let frame = seed.frame().await.unwrap();
            assert_eq!(frame.seq_id, u64::from(number) + 2);
            assert_eq!(business(frame).data, vec![number; 40_000], "{transport:?}");
        }
    }
}

#[tokio::test]
async fn c11_the_heartbeat_that_is_told_is_shorter_than_every_idle_timeout() {
    let server = server().anonymous().start().await.unwrap();
    let alice = client(&server, "alice").await;
    let told = Duration::from_secs(alice.started.as_ref().unwrap().heartbeat_interval.try_into().unwrap());
    assert_eq!(told, trunkline_session::defaults::HEARTBEAT);
    // The seed told 30 s, which was its QUIC idle timeout. The gateway's own patience ends before the transport's.
    assert!(told * 5 / 2 < trunkline_transport::defaults::IDLE_TIMEOUT);
    assert!(told < Duration::from_secs(30), "what routers and other QUIC stacks let an idle path go at");
}

#[tokio::test]
async fn c14_bytes_that_trickle_in_do_not_stretch_the_deadline_of_start() {
    let server = server().anonymous().config("[limits]\nstart_timeout = \"500ms\"").start().await.unwrap();
    for transport in [Transport::Tcp, Transport::Tls, Transport::Quic, Transport::WebTransport] {
        let mut slow = server.connect(Way { transport, dialect: Dialect::Protobuf }).await.unwrap();
        let start = Dialect::Protobuf.encode_up(&UpFrame::new(
            1,
            0,
            UpBody::Start(TestClient::start_request("slow", "").into()),
        ));
        let length = u32::try_from(start.len()).unwrap().to_be_bytes();
        let mut bytes = length.into_iter().chain(start);
        let mut ticks = interval(Duration::from_millis(25));
        let code = loop {
            ticks.tick().await;
            // At this pace the whole frame would take seconds.
            let byte = bytes.next().expect("the deadline never came");
            if slow.send_raw(&[byte]).await.is_err() {
                break slow.close_code().await.unwrap();
            }
            if let Some(trunkline_testkit::Received::Frame(frame)) =
                slow.recv_within(Duration::from_millis(1)).await.unwrap()
            {
                let trunkline_proto::DownBody::Close(notice) = frame.body else { panic!("{frame:?}") };
                break notice.code;
            }
        };
        assert_eq!(code, 4403, "{transport:?}");
    }
}
