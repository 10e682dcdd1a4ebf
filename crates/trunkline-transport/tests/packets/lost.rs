//! Connections that are lost: who serves them hears of it and may finish.

use tokio::{net::TcpStream, sync::mpsc};
use trunkline_transport::{CloseReason, RecvError, TransportServerBuilder};

use crate::harness::{Kind, Serving, within};

#[tokio::test]
async fn a_handler_hears_of_a_lost_connection_and_finishes() {
    let (say, mut said) = mpsc::channel(1);
    let serving = Serving::with(Kind::Tcp, TransportServerBuilder::new(), move |mut session| {
        let say = say.clone();
        async move {
            say.send(Ok(())).await.unwrap();
            let end = session.recv().await.map(drop);
            // It may take some time over that.
            tokio::task::yield_now().await;
            say.send(end.clone()).await.unwrap();
            Ok(end?)
        }
    })
    .await;
    let peer = TcpStream::connect(serving.address()).await.unwrap();
    assert_eq!(within(said.recv()).await, Some(Ok(())));
    // A reset: the peer's machine is gone.
    peer.set_zero_linger().unwrap();
    drop(peer);
    let end = within(said.recv()).await.expect("it was dropped unheard");
    assert!(matches!(end, Err(RecvError::Closed(CloseReason::Lost(_)))), "{end:?}");
}
