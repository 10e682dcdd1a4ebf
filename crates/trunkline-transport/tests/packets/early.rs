//! 0-RTT: idempotent requests alone leave before the handshake is complete, and nothing is taken that may not be sent twice.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::IntoFuture,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};
use trunkline_transport::{
    BuildError, ClientTls, Flags, Packet, QuicClientConfig, QuicServerConfig, RequestError, SendError,
    Session, Tls, TlsError, TransportClient, TransportClientBuilder, TransportServerBuilder, Wire,
    certificate::{self, SelfSigned},
};

use crate::{
    harness::{Kind, Serving, within},
    raw,
};

/// Long enough for what should not happen to happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// Between two looks at what has to happen.
const A_MOMENT: Duration = Duration::from_millis(5);

/// Carries datagrams to a server, and those back when told; it remembers what it has carried to the server.
struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

struct State {
    target: SocketAddr,
    recorded: Vec<Vec<u8>>,
    /// Answers that are held back, each with its client; none passes them.
    held: Option<Vec<(Vec<u8>, SocketAddr)>>,
    front: Arc<UdpSocket>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let state = State { target, recorded: Vec::new(), held: None, front: Arc::clone(&front) };
        let state = Arc::new(Mutex::new(state));
        let mut tasks = JoinSet::new();
        let known = Arc::clone(&state);
        tasks.spawn(async move {
            let (mut buffer, mut backs) = (vec![0; 1 << 16], HashMap::new());
            let mut answering = JoinSet::new();
            loop {
                let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
                let target = {
                    let mut known = known.lock();
                    known.recorded.push(buffer[..length].to_vec());
                    known.target
                };
                // Each client has a way of its own to the server, for one that ends is still heard of.
                if let Entry::Vacant(new) = backs.entry(client) {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    answering.spawn(answer(Arc::clone(&back), client, Arc::clone(&known)));
                    new.insert(back);
                }
                let _gone = backs[&client].send_to(&buffer[..length], target).await;
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// A datagram of early data alone has passed (RFC 9000, 17.2.3).
    async fn early_data(&self) {
        while !self.state.lock().recorded.iter().any(|datagram| datagram[0] & 0xb0 == 0x90) {
            tokio::time::sleep(A_MOMENT).await;
        }
    }

    /// Answers are held back until they pass again.
    fn answers(&self, pass: bool) {
        let mut state = self.state.lock();
        let held = std::mem::replace(&mut state.held, (!pass).then(Vec::new));
        for (datagram, client) in held.into_iter().flatten() {
            state.front.try_send_to(&datagram, client).unwrap();
        }
    }

    /// Answers that were held back are lost; those to come pass.
    fn lose(&self) {
        self.state.lock().held = None;
    }
}

/// What the server answers a client.
async fn answer(back: Arc<UdpSocket>, client: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok((length, _)) = back.recv_from(&mut buffer).await else { continue };
        let mut state = state.lock();
        if let Some(held) = &mut state.held {
            held.push((buffer[..length].to_vec(), client));
        } else {
            // A full socket loses it, as a network may.
            let _lost = state.front.try_send_to(&buffer[..length], client);
        }
    }
}

/// A server that tells what it hears, and answers requests.
async fn server(made: &SelfSigned, early: bool) -> (Serving, mpsc::Receiver<String>) {
    let tls = Tls::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    let config = QuicServerConfig::new("127.0.0.1:0").tls(tls);
    let config = if early { config.accept_early_data() } else { config };
    let server = TransportServerBuilder::new().with_protocol(config).build().await.unwrap();
    let (say, heard) = mpsc::channel(1000);
    let serving = Serving::of(Kind::Quic, server, move |mut session: Session| {
        let say = say.clone();
        async move {
            while let Some(packet) = session.recv().await? {
                say.send(packet.payload_as_string().unwrap()).await.unwrap();
                if packet.is_request() {
                    session.send(packet.reply(packet.payload.clone())).await?;
                }
            }
            Ok(())
        }
    });
    (serving, heard)
}

fn config(made: &SelfSigned, relay: &Relay) -> QuicClientConfig {
    let trust = ClientTls::authority(made.certificate_pem.as_bytes()).unwrap();
    QuicClientConfig::new(format!("localhost:{}", relay.address.port())).tls(trust)
}

async fn client(config: &QuicClientConfig) -> TransportClient {
    TransportClientBuilder::new().with_protocol(config.clone()).build().await.unwrap()
}

/// A first connection, after which the client and the server know each other.
async fn acquaint(config: &QuicClientConfig, heard: &mut mpsc::Receiver<String>) {
    let client = client(config).await;
    within(client.connect()).await.unwrap();
    assert_eq!(within(async { client.request("hello").await }).await.unwrap().payload, "hello");
    assert_eq!(within(heard.recv()).await.unwrap(), "hello");
    within(client.disconnect()).await;
    assert_eq!(client.stats().early_requests, 0);
}

/// Connects, and asks meanwhile. The server's answers pass when this has come to an end.
async fn connect_and_ask(client: &TransportClient, relay: &Relay, what: &str, end: impl Future<Output = ()>) {
    relay.answers(false);
    let answers = async {
        end.await;
        relay.answers(true);
    };
    let request = client.request(what.to_owned()).idempotent().timeout(Duration::from_secs(60));
    let all = async { tokio::join!(client.connect(), request.into_future(), answers) };
    let (connected, answer, ()) = within(all).await;
    connected.unwrap();
    assert_eq!(answer.unwrap().payload, what.as_bytes());
}

/// Ten requests, of which five may go early.
async fn ask_ten(client: &TransportClient) {
    let asking = (0..10_u8).map(async |i| {
        let payload = vec![b'a' + i; 1_100];
        let request = client.request(payload.clone()).idempotent();
        assert_eq!(request.await.unwrap().payload, payload);
    });
    futures_util::future::join_all(asking).await;
}

/// Until the server has taken those that may go early.
async fn five_have_come(serving: &Serving) {
    while serving.server.stats().received_early < 5 {
        tokio::time::sleep(A_MOMENT).await;
    }
}

/// What does not fit into the client's first datagram.
fn long(word: &str) -> String {
    word.repeat(1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_is_there_before_the_handshake_is_complete_and_nothing_else() {
    let made = certificate::self_signed(&[]).unwrap();
    let (serving, mut heard) = server(&made, true).await;
    let relay = Relay::start(serving.address()).await;
    let config = config(&made, &relay).early_data();
    acquaint(&config, &mut heard).await;
    let client = client(&config).await;
    // Nothing comes back, so that the client's handshake cannot be complete.
    relay.answers(false);
    let asked = client.clone();
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        let request = asked.request("early").idempotent().timeout(Duration::from_secs(60));
        let (connected, answer) = tokio::join!(asked.connect(), request.into_future());
        connected.unwrap();
        assert_eq!(answer.unwrap().payload, "early");
    });
    assert_eq!(within(heard.recv()).await.unwrap(), "early");
    // What is not marked has no way to the server yet.
    assert!(!client.is_connected());
    let not_sent = |sent: Result<Packet, RequestError>| {
        assert!(matches!(sent, Err(RequestError::NotSent(SendError::NotConnected))), "{sent:?}");
    };
    not_sent(client.request("plain").await);
    not_sent(client.request(Packet::request(7, "with a number")).await);
    assert!(matches!(client.send("one-way").await, Err(SendError::NotConnected)));
    assert!(matches!(client.try_send("one-way").unwrap_err(), SendError::NotConnected));
    assert!(timeout(A_WHILE, heard.recv()).await.is_err(), "something else was sent");
    let stats = serving.server.stats();
    assert_eq!(
        (stats.received_early, stats.received_packets),
        (1, 2),
        "with the one of the first connection"
    );
    relay.answers(true);
    within(asking.join_next()).await.unwrap().unwrap();
    let stats = client.stats();
    assert_eq!((stats.early_requests, stats.early_resent, stats.sent_requests), (1, 0, 1));
    // Now everything goes, in its order.
    client.send("one-way").await.unwrap();
    assert_eq!(within(async { client.request("plain").await }).await.unwrap().payload, "plain");
    assert_eq!(within(heard.recv()).await.unwrap(), "one-way");
    assert_eq!(within(heard.recv()).await.unwrap(), "plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_go_early_up_to_the_limit_and_the_rest_follows() {
    let made = certificate::self_signed(&[]).unwrap();
    let (serving, mut heard) = server(&made, true).await;
    let relay = Relay::start(serving.address()).await;
    let config = config(&made, &relay).early_data();
    acquaint(&config, &mut heard).await;
    let client = client(&config).await;
    relay.answers(false);
    let answers = async {
        five_have_come(&serving).await;
        // Another one, if there were, would have come by then.
        tokio::time::sleep(A_WHILE).await;
        relay.answers(true);
    };
    let (connected, ..) = within(async { tokio::join!(client.connect(), ask_ten(&client), answers) }).await;
    connected.unwrap();
    let stats = client.stats();
    assert_eq!(stats.early_requests, 5, "what fits into 6 KiB");
    assert_eq!((stats.sent_requests, stats.early_resent), (10, 0));
    let mut all: Vec<String> = Vec::new();
    while let Ok(one) = heard.try_recv() {
        all.push(one);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 10, "each once");
    assert_eq!(serving.server.stats().received_requests, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_requests_leave_room_for_the_handshake_when_every_first_answer_is_lost() {
    let made = certificate::self_signed(&[]).unwrap();
    let (serving, mut heard) = server(&made, true).await;
    let relay = Relay::start(serving.address()).await;
    let config = config(&made, &relay).early_data();
    acquaint(&config, &mut heard).await;
    let client = client(&config).await;
    relay.answers(false);
    let answers = async {
        five_have_come(&serving).await;
        relay.lose();
    };
    // Nothing tells the client what has come, so that all of it is still under way for its congestion control.
    let (connected, ..) = within(async { tokio::join!(client.connect(), ask_ten(&client), answers) }).await;
    connected.unwrap();
    assert_eq!(client.stats().early_requests, 5);
    assert_eq!(serving.server.stats().received_requests, 11, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_has_not_taken_is_sent_again_once() {
    let made = certificate::self_signed(&[]).unwrap();
    let (first, mut heard) = server(&made, true).await;
    let relay = Relay::start(first.address()).await;
    let config = config(&made, &relay).early_data();
    acquaint(&config, &mut heard).await;
    // A server that knows nothing of the one before it.
    let (second, mut heard) = server(&made, true).await;
    {
        let mut state = relay.state.lock();
        state.target = second.address();
        state.recorded.clear();
    }
    let client = client(&config).await;
    let again = long("again");
    connect_and_ask(&client, &relay, &again, relay.early_data()).await;
    let stats = client.stats();
    assert_eq!((stats.early_requests, stats.early_resent, stats.sent_requests), (0, 1, 1));
    assert_eq!(within(heard.recv()).await.unwrap(), again);
    assert!(timeout(A_WHILE, heard.recv()).await.is_err(), "it was handled twice");
    let stats = second.server.stats();
    assert_eq!((stats.received_early, stats.received_requests), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_not_taken_again() {
    let made = certificate::self_signed(&[]).unwrap();
    let (serving, mut heard) = server(&made, true).await;
    let relay = Relay::start(serving.address()).await;
    let config = config(&made, &relay).early_data();
    acquaint(&config, &mut heard).await;
    relay.state.lock().recorded.clear();
    let client = client(&config).await;
    let once = long("once");
    connect_and_ask(&client, &relay, &once, relay.early_data()).await;
    assert_eq!(client.stats().early_requests, 1);
    assert_eq!(within(heard.recv()).await.unwrap(), once);
    // While the server knows the first connection, it takes what comes again for a part of it, and says nothing.
    within(client.disconnect()).await;
    let mut recorded = relay.state.lock().recorded.clone();
    recorded.retain(|datagram| datagram[0] & 0x80 != 0);
    let thief = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    // It answers a handshake that is new to it.
    let is_answered = async {
        loop {
            for datagram in &recorded {
                thief.send_to(datagram, serving.address()).await.unwrap();
            }
            if timeout(A_WHILE, thief.recv_from(&mut buffer)).await.is_ok() {
                break;
            }
        }
    };
    within(is_answered).await;
    assert!(timeout(A_WHILE, heard.recv()).await.is_err(), "it was handled twice");
    assert_eq!(serving.server.stats().received_early, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_the_handshake_with_what_is_not_idempotent() {
    let made = certificate::self_signed(&[]).unwrap();
    let (serving, mut heard) = server(&made, true).await;
    let relay = Relay::start(serving.address()).await;
    // One that cares for nothing.
    let rogue = raw::Rogue::new(&made.certificate_pem, relay.address);
    let packet = |text: &'static str, flags| {
        let mut packet = Packet::request(1, text);
        packet.flags = flags;
        packet.to_bytes(Wire::V2).unwrap()
    };
    let (mut send, mut recv, connection) = rogue.connect().await;
    raw::write(&mut send, &packet("hello", Flags::default())).await;
    assert_eq!(within(heard.recv()).await.unwrap(), "hello");
    // With the answer it has what it takes to come again.
    assert_eq!(raw::packet(&mut recv).await.payload, "hello");
    drop((send, recv, connection));
    relay.answers(false);
    let (mut send, _recv, _connection) = rogue.connect_early().await;
    raw::write(&mut send, &packet("marked", Flags::IDEMPOTENT)).await;
    raw::write(&mut send, &packet("not marked", Flags::default())).await;
    raw::write(&mut send, &packet("marked, but behind", Flags::IDEMPOTENT)).await;
    assert_eq!(within(heard.recv()).await.unwrap(), "marked");
    assert!(timeout(A_WHILE, heard.recv()).await.is_err(), "it did not wait");
    relay.answers(true);
    assert_eq!(within(heard.recv()).await.unwrap(), "not marked");
    assert_eq!(within(heard.recv()).await.unwrap(), "marked, but behind");
    assert_eq!(serving.server.stats().received_early, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_early_unless_both_sides_say_so() {
    let made = certificate::self_signed(&[]).unwrap();
    for (server_takes, client_sends) in [(false, true), (true, false)] {
        let (serving, mut heard) = server(&made, server_takes).await;
        let relay = Relay::start(serving.address()).await;
        let config = config(&made, &relay);
        let config = if client_sends { config.early_data() } else { config };
        acquaint(&config, &mut heard).await;
        let client = client(&config).await;
        if client_sends {
            connect_and_ask(&client, &relay, "in time", tokio::time::sleep(A_WHILE)).await;
        } else {
            within(client.connect()).await.unwrap();
            let answer = within(async { client.request("in time").idempotent().await }).await;
            assert_eq!(answer.unwrap().payload, "in time");
        }
        assert_eq!(within(heard.recv()).await.unwrap(), "in time");
        let (ours, theirs) = (client.stats(), serving.server.stats());
        assert_eq!((ours.early_requests, ours.early_resent, theirs.received_early), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_clients_for_certificates_takes_nothing_early() {
    let made = certificate::self_signed(&[]).unwrap();
    let tls = Tls::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    let tls = tls.client_authority(made.certificate_pem.as_bytes());
    let config = QuicServerConfig::new("127.0.0.1:0").tls(tls).accept_early_data();
    let error = TransportServerBuilder::new().with_protocol(config).build().await.unwrap_err();
    assert!(error.to_string().contains(&TlsError::EarlyData.to_string()), "{error}");
    assert!(matches!(error, BuildError::Bind { .. }));
}
