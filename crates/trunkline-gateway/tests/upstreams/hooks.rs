//! What the gateway asks and tells upstreams: `Authenticate`, `Authorize`, `SessionEvents`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trunkline_proto::wire;
use trunkline_service::{Caller, Code, SessionEvent};

use crate::fake::{Bench, Fake, Mode, caller, registration, within};

async fn authenticator(bench: &Bench, address: &str) -> Arc<Fake> {
    let fake = Fake::new(address);
    let accepted = wire::AuthenticateResponse { accepted: true, user: "alice".into(), ..Default::default() };
    *fake.auth.lock() = Ok(accepted);
    bench.net.listen(&fake);
    bench
        .register(wire::UpstreamRegisterRequest { service_name: "auth".into(), ..registration(address, "*") })
        .await;
    bench.until_state(address, "up").await;
    fake
}

#[tokio::test(start_paused = true)]
async fn the_service_auth_says_who_it_is() {
    let bench = Bench::new(|_| {});
    let fake = authenticator(&bench, "auth:1").await;
    let answer = bench.router.authenticate(wire::AuthenticateRequest::default()).await.unwrap();
    assert!(answer.accepted);
    assert_eq!(answer.user, "alice");
    *fake.auth.lock() = Ok(wire::AuthenticateResponse { accepted: false, ..Default::default() });
    assert!(!bench.router.authenticate(wire::AuthenticateRequest::default()).await.unwrap().accepted);
    assert_eq!(bench.call("echo").await.unwrap_err().code, Code::Overloaded, "it serves no calls");
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_that_does_not_answer_is_503_after_5_s() {
    let bench = Bench::new(|_| {});
    let none = bench.router.authenticate(wire::AuthenticateRequest::default()).await.unwrap_err();
    assert_eq!(none.code, Code::Overloaded);
    let fake = authenticator(&bench, "auth:1").await;
    fake.set(Mode::Silent);
    let begun = Instant::now();
    let late = within("the 503", bench.router.authenticate(wire::AuthenticateRequest::default())).await;
    assert_eq!(late.unwrap_err().code, Code::Overloaded);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_second_authenticator_answers_for_one_that_breaks() {
    let bench = Bench::new(|_| {});
    let broken = authenticator(&bench, "auth1:1").await;
    let _well = authenticator(&bench, "auth2:1").await;
    *broken.auth.lock() = Err(tonic::Status::internal("broken"));
    for _ in 0..30 {
        assert!(bench.router.authenticate(wire::AuthenticateRequest::default()).await.unwrap().accepted);
    }
    assert!(broken.seen.lock().auths > 0, "it was asked, and did not decide");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_for_once_within_its_cache_time() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    *fake.authorize.lock() = Ok(wire::AuthorizeResponse { allowed: true, error: None, cache_ms: 1_000 });
    for _ in 0..5 {
        assert!(bench.router.authorize(&caller(), "room:1", "subscribe").await.unwrap().allowed);
    }
    assert_eq!(fake.seen.lock().authorizes, 1);
    bench.router.authorize(&caller(), "room:1", "publish").await.unwrap();
    assert_eq!(fake.seen.lock().authorizes, 2, "another question");
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.router.authorize(&caller(), "room:1", "subscribe").await.unwrap();
    assert_eq!(fake.seen.lock().authorizes, 3, "expired");
    bench.router.session_events(&caller(), SessionEvent::Ended(0));
    bench.router.authorize(&caller(), "room:1", "subscribe").await.unwrap();
    assert_eq!(fake.seen.lock().authorizes, 4, "the session was another one");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_not_allowed() {
    let bench = Bench::new(|_| {});
    let none = bench.router.authorize(&caller(), "room:1", "subscribe").await;
    assert_eq!(none.unwrap_err().code, Code::Overloaded);
    let fake = bench.fakes(1, "003").await.remove(0);
    let seed = bench.router.authorize(&caller(), "room:1", "subscribe").await.unwrap();
    assert!(!seed.allowed, "an upstream without Authorize allows nothing");
    assert_eq!(seed.error.unwrap().name, "FORBIDDEN");
    assert_eq!(bench.router.snapshot().instances[0].failures, 0, "which is no fault of its");
    *fake.authorize.lock() = Err(tonic::Status::internal("broken"));
    assert_eq!(
        bench.router.authorize(&caller(), "room:2", "subscribe").await.unwrap_err().code,
        Code::UpstreamFailed
    );
}

async fn listener(bench: &Bench, address: &str, zone: &str) -> Arc<Fake> {
    let fake = Fake::new(address);
    bench.net.listen(&fake);
    bench
        .register(wire::UpstreamRegisterRequest { session_events: true, ..registration(address, zone) })
        .await;
    fake
}

fn session(at: usize) -> Caller {
    Caller { session: format!("s{at}"), ..caller() }
}

#[tokio::test(start_paused = true)]
async fn session_events_come_in_order_in_batches_and_only_where_asked_for() {
    let bench = Bench::new(|_| {});
    let hears = listener(&bench, "hears:1", "003").await;
    let all = listener(&bench, "all:1", "*").await;
    let elsewhere = listener(&bench, "else:1", "001").await;
    let silent = bench.fakes(1, "003");
    let events =
        [SessionEvent::Started, SessionEvent::Lost, SessionEvent::Resumed, SessionEvent::Ended(4300)];
    for event in events {
        (0..100).for_each(|at| bench.router.session_events(&session(at), event));
    }
    for fake in [&hears, &all] {
        fake.until(|seen| seen.events.len() == 400).await;
        let seen = fake.seen.lock();
        assert!(seen.batches <= 10, "{} batches", seen.batches);
        for at in 0..100 {
            let of_session = seen.events.iter().filter(|event| {
                event.caller.as_ref().is_some_and(|caller| caller.session_id == format!("s{at}"))
            });
            let kinds: Vec<i32> = of_session.map(|event| event.kind).collect();
            assert_eq!(kinds, [1, 3, 2, 4], "session {at}");
        }
        assert_eq!(seen.events.last().unwrap().close_code, 4300);
    }
    assert!(elsewhere.seen.lock().events.is_empty());
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn session_events_wait_for_an_instance_that_is_away_or_refuses() {
    let bench = Bench::new(|_| {});
    let fake = listener(&bench, "u1:1", "003").await;
    bench.until_states(&["up"]).await;
    *fake.refuse_events.lock() = 3;
    bench.router.session_events(&session(0), SessionEvent::Started);
    fake.until(|seen| seen.events.len() == 1).await;
    bench.net.deafen(&fake);
    fake.kill();
    bench.until_states(&["down"]).await;
    for event in [SessionEvent::Lost, SessionEvent::Ended(0)] {
        bench.router.session_events(&session(0), event);
    }
    bench.net.listen(&fake);
    fake.until(|seen| seen.events.len() == 3).await;
    let kinds: Vec<i32> = fake.seen.lock().events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [1, 3, 4]);
}
