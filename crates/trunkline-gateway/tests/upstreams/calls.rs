//! Calls find their instance, with everything they carry, within their limits.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_gateway::upstream::Route;
use trunkline_proto::wire;
use trunkline_service::grpc::{GatewayAddress, GrpcContext, Remote};
use trunkline_service::{Call, Caller, Code, Reply, Role, Service, SessionEvent, Status, SyncHint, Target};

use crate::fake::{Bench, Fake, Mode, call, caller, fixed, registration, within};

#[tokio::test(start_paused = true)]
async fn a_call_arrives_with_everything_that_is_known_of_it() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    let caller = Caller { device: "d".into(), role: Role::Admin, transport: "quic".into(), ..caller() };
    let mut call = Call { data: "body".into(), client_seq: 9, retry: true, ..call("echo") };
    call.params.insert("a".into(), "1".into());
    call.headers.insert("x-timeout-ms".into(), "2500".into());
    let reply = within("the reply", bench.router.call(&caller, call)).await.unwrap();
    assert_eq!((reply.code, reply.message.as_str(), reply.data), (200, "ok", "u1:1".into()));
    let seen = fake.seen.lock();
    let request = &seen.calls[0];
    assert_eq!((request.openid.as_str(), request.session_id.as_str()), ("alice", "s1"));
    assert_eq!((request.action.as_str(), request.client_seq_id, request.retry), ("echo", 9, true));
    assert_eq!((request.params["a"].as_str(), &request.data[..]), ("1", &b"body"[..]));
    let sent = request.caller.as_ref().unwrap();
    assert_eq!((sent.role.as_str(), sent.device_id.as_str(), sent.fence), ("admin", "d", 7));
    assert_eq!(request.deadline_ms, 2_500);
    assert_eq!(seen.timeouts, ["2500000u"], "the deadline goes out as grpc-timeout too");
}

