//! SIGTERM while everybody calls: every call that ran is answered, every client is told to come back.

use tokio::task::JoinSet;
use trunkline_proto::DownBody;
use trunkline_testkit::{Signal, TestUpstream};

use crate::common::{client, server};

#[tokio::test]
async fn a_drain_under_load_answers_what_ran_and_ends_well() {
    let mut server = server().start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut clients = JoinSet::new();
    for number in 0..20 {
        let mut client = client(&server, &format!("user{number}")).await;
        clients.spawn(async move {
            let mut answered = 0;
            loop {
                match client.call("echo", "load").await.map(|frame| frame.body) {
                    Ok(DownBody::BusinessData(_)) => answered += 1,
                    // It did not run: the node stops.
                    Ok(DownBody::Error(error)) if error.error_code == 503 => {}
                    Ok(other) => panic!("{other:?}"),
                    Err(_ended) => return (answered, client.close_code().await.unwrap()),
                }
            }
        });
    }
    upstream.until_requests(200).await.unwrap();
    server.signal(Signal::Terminate).unwrap();
    let mut all = 0;
    while let Some(ended) = clients.join_next().await {
        let (answered, code) = ended.unwrap();
        assert_eq!(code, 4000);
        all += answered;
    }
    assert!(server.exited().await.unwrap().success(), "{}", server.output());
    assert!(server.output().contains("every client and call came to its end"), "{}", server.output());
    assert_eq!(all, upstream.requests().len(), "a call ran whose reply was lost");
}
