//! The ends of a client: told by the gateway, or wanted by the program.

use trunkline_client::{CallError, Client, ConnectError, Event};
use trunkline_proto::wire::{CloseNotice, StartResponse};
use trunkline_proto::{CloseCode, DownBody, DownFrame, ErrorCode, UpBody};

use crate::script::{Gateway, next};

#[tokio::test]
async fn a_refused_start_says_why() {
    let gateway = Gateway::new().await;
    let (client, ()) = tokio::join!(Client::connect(gateway.options()), async {
        let (mut peer, msg_id, _) = gateway.accept_start().await;
        let error = Some(ErrorCode::Unauthenticated.message("expired"));
        let refusal = StartResponse { error, ..StartResponse::default() };
        peer.send(DownFrame::new(msg_id, DownBody::StartResp(refusal.into()))).await;
        peer.close(CloseCode::Unauthenticated.notice("the token is expired")).await;
    });
    let Err(ConnectError::Refused(closed)) = client else { panic!("not refused: {client:?}") };
    assert_eq!((closed.code, closed.reason.as_str()), (Some(4302), "the token is expired"));
}

#[tokio::test]
async fn a_refused_start_without_a_close_code_still_says_why() {
    let gateway = Gateway::new().await;
    let (client, ()) = tokio::join!(Client::connect(gateway.options()), async {
        let (mut peer, msg_id, _) = gateway.accept_start().await;
        let error = Some(ErrorCode::Overloaded.message("full"));
        let refusal = StartResponse { error, ..StartResponse::default() };
        peer.send(DownFrame::new(msg_id, DownBody::StartResp(refusal.into()))).await;
    });
    let Err(ConnectError::Refused(closed)) = client else { panic!("not refused: {client:?}") };
    assert_eq!((closed.code, closed.reason.as_str()), (None, "full"));
}

#[tokio::test]
async fn a_connection_that_ends_before_start_is_answered_is_a_refusal() {
    let gateway = Gateway::new().await;
    let (client, ()) = tokio::join!(Client::connect(gateway.options()), async {
        drop(gateway.accept_start().await);
    });
    assert!(matches!(client, Err(ConnectError::Refused(_))), "{client:?}");
}

#[tokio::test]
async fn nobody_there_is_told_with_every_endpoint() {
    let gateway = Gateway::new().await;
    let options = gateway.options();
    drop(gateway);
    let error = Client::connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("tcp://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn told_to_stay_away_the_client_ends_and_says_so() {
    for code in [CloseCode::Replaced, CloseCode::Kicked, CloseCode::ProtocolViolation] {
        let gateway = Gateway::new().await;
        let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
        let (answer, ()) = tokio::join!(client.call("x").send(), async {
            peer.call().await;
            peer.close(code.notice("because")).await;
        });
        assert!(matches!(answer, Err(CallError::ResultUnknown(_))), "it was sent: {answer:?}");
        let Event::Closed(closed) = next(&mut pushes).await else { panic!("no end") };
        assert_eq!((closed.code, closed.reason.as_str()), (Some(code.number()), "because"));
        assert_eq!(pushes.next().await, None);
        assert_eq!(client.call("y").send().await, Err(CallError::Closed(closed)), "{code}");
    }
}

#[tokio::test]
async fn a_notice_that_comes_while_writing_fails_is_still_read() {
    // The notice is in the socket, the gateway is gone, and then the client writes: it must not come back.
    let gateway = Gateway::new().await;
    let (client, mut pushes, peer) = gateway.session(gateway.options()).await;
    peer.close(CloseNotice { code: 4301, ..CloseNotice::default() }).await;
    let (_, event) = tokio::join!(client.call("x").data(vec![0; 100_000]).send(), next(&mut pushes));
    let Event::Closed(closed) = event else { panic!("not the end: {event:?}") };
    assert_eq!(closed.code, Some(4301));
}

#[tokio::test]
async fn stop_says_stop_and_ends_the_events() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    let ((), ()) = tokio::join!(client.stop(), async {
        assert!(matches!(peer.recv().await.body, UpBody::Stop(stop) if stop.reason == 1));
        peer.close(CloseCode::Stopped.notice("stopped")).await;
    });
    let Event::Closed(closed) = next(&mut pushes).await else { panic!("no end") };
    assert_eq!(closed.code, None, "the program's own doing");
    assert_eq!(pushes.next().await, None);
    assert!(matches!(client.call("x").send().await, Err(CallError::Closed(_))));
    client.stop().await;
}

#[tokio::test]
async fn dropping_the_last_handle_cuts_the_connection_without_a_stop() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    let other = client.clone();
    drop(client);
    tokio::join!(
        async { drop(other.call("x").timeout(std::time::Duration::from_millis(20)).send().await) },
        async {
            peer.call().await;
        }
    );
    drop(other);
    while let Some(frame) = peer.try_recv().await {
        assert!(!matches!(frame.body, UpBody::Stop(_)), "the session is to be kept");
    }
    assert!(matches!(next(&mut pushes).await, Event::Closed(_)));
}
