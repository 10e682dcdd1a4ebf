//! Processor time by function: bounded, one at a time, for operators.

use prost::Message;
use tokio::time::Instant;

use crate::common::{client, get, server};

/// What is looked at of pprof's `profile.proto`.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

#[tokio::test]
async fn a_profile_names_where_the_time_goes_and_only_one_is_taken() {
    let server = server().start().await.unwrap();
    let mut alice = client(&server, "alice").await;
    let metrics = server.ready().metrics().unwrap();
    let begin = Instant::now();
    let first = get(metrics, "/debug/pprof/profile?seconds=3");
    tokio::pin!(first);
    let mut refused = None;
    let (status, bytes) = loop {
        tokio::select! {
            biased;
            profile = &mut first => break profile,
            // The node has something to do meanwhile.
            _ = alice.call("trunkline.echo", "work") => {}
        }
        if refused.is_none() && begin.elapsed().as_millis() > 500 {
            refused = Some(get(metrics, "/debug/pprof/profile?seconds=1").await);
        }
    };
    let (refused, said) = refused.expect("the profile took no time");
    assert_eq!(
        (refused, said.as_slice()),
        (409, &b"a profile is being taken: ask again when it is done\n"[..])
    );
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
    let profile = Profile::decode(bytes.as_slice()).unwrap();
    assert_eq!(profile.duration_nanos, 3_000_000_000);
    assert!(!profile.sample.is_empty(), "a node that works all the time was never seen at work");
    let known = |id: &u64| profile.location.iter().any(|location| location.id == *id);
    for sample in &profile.sample {
        assert!(
            sample.value.len() == 2 && sample.value[0] > 0 && sample.location.iter().all(known),
            "{sample:?}"
        );
    }
    let name = |function: &Function| profile.strings[usize::try_from(function.name).unwrap()].as_str();
    assert!(profile.function.iter().all(|function| function.id > 0));
    assert!(
        profile.function.iter().map(name).any(|name| name.contains("trunkline")),
        "{:?}",
        profile.strings
    );

    // And again: the place is free.
    assert_eq!(get(metrics, "/debug/pprof/profile?seconds=1").await.0, 200);
    for wrong in ["0", "61", "many"] {
        let (status, said) = get(metrics, &format!("/debug/pprof/profile?seconds={wrong}")).await;
        assert_eq!(status, 400);
        assert_eq!(said, b"seconds: wanted a number from 1 to 60\n");
    }
    assert_eq!(
        get(server.ready().http().unwrap(), "/debug/pprof/profile").await.0,
        404,
        "it is for operators"
    );
}

#[tokio::test]
async fn a_profile_may_take_longer_than_a_client_may_not_read() {
    // Six times the time for a head is 600 ms.
    let server = server().config("[limits]\nhandshake_timeout = \"100ms\"").start().await.unwrap();
    let (status, _) = get(server.ready().metrics().unwrap(), "/debug/pprof/profile?seconds=2").await;
    assert_eq!(status, 200);
}
