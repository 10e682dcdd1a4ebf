//! The Rust client against the real gateway: over every transport, through cuts, drains, restarts and refusals.

use std::time::Duration;

use tokio::time::timeout;
use trunkline_client::{
    Backoff, CallError, Client, ClientTls, ConnectError, Dialect, Event, Options, Pushes, Verdict,
};
use trunkline_testkit::{DEADLINE, Ready, Signal, TestUpstream};
use trunkline_transport::chaos::{Ending, StreamFaults, TcpProxy};

use crate::common::{open_server, server};

/// A client's options for this server, with its endpoints by scheme in order of preference.
fn options(ready: &Ready, user: &str, schemes: &[&str]) -> Options {
    let mut options = Options::new(user, "");
    for scheme in schemes {
        let url = match *scheme {
            "tcp" | "tls" => format!("{scheme}://{}", ready.tcp().unwrap()),
            "ws" | "wss" => format!("{scheme}://{}/ws", ready.http().unwrap()),
            other => format!("{other}://{}", ready.quic().unwrap()),
        };
        options.endpoints.push(url.parse().unwrap());
    }
    options.tls = Some(ClientTls::pinned(vec![ready.certificate().unwrap()]).unwrap());
    options.backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
    options.call_timeout = DEADLINE;
    options
}

async fn next(pushes: &mut Pushes) -> Event {
    timeout(DEADLINE, pushes.next()).await.expect("no event").expect("the events have ended")
}

/// The next event that is not about the connection.
async fn told(pushes: &mut Pushes) -> Event {
    loop {
        match next(pushes).await {
            Event::Started(_) | Event::Lost { .. } => {}
            event => return event,
        }
    }
}

#[tokio::test]
async fn every_transport_and_dialect_calls_listens_and_survives_a_cut() {
    let (server, upstream) = open_server().await;
    let ways = ["tcp", "tls", "ws", "wss", "quic", "wt"];
    for (number, scheme) in ways.into_iter().enumerate() {
        for dialect in [Dialect::Protobuf, Dialect::Json] {
            let user = format!("sdk-{number}-{dialect:?}");
            let mut options = options(server.ready(), &user, &[scheme]);
            options.dialect = dialect;
            let client = Client::connect(options).await.unwrap();
            let mut pushes = client.pushes();
            let Event::Started(started) = next(&mut pushes).await else { panic!("not started") };
            assert_eq!(started.verdict, Verdict::Fresh);
            let reply = client.call("echo").data("{\"x\": 1.0}").send().await.unwrap();
            assert_eq!((reply.code, reply.data), (200, "{\"x\": 1.0}".into()), "{scheme} {dialect:?}");
            let reply = client.call("before").param("titles", "a,b").send().await.unwrap();
            assert_eq!(reply.before.iter().map(|push| push.title.as_str()).collect::<Vec<_>>(), ["a", "b"]);
            let reply = client.call("after").param("titles", "c").send().await.unwrap();
            assert_eq!((reply.before.len(), reply.after[0].content.as_str()), (0, "content of c"));
            client.subscribe("room:sdk", None).await.unwrap();
            client.cut().await;
            let placed = client.publish("room:sdk", "hello").await.unwrap();
            upstream.push_to_user(&user, "after the cut").await.unwrap();
            let (mut heard, mut pushed) = (None, None);
            while heard.is_none() || pushed.is_none() {
                match told(&mut pushes).await {
                    Event::Publication(publication) => heard = Some(publication.position),
                    Event::Push(push) => pushed = Some(push.title),
                    other => panic!("{scheme}: {other:?}"),
                }
            }
            assert_eq!(
                (heard, pushed.as_deref()),
                (Some(placed), Some("after the cut")),
                "{scheme} {dialect:?}"
            );
            client.stop().await;
            assert!(matches!(told(&mut pushes).await, Event::Closed(_)));
        }
    }
}

#[tokio::test]
async fn a_race_prefers_quic_and_does_without_where_udp_is_blocked() {
    let (server, _upstream) = open_server().await;
    let schemes = ["quic", "wss", "tcp"];
    let client = Client::connect(options(server.ready(), "alice", &schemes)).await.unwrap();
    let Event::Started(started) = next(&mut client.pushes()).await else { panic!("not started") };
    assert_eq!(started.transport, "quic");
    // A UDP port where nobody answers.
    let hole = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let blocked = server.ready().with_quic(hole.local_addr().unwrap());
    let mut options = options(&blocked, "bob", &schemes);
    options.head_start = Duration::from_millis(20);
    let client = Client::connect(options).await.unwrap();
    let Event::Started(started) = next(&mut client.pushes()).await else { panic!("not started") };
    assert!(matches!(started.transport, "tcp" | "websocket-tls"), "{}", started.transport);
}

