//! D9: who is on the other side of TLS, WSS, QUIC and WebTransport, by certificates; and who is not let in for want of one.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::sync::mpsc;
use trunkline_transport::{
    ClientProtocol, ClientTls, QuicClientConfig, QuicServerConfig, ServerProtocol, Session, TcpClientConfig,
    TcpServerConfig, Tls, TlsInfo, TlsVersion, TransportClientBuilder, TransportServerBuilder,
    WebSocketClientConfig, WebSocketServerConfig, WebTransportClientConfig, WebTransportServerConfig,
    certificate,
};

use crate::harness::{Kind, Serving, echo, within};

const ENCRYPTED: [Kind; 4] = [Kind::Tls, Kind::WebSocketTls, Kind::Quic, Kind::WebTransport];

/// An authority, and a client's certificate of it.
struct Authority {
    pem: String,
    client_pem: String,
    client_der: Vec<u8>,
    client_key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let mut client = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client_key = KeyPair::generate().unwrap();
        let made = client.signed_by(&client_key, &Issuer::new(params, key)).unwrap();
        Self {
            pem: root.pem(),
            client_pem: made.pem(),
            client_der: made.der().to_vec(),
            client_key: client_key.serialize_pem(),
        }
    }

    /// The same trust, and a client that proves itself.
    fn prove(&self, trust: &ClientTls) -> ClientTls {
        trust.clone().identity(self.client_pem.as_bytes(), self.client_key.as_bytes()).unwrap()
    }
}

/// A server whose handler tells what it knows of each connection.
struct Server {
    serving: Serving,
    trust: ClientTls,
    fingerprint: [u8; 32],
    known: mpsc::Receiver<Option<Box<TlsInfo>>>,
}

impl Server {
    async fn start(kind: Kind, ask: impl Fn(Tls) -> Tls) -> Self {
        let tls = ask(Tls::self_signed_dev().unwrap());
        let fingerprint = tls.fingerprint();
        let trust = ClientTls::pinned(vec![fingerprint]).unwrap();
        let (told, known) = mpsc::channel(8);
        let builder = TransportServerBuilder::new().with_protocol(listener(kind, tls));
        let server = builder.build().await.unwrap();
        let serving = Serving::of(kind, server, move |session: Session| {
            let told = told.clone();
            async move {
                told.send(session.connection_info().tls.clone()).await.unwrap();
                echo(session).await
            }
        });
        Self { serving, trust, fingerprint, known }
    }

    fn protocol(&self, trust: ClientTls) -> ClientProtocol {
        let at = self.serving.address().to_string();
        match self.serving.kind {
            Kind::Tls => TcpClientConfig::new(at).tls(trust).into(),
            Kind::WebSocketTls => WebSocketClientConfig::new(format!("wss://{at}")).tls(trust).into(),
            Kind::Quic => QuicClientConfig::new(at).tls(trust).into(),
            Kind::WebTransport => WebTransportClientConfig::new(format!("https://{at}")).tls(trust).into(),
            _ => unreachable!("it is not encrypted"),
        }
    }

    /// Lets a client in, and says what each side knows of the other: the client's view, the handler's.
    async fn let_in(&mut self, trust: ClientTls) -> (TlsInfo, TlsInfo) {
        let client = TransportClientBuilder::new().with_protocol(self.protocol(trust));
        let client = client.build().await.unwrap();
        within(client.connect()).await.unwrap();
        assert_eq!(within(async { client.request("x").await }).await.unwrap().payload, "x");
        let server_is = client.session().unwrap().connection_info().tls.clone();
        let client_is = within(self.known.recv()).await.unwrap();
        client.disconnect().await;
        (*server_is.expect("it is encrypted"), *client_is.expect("it is encrypted"))
    }

    /// A client that is not let in: it learns that at the latest by its first request. In TLS 1.3 its own side of the
    /// handshake is over before the server has seen its certificate.
    async fn refuse(&self, trust: ClientTls) {
        let client = TransportClientBuilder::new().with_protocol(self.protocol(trust));
        let client = client.build().await.unwrap();
        if within(client.connect()).await.is_ok() {
            within(async { client.request("x").await }).await.unwrap_err();
        }
    }
}

fn listener(kind: Kind, tls: Tls) -> ServerProtocol {
    let any = "127.0.0.1:0";
    match kind {
        Kind::Tls => TcpServerConfig::new(any).tls(tls).into(),
        Kind::WebSocketTls => WebSocketServerConfig::new(any).tls(tls).into(),
        Kind::Quic => QuicServerConfig::new(any).tls(tls).into(),
        Kind::WebTransport => WebTransportServerConfig::new(any).tls(tls).into(),
        _ => unreachable!("it is not encrypted"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_a_server_knows_a_client_by_its_certificate_and_serves_others_as_strangers() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("not ours"));
    for kind in ENCRYPTED {
        let mut server = Server::start(kind, |tls| tls.client_authority(ours.pem.as_bytes())).await;
        let trust = server.trust.clone();
        let (server_is, client_is) = server.let_in(ours.prove(&trust)).await;
        assert_eq!(client_is.peer_certificate.as_deref(), Some(&ours.client_der[..]), "{kind:?}");
        assert_eq!(client_is.fingerprint(), Some(certificate::fingerprint(&ours.client_der)), "{kind:?}");
        assert_eq!(client_is.version, TlsVersion::V1_3, "{kind:?}");
        assert_eq!(server_is.fingerprint(), Some(server.fingerprint), "{kind:?}");

        // Of another authority: not even as a stranger. The next one that the handler hears of is the next that is let in.
        server.refuse(theirs.prove(&trust)).await;
        let (_, client_is) = server.let_in(trust).await;
        assert_eq!(client_is.peer_certificate, None, "{kind:?}");
        assert_eq!(client_is.fingerprint(), None, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_a_server_that_requires_certificates_lets_nobody_in_without() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("not ours"));
    for kind in ENCRYPTED {
        let mut server = Server::start(kind, |tls| tls.require_client_authority(ours.pem.as_bytes())).await;
        let trust = server.trust.clone();
        server.refuse(trust.clone()).await;
        server.refuse(theirs.prove(&trust)).await;
        let (_, client_is) = server.let_in(ours.prove(&trust)).await;
        assert_eq!(client_is.peer_certificate.as_deref(), Some(&ours.client_der[..]), "{kind:?}");
        // Of those before it nobody has heard.
        assert!(server.known.try_recv().is_err(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_what_is_not_encrypted_proves_nothing() {
    for kind in Kind::ALL.into_iter().filter(|kind| !ENCRYPTED.contains(kind)) {
        let serving = Serving::echo(kind).await;
        let client = serving.client().await;
        within(async { client.request("x").await }).await.unwrap();
        assert_eq!(client.session().unwrap().connection_info().tls, None, "{kind:?}");
        let id = serving.server.active_sessions()[0];
        assert_eq!(serving.server.session(id).unwrap().connection_info().tls, None, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_an_authority_that_is_none_is_told_when_the_server_is_built() {
    for kind in ENCRYPTED {
        let tls = Tls::self_signed_dev().unwrap();
        for tls in [tls.clone().client_authority("none"), tls.require_client_authority("none")] {
            let builder = TransportServerBuilder::new().with_protocol(listener(kind, tls));
            builder.build().await.unwrap_err();
        }
    }
}
