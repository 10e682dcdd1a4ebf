//! One story of a client, told over every transport and dialect: start, call, pushes on all sides of a reply,
//! subscribe, publish, cut, resume, gap, stop.

use trunkline_proto::wire::{self, PushOutcome, Verdict};
use trunkline_proto::{DownBody, UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestServer, TestUpstream, Way};

use crate::common::{again, business, channel, client, come_back, open_server, position, published};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scenario_passes_over_every_transport_and_dialect() {
    let (server, upstream) = open_server().await;
    for (number, way) in Way::ALL.into_iter().enumerate() {
        println!("{way:?}");
        Story { server: &server, upstream: &upstream, way, user: format!("alice{number}") }.tell().await;
    }
}

/// What a waiting session's window keeps for it, and so what it misses of so many: the history of `short:` is shorter.
const KEPT: usize = 256;
const TOO_MANY: usize = 300;

struct Story<'a> {
    server: &'a TestServer,
    upstream: &'a TestUpstream,
    way: Way,
    user: String,
}

impl Story<'_> {
    async fn tell(&self) {
        let mut alice = self.server.connect(self.way).await.unwrap();
        let start = TestClient::start_request(&self.user, "");
        let started = alice.start(start.clone()).await.unwrap();
        self.is_well_started(&started);
        alice.prove(started.fence).await.unwrap();

        self.calls(&mut alice).await;
        self.pushes(&mut alice).await;
        let (room, plain) = (format!("room:{}", self.user), format!("plain:{}", self.user));
        let short = format!("short:{}", self.user);
        let mut bob = client(self.server, &format!("bob-{}", self.user)).await;
        let mut seen = self.publishes(&mut alice, &mut bob, &room).await;
        seen.push(channel_position(&channel(alice.subscribe(&plain, None).await.unwrap())));
        let lost_from = channel_position(&channel(alice.subscribe(&short, None).await.unwrap()));
        seen.push(lost_from.clone());
        let own = self.drain_pushes(&mut alice).await;
        seen.extend(own);

        drop(alice);
        self.while_away(&mut bob, &room, &plain).await;
        let lost_to = self.too_much(&mut bob, &short).await;
        let (mut alice, resumed) =
            come_back(self.server.ready(), self.way, again(&start, &started, seen)).await;
        assert_eq!(resumed.verdict(), Verdict::Gap, "{resumed:?}");
        let [gap] = &resumed.gaps[..] else { panic!("one channel lost something: {:?}", resumed.gaps) };
        assert_eq!((&gap.channel, gap.epoch, gap.offset), (&short, lost_from.epoch, lost_from.offset));
        assert_eq!(gap.next.as_ref().expect("delivery goes on").offset, lost_to);
        self.is_well_resumed(&mut alice, &started, &resumed, [&room, &plain, &short]).await;
        self.stops(&mut alice).await;
    }

    fn is_well_started(&self, started: &wire::StartResponse) {
        assert!(started.success, "{started:?}");
        assert_eq!(started.verdict(), Verdict::Fresh);
        assert!(started.heartbeat_interval > 0 && started.fence > 0 && !started.resume_token.is_empty());
        for implicit in
            [format!("user:{}", self.user), format!("session:{}", started.session_id), "all".into()]
        {
            position(started, &implicit);
        }
        assert!(started.positions.iter().any(|position| position.channel.starts_with("zone:")));
    }

    async fn calls(&self, alice: &mut TestClient) {
        let data = r#"{"any": ["json", 1.0]}"#;
        let reply = business(alice.call("echo", data).await.unwrap());
        assert_eq!((reply.code, reply.data), (200, data.into()), "data comes back byte for byte");
        let raw: &[u8] = b"\x00\xff not json";
        assert_eq!(business(alice.call("echo", raw).await.unwrap()).data, raw);
        assert_eq!(business(alice.call("nothing", "").await.unwrap()).code, 404, "an upstream's own code");
    }

    /// Before and after come in one frame with the reply, immediately is a publication.
    async fn pushes(&self, alice: &mut TestClient) {
        for (action, expected) in [("before", ["one", "two", "reply"]), ("after", ["reply", "one", "two"])] {
            let frame = alice.call_with(action, &[("titles", "one,two")], "").await.unwrap();
            let DownBody::Group(frames) = frame.body else { panic!("{action}: no group: {frame:?}") };
            let names: Vec<_> = frames
                .into_iter()
                .map(|frame| if frame.msg_id == 0 { business(frame).title } else { "reply".into() })
                .collect();
            assert_eq!(names, expected, "{action}");
        }
        let reply = alice.call_with("immediately", &[("titles", "now")], "").await.unwrap();
        assert_eq!(business(reply).code, 200);
        let push = alice.push().await.unwrap();
        let (position, title) = published(&push);
        assert_eq!((position.channel, title), (format!("user:{}", self.user), "now".into()));
        let push = business(push);
        assert_eq!((push.code, push.message.as_str()), (200, "[test] now"));
        assert_eq!((push.msg_type.as_str(), push.content.as_str()), ("test", "content of now"));
        assert_eq!((push.data, push.metadata["k"].as_str()), ("{\"title\":\"now\"}".into(), "v"));
    }

    /// Both ways, once each; the position that the client has then.
    async fn publishes(
        &self,
        alice: &mut TestClient,
        bob: &mut TestClient,
        room: &str,
    ) -> Vec<wire::ChannelPosition> {
        let head = channel(alice.subscribe(room, None).await.unwrap());
        assert_eq!(head.channel, room);
        let placed = channel(bob.publish(room, "{\"n\":1}").await.unwrap());
        let (at, data) = published(&alice.push().await.unwrap());
        assert_eq!((at.channel.as_str(), at.epoch, at.offset), (room, placed.epoch, placed.offset));
        assert_eq!(data, "{\"n\":1}");
        assert!(at.offset > head.offset);
        let placed = channel(alice.publish(room, "mine").await.unwrap());
        let frame = alice.push().await.unwrap();
        let (at, data) = published(&frame);
        assert_eq!((at.offset, data), (placed.offset, "mine".into()), "publishers hear themselves");
        let DownBody::Publication(publication) = frame.body else { panic!("no publication") };
        assert_eq!(publication.sender, self.user);
        assert!(publication.timestamp > 0);
        vec![at]
    }

    /// What else is on its way; the client's position on its own channel after it.
    async fn drain_pushes(&self, alice: &mut TestClient) -> Option<wire::ChannelPosition> {
        let outcome = self.upstream.push_to_user(&self.user, "last").await.unwrap();
        assert_eq!(outcome.outcome(), PushOutcome::OutcomeDelivered, "{outcome:?}");
        let (at, title) = published(&alice.push().await.unwrap());
        assert_eq!(title, "last");
        Some(at)
    }

    /// Three publications with history, one without, one push.
    async fn while_away(&self, bob: &mut TestClient, room: &str, plain: &str) {
        for data in ["away 1", "away 2", "away 3"] {
            channel(bob.publish(room, data).await.unwrap());
        }
        channel(bob.publish(plain, "live").await.unwrap());
        let outcome = self.upstream.push_to_user(&self.user, "while away").await.unwrap();
        // The gateway may not have noticed the cut yet; either way the push is not lost.
        assert!(outcome.success, "{outcome:?}");
    }

    /// More than is kept for her; where the last is that she loses.
    async fn too_much(&self, bob: &mut TestClient, short: &str) -> u64 {
        let mut offsets = Vec::new();
        for number in 0..TOO_MANY {
            offsets.push(channel(bob.publish(short, number.to_string()).await.unwrap()).offset);
        }
        offsets[TOO_MANY - KEPT - 1]
    }

    async fn is_well_resumed(
        &self,
        alice: &mut TestClient,
        started: &wire::StartResponse,
        resumed: &wire::StartResponse,
        [room, plain, short]: [&str; 3],
    ) {
        assert!(resumed.success, "{resumed:?}");
        assert_eq!(resumed.session_id, started.session_id);
        assert!(resumed.fence > started.fence && resumed.resume_token != started.resume_token);
        assert_eq!(resumed.last_client_seq, 6, "calls so far");
        let (mut in_room, mut in_plain, mut in_short, mut own) = (vec![], vec![], vec![], vec![]);
        for _ in 0..3 + 1 + KEPT + 1 {
            let (at, data) = published(&alice.push().await.unwrap());
            match at.channel {
                name if name == room => in_room.push(data),
                name if name == plain => in_plain.push(data),
                name if name == short => in_short.push(data),
                name => own.push((name, data)),
            }
        }
        assert_eq!(in_plain, ["live"], "what is sent while she is away waits for her without any history");
        let kept: Vec<_> = (TOO_MANY - KEPT..TOO_MANY).map(|number| number.to_string()).collect();
        assert_eq!(in_short, kept, "what follows the gap");
        assert_eq!(in_room, ["away 1", "away 2", "away 3"], "each once and in order");
        assert_eq!(own, [(format!("user:{}", self.user), "while away".into())]);
        alice.next_client_seq = resumed.last_client_seq + 1;
        assert_eq!(business(alice.call("echo", "still here").await.unwrap()).data, "still here");
    }

    async fn stops(&self, alice: &mut TestClient) {
        let stop = wire::StopRequest { reason: wire::stop_request::Reason::UserLogout as i32 };
        alice.send(&UpFrame::new(0, 0, UpBody::Stop(stop))).await.unwrap();
        assert_eq!(alice.close_code().await.unwrap(), 4300);
    }
}

fn channel_position(response: &wire::ChannelResponse) -> wire::ChannelPosition {
    wire::ChannelPosition {
        channel: response.channel.clone(),
        epoch: response.epoch,
        offset: response.offset,
    }
}