#[tokio::test]
async fn a_client_waits_out_a_restart_and_hears_what_it_lost() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let proxy = TcpProxy::start(first.ready().tcp().unwrap(), 1, StreamFaults::default()).await.unwrap();
    let client =
        Client::connect(options(&first.ready().with_tcp(proxy.address()), "alice", &["tcp"])).await.unwrap();
    let mut pushes = client.pushes();
    client.subscribe("room:1", None).await.unwrap();
    client.publish("room:1", "1").await.unwrap();
    let event = told(&mut pushes).await;
    assert!(matches!(event, Event::Publication(_)), "{event:?}");
    first.kill().await.unwrap();
    let second = server().anonymous().data_dir(data.path()).start().await.unwrap();
    proxy.set_target(second.ready().tcp().unwrap());
    let mut gaps = Vec::new();
    client.publish("room:1", "2").await.unwrap();
    loop {
        match told(&mut pushes).await {
            Event::Gap(gap) => gaps.push(gap.from.channel),
            Event::Publication(publication) => {
                assert_eq!(publication.data, "2");
                break;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(gaps.iter().any(|channel| channel == "room:1"), "{gaps:?}");
}

#[tokio::test]
async fn a_drained_gateway_is_left_for_its_successor() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let proxy = TcpProxy::start(first.ready().tcp().unwrap(), 1, StreamFaults::default()).await.unwrap();
    let client =
        Client::connect(options(&first.ready().with_tcp(proxy.address()), "alice", &["tcp"])).await.unwrap();
    let mut pushes = client.pushes();
    assert!(matches!(next(&mut pushes).await, Event::Started(_)));
    first.signal(Signal::Terminate).unwrap();
    let Event::Lost { code, .. } = next(&mut pushes).await else { panic!("not told") };
    assert_eq!(code, Some(4000));
    assert!(first.exited().await.unwrap().success());
    let second = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let _upstream = TestUpstream::registered(second.ready().grpc().unwrap()).await.unwrap();
    proxy.set_target(second.ready().tcp().unwrap());
    let reply = client.call("echo").data("successor").send().await.unwrap();
    assert_eq!(reply.data, "successor");
}

#[tokio::test]
async fn a_later_client_of_the_device_ends_the_earlier_for_good() {
    let (server, _upstream) = open_server().await;
    let first = Client::connect(options(server.ready(), "alice", &["tcp"])).await.unwrap();
    let mut pushes = first.pushes();
    let second = Client::connect(options(server.ready(), "alice", &["tcp"])).await.unwrap();
    let Event::Closed(closed) = told(&mut pushes).await else { panic!("the first goes on") };
    assert_eq!(closed.code, Some(4301));
    assert!(matches!(first.call("echo").send().await, Err(CallError::Closed(_))));
    assert_eq!(second.call("echo").data("x").send().await.unwrap().data, "x");
}

#[tokio::test]
async fn tokens_are_asked_for_refused_and_refreshed() {
    let server = server().start().await.unwrap();
    let _upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let error = Client::connect(options(server.ready(), "alice", &["tcp"])).await.unwrap_err();
    let ConnectError::Refused(closed) = error else { panic!("let in: {error}") };
    assert_eq!(closed.code, Some(4302));
    let mut options = options(server.ready(), "alice", &["tcp"]);
    options.token = server.token("alice", &["--ttl", "1h"]).await.unwrap();
    let client = Client::connect(options).await.unwrap();
    let error = client.refresh("nonsense").await.unwrap_err();
    assert!(matches!(&error, CallError::Refused(error) if error.error_code == 401), "{error}");
    assert_eq!(
        client.call("echo").data("1").send().await.unwrap().data,
        "1",
        "a refused one changes nothing"
    );
    client.refresh(server.token("alice", &["--ttl", "2h"]).await.unwrap()).await.unwrap();
    client.cut().await;
    assert_eq!(client.call("echo").data("2").send().await.unwrap().data, "2");
}

#[tokio::test]
async fn unread_events_of_a_busy_channel_come_late_and_whole() {
    let (server, upstream) = open_server().await;
    let mut options = options(server.ready(), "alice", &["tcp"]);
    options.event_bytes = 20_000;
    let client = Client::connect(options).await.unwrap();
    let mut pushes = client.pushes();
    client.subscribe("room:busy", None).await.unwrap();
    for number in 0..90 {
        let request = trunkline_proto::wire::ServicePublishRequest {
            channel: "room:busy".into(),
            data: format!("{number:>1000}").into(),
            ..Default::default()
        };
        upstream.gateway().publish(request).await.unwrap();
        if number % 30 == 0 {
            client.call("echo").send().await.expect("unread events hold up no reply");
        }
    }
    for number in 0..90 {
        let Event::Publication(publication) = told(&mut pushes).await else {
            panic!("{number}: no publication")
        };
        assert_eq!(publication.data, format!("{number:>1000}"), "each once and in order, none lost");
    }
}

#[tokio::test]
async fn a_call_is_answered_once_through_a_storm_of_cuts() {
    let (server, upstream) = open_server().await;
    let proxy = TcpProxy::start(server.ready().tcp().unwrap(), 3, StreamFaults::default()).await.unwrap();
    let client =
        Client::connect(options(&server.ready().with_tcp(proxy.address()), "alice", &["tcp"])).await.unwrap();
    for number in 0..30 {
        let key = format!("k{number}");
        let call = client.call("count").param("key", key.as_str()).send();
        let cut = async {
            tokio::task::yield_now().await;
            proxy.cut_all(if number % 2 == 0 { Ending::Reset } else { Ending::Close });
        };
        let (reply, ()) = tokio::join!(call, cut);
        assert_eq!(reply.unwrap().data, "1");
        assert_eq!(upstream.count(&key), 1);
    }
}