#[tokio::test(start_paused = true)]
async fn notifies_of_a_response_become_the_replys_pushes() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    let push = wire::UnicastPushRequest {
        target_type: "session".into(),
        target_id: "s1".into(),
        msg_type: "m".into(),
        sync_hint: wire::NotifySyncHint::NshBeforeResponse.into(),
        ..Default::default()
    };
    fake.set(Mode::Notify(vec![push]));
    let reply = bench.call("before").await.unwrap();
    let (target, push) = &reply.pushes[0];
    assert_eq!(*target, Target::Session("s1".into()));
    assert_eq!((push.msg_type.as_str(), push.hint), ("m", SyncHint::BeforeResponse));
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_its_users_zone_and_a_star_serves_all() {
    let bench = Bench::new(|options| options.statics = vec![fixed(&registration("other:1", "001"))]);
    let other = Fake::new("other:1");
    bench.net.listen(&other);
    bench.until_states(&["up"]).await;
    let refused = bench.call("echo").await.unwrap_err();
    assert_eq!(refused.code, Code::Overloaded);
    assert!(refused.message.contains("zone 003"), "{refused}");
    assert!(refused.retry_after.is_some());
    let star = Fake::new("star:1");
    bench.net.listen(&star);
    bench.register(registration("star:1", "*")).await;
    assert_eq!(bench.who("echo").await, "star:1");
    assert_eq!(other.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_longest_route_wins_and_its_service_gets_nothing_else() {
    let route = |prefix: &str, service: &str| Route { prefix: prefix.into(), service: service.into() };
    let bench =
        Bench::new(|options| options.routes = vec![route("shop.", "shop"), route("shop.pay.", "bank")]);
    for (name, service) in [("shop:1", "shop"), ("bank:1", "bank"), ("game:1", "game")] {
        bench.net.listen(&Fake::new(name));
        let request =
            wire::UpstreamRegisterRequest { service_name: service.into(), ..registration(name, "003") };
        bench.register(request).await;
    }
    bench.until_states(&["up"; 3]).await;
    for (action, who) in [("shop.list", "shop:1"), ("shop.pay.card", "bank:1"), ("shop", "game:1")] {
        for _ in 0..8 {
            assert_eq!(bench.who(action).await, who, "{action}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p9_a_call_waits_with_a_small_future() {
    let bench = Bench::new(|_| {});
    let caller = caller();
    let size = size_of_val(&bench.router.call(&caller, call("echo")));
    // 32,768 calls may be under way on a node, and each waits with one: 48 MiB.
    assert!(size <= 1_536, "a call waits with {size} bytes");
}

/// Starts calls that hang, each seen before the next begins.
async fn hanging(bench: &Bench, fakes: &[Arc<Fake>], count: usize) -> JoinSet<Result<Reply, Status>> {
    let mut calls = JoinSet::new();
    for at in 1..=count {
        let router = bench.router.clone();
        calls.spawn(async move { router.call(&caller(), call("echo")).await });
        let arrived = async {
            let mut changed = fakes.iter().map(|fake| fake.changed.subscribe()).collect::<Vec<_>>();
            while fakes.iter().map(|fake| fake.calls()).sum::<usize>() < at {
                let any = changed.iter_mut().map(|changed| Box::pin(changed.changed()));
                futures_util::future::select_all(any).await.0.unwrap();
            }
        };
        within("the call's arrival", arrived).await;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn two_choices_share_the_load_by_weight() {
    let bench = Bench::new(|options| options.health.slow_after = None);
    let mut fakes = Vec::new();
    for (name, weight) in [("light:1", 1), ("heavy:1", 3)] {
        let fake = Fake::new(name);
        fake.set(Mode::Hang);
        bench.net.listen(&fake);
        bench.register(wire::UpstreamRegisterRequest { weight, ..registration(name, "003") }).await;
        fakes.push(fake);
    }
    bench.until_states(&["up"; 2]).await;
    let _calls = hanging(&bench, &fakes, 40).await;
    assert_eq!((fakes[0].calls(), fakes[1].calls()), (10, 30));
}

#[tokio::test(start_paused = true)]
async fn l2_an_instance_never_runs_more_than_it_takes() {
    let bench = Bench::new(|_| {});
    let fake = Fake::new("u1:1");
    fake.set(Mode::Hang);
    bench.net.listen(&fake);
    bench.register(wire::UpstreamRegisterRequest { max_in_flight: 4, ..registration("u1:1", "003") }).await;
    bench.until_states(&["up"]).await;
    let fakes = [fake.clone()];
    let mut calls = hanging(&bench, &fakes, 4).await;
    for _ in 0..20 {
        let refused = bench.call("echo").await.unwrap_err();
        assert_eq!(refused.code, Code::Overloaded);
        assert!(refused.retry_after.is_some());
    }
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    fake.until(|seen| seen.running == 0).await;
    fake.set(Mode::Good);
    assert_eq!(bench.who("echo").await, "u1:1", "cancelled calls give their places back");
    assert_eq!(fake.seen.lock().most_running, 4);
}

#[tokio::test(start_paused = true)]
async fn the_limit_over_all_instances_holds() {
    let bench = Bench::new(|options| options.max_in_flight_total = Some(3));
    let fakes = bench.fakes(2, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Hang));
    let _calls = hanging(&bench, &fakes, 3).await;
    assert_eq!(bench.call("echo").await.unwrap_err().code, Code::Overloaded);
    assert_eq!(bench.router.snapshot().traffic.in_flight, 3);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_instance_is_a_timeout_at_the_deadline() {
    let bench = Bench::new(|_| {});
    bench.fakes(1, "003").await[0].set(Mode::Hang);
    for (header, expected) in [(None, 30_000), (Some("250"), 250), (Some("99999999"), 30_000)] {
        let mut call = call("echo");
        call.headers.extend(header.map(|ms| ("x-timeout-ms".to_owned(), ms.to_owned())));
        let begun = Instant::now();
        let status = within("the timeout", bench.router.call(&caller(), call)).await.unwrap_err();
        assert_eq!(status.code, Code::UpstreamTimeout);
        assert_eq!(begun.elapsed().as_millis(), expected, "virtual time");
    }
    let call = Call { deadline: Duration::from_millis(70), ..call("echo") };
    let begun = Instant::now();
    within("the timeout", bench.router.call(&caller(), call)).await.unwrap_err();
    assert_eq!(begun.elapsed().as_millis(), 70);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_no_number_is_the_clients_mistake() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    for wrong in ["", "0", "-1", "soon", "1.5", "99999999999999999999999"] {
        let mut call = call("echo");
        call.headers.insert("x-timeout-ms".into(), wrong.into());
        let status = bench.router.call(&caller(), call).await.unwrap_err();
        assert_eq!(status.code, Code::BadRequest, "{wrong:?}");
    }
    assert_eq!(fake.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_says_keeps_its_meaning() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Code(418));
    assert_eq!(bench.call("echo").await.unwrap().code, 418);
    for (grpc, code) in [
        (tonic::Code::InvalidArgument, Code::BadRequest),
        (tonic::Code::PermissionDenied, Code::Forbidden),
        (tonic::Code::NotFound, Code::NotFound),
        // Only an upstream that says so in our own words has not run the call.
        (tonic::Code::ResourceExhausted, Code::UpstreamFailed),
        (tonic::Code::DeadlineExceeded, Code::UpstreamTimeout),
        (tonic::Code::Internal, Code::UpstreamFailed),
        (tonic::Code::Unimplemented, Code::UpstreamFailed),
    ] {
        fake.set(Mode::Fail(grpc));
        assert_eq!(bench.call("echo").await.unwrap_err().code, code, "{grpc:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_idempotent_runs_again_where_it_may_have_run() {
    let bench = Bench::new(|_| {});
    let fakes = bench.fakes(3, "003").await;
    fakes.iter().for_each(|fake| fake.set(Mode::Fail(tonic::Code::Unavailable)));
    let total = || fakes.iter().map(|fake| fake.calls()).sum::<usize>();
    assert_eq!(bench.call("put").await.unwrap_err().code, Code::UpstreamFailed);
    assert_eq!(total(), 1, "it may have run: not again");
    assert_eq!(bench.call("get.user").await.unwrap_err().code, Code::UpstreamFailed);
    assert_eq!(total(), 4, "each instance once");
    let retries = fakes.iter().flat_map(|fake| fake.seen.lock().calls.clone()).filter(|call| call.retry);
    assert_eq!(retries.count(), 2, "a repetition says so");
    assert!(bench.router.is_idempotent("get.user"));
    assert!(!bench.router.is_idempotent("put"));
    bench
        .register(wire::UpstreamRegisterRequest { idempotent_actions: vec![], ..registration("n:1", "001") })
        .await;
    assert!(!bench.router.is_idempotent("get.user"), "not all of the service's instances say so");
}

#[tokio::test(start_paused = true)]
async fn the_configuration_may_declare_idempotence_for_seed_upstreams() {
    let bench = Bench::new(|options| options.idempotent_actions = vec!["time".into()]);
    assert!(bench.router.is_idempotent("time"));
    assert!(!bench.router.is_idempotent("timer"));
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_running_calls_end_and_takes_no_new_ones() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Slow(Duration::from_secs(3)));
    let fakes = [fake.clone()];
    let mut calls = hanging(&bench, &fakes, 1).await;
    let router = bench.router.clone();
    let mut ending = JoinSet::new();
    ending.spawn(async move { router.shutdown(Instant::now() + Duration::from_secs(10)).await });
    let reply = within("the running call", calls.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().code, 200);
    within("the end", ending.join_next()).await.unwrap().unwrap();
    assert_eq!(bench.call("echo").await.unwrap_err().code, Code::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_at_its_deadline_whatever_hangs() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    fake.set(Mode::Hang);
    let fakes = [fake];
    let mut calls = hanging(&bench, &fakes, 1).await;
    within("the end", bench.router.shutdown(Instant::now() + Duration::from_secs(2))).await;
    let status = within("the cut call", calls.join_next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code, Code::UpstreamFailed);
}

/// A service that refuses by its user's name, to see codes on their way through gRPC.
struct Refusing;

#[async_trait]
impl Service for Refusing {
    fn action_prefix(&self) -> &str {
        ""
    }

    async fn call(&self, _caller: &Caller, call: Call) -> Result<Reply, Status> {
        match Code::from_name(&call.action) {
            Some(code) => {
                Err(Status { code, message: "as asked".into(), retry_after: Some(Duration::from_secs(3)) })
            }
            None => Ok(Reply::ok(call.data)),
        }
    }

    async fn session_event(&self, _caller: &Caller, _event: SessionEvent) {}
}

#[tokio::test]
async fn a_services_own_failures_pass_through_grpc_as_they_are() {
    let bench = Bench::new(|_| {});
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let gateway = GatewayAddress::new("127.0.0.1:1", None).unwrap();
    let remote = Remote::new(Arc::new(Refusing), Arc::new(GrpcContext::new(&gateway)));
    let mut serving = JoinSet::new();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(remote.into_server());
    serving.spawn(async move { server.serve_with_incoming(incoming).await });
    let options = trunkline_gateway::upstream::UpstreamOptions {
        statics: vec![fixed(&registration(&address, "*"))],
        ..Default::default()
    };
    let router = trunkline_gateway::upstream::Upstreams::new(options, bench.broker.clone());
    let reply = within("the reply", router.call(&caller(), Call { data: "x".into(), ..call("any") })).await;
    assert_eq!(reply.unwrap().data, "x");
    for code in Code::ALL {
        let status = within("the refusal", router.call(&caller(), call(code.name()))).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, "as asked"));
        assert_eq!(status.retry_after, Some(Duration::from_secs(3)));
    }
}
