//! A node that wants tokens, and what those who misbehave on it need: tokens of any kind, sessions, upstreams of
//! their own.

use anyhow::{Context as _, Result, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use trunkline_proto::wire::{self, ErrorMessage, StartRequest, StartResponse};
use trunkline_proto::{DownBody, DownFrame};
use trunkline_testkit::{TestClient, TestServer, TestUpstream, Way};

/// Short windows, so that what a fault leaves behind is gone when memory is looked at. `room:` keeps less than what a
/// slow reader misses. Actions of a fault go to that fault's upstream: `hold` and
/// `sleep`, which a test's upstream knows, and those that begin with its name.
const CONFIG: &str = "
[session]
resume_window = \"1s\"

[limits]
handshake_timeout = \"1s\"
start_timeout = \"2s\"

[namespaces.room]
history_count = 20

[upstreams.routes]
\"hold\" = \"rude\"
\"big.\" = \"rude\"
\"sleep\" = \"dying\"
\"noise.\" = \"noise\"
\"late.\" = \"late\"
\"twice.\" = \"twice\"
";

/// An answer beyond what a reply may have.
const TOO_LARGE: usize = 2 << 20;

/// An answer that a reply queue of 1 MiB holds four of.
pub(crate) const LARGE: usize = 256_000;

/// The node and the upstream of those who misbehave.
pub(crate) struct Rig {
    pub(crate) server: TestServer,
    /// Registered for the service `rude`: it hangs (`hold`), swallows (`big.swallow`), and answers too much
    /// (`big.answer`) or just much (`big.page`).
    pub(crate) rude: TestUpstream,
    key: Vec<u8>,
}

impl Rig {
    pub(crate) async fn start() -> Rig {
        Self::configured(CONFIG).await
    }

    pub(crate) async fn configured(config: &str) -> Rig {
        let server =
            TestServer::builder(env!("CARGO_BIN_EXE_trunkline")).config(config).start().await.unwrap();
        let key = std::fs::read_to_string(server.data_dir().join("keys/jwt.key")).unwrap();
        let rude = TestUpstream::start_with(server.ready().grpc().unwrap(), |request| {
            let data = match request.action.as_str() {
                "big.swallow" => Vec::new(),
                "big.answer" => vec![b'x'; TOO_LARGE],
                "big.page" => vec![b'x'; LARGE],
                _ => return None,
            };
            Some(Ok(wire::UpstreamResponse { code: 200, data: data.into(), ..Default::default() }))
        });
        let rude = rude.await.unwrap();
        rude.register("*", "rude").await.unwrap();
        Rig { server, rude, key: key.trim_end().as_bytes().to_vec() }
    }

    /// A good token with every right.
    pub(crate) fn token(&self, user: &str) -> String {
        let may = ["subscribe", "publish", "history", "presence"];
        let rights = json!([{ "pattern": "*", "may": may }]);
        sign(&self.key, &json!({ "sub": user, "exp": 4_000_000_000_u64, "tl": { "rights": rights } }))
    }

    /// Tokens that nobody may get in with, as this user: missing, nonsense, another's, forged, expired, unsigned.
    pub(crate) fn bad_tokens(&self, user: &str) -> Vec<String> {
        let good = self.token(user);
        let (signed, signature) = good.rsplit_once('.').expect("three parts");
        let (_, claims) = signed.split_once('.').expect("three parts");
        let mut forged: Vec<char> = signature.chars().rev().collect();
        // The last letter has bits that mean nothing; the first does not.
        if let Some(first) = forged.last_mut() {
            *first = if *first == 'A' { 'B' } else { 'A' };
        }
        let forged: String = forged.into_iter().rev().collect();
        // {"alg":"none"}
        let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
        vec![
            String::new(),
            "a.b.c".to_owned(),
            self.token("somebody-else"),
            format!("{signed}.{forged}"),
            sign(b"a key of thirty-two bytes or more", &json!({ "sub": user })),
            sign(&self.key, &json!({ "sub": user, "exp": 1_000 })),
            unsigned,
        ]
    }

    /// A connection that has said nothing.
    pub(crate) async fn connect(&self, way: Way) -> Result<TestClient> {
        self.server.connect(way).await
    }

    /// A START of this user, to be changed and sent.
    pub(crate) fn start_request(&self, user: &str) -> StartRequest {
        TestClient::start_request(user, &self.token(user))
    }

    /// A started client.
    pub(crate) async fn session(&self, user: &str, way: Way) -> Result<TestClient> {
        let mut client = self.connect(way).await?;
        self.started(&mut client, user).await?;
        Ok(client)
    }

    /// The same, behind buffers that are soon full.
    pub(crate) async fn narrow_session(&self, user: &str, way: Way) -> Result<TestClient> {
        let mut client = TestClient::connect_narrow(self.server.ready(), way).await?;
        self.started(&mut client, user).await?;
        Ok(client)
    }

    async fn started(&self, client: &mut TestClient, user: &str) -> Result<StartResponse> {
        let response = client.start_as(user, &self.token(user)).await?;
        ensure!(response.success, "{user} was refused: {response:?}");
        Ok(response)
    }
}

fn sign(key: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(key))
        .expect("claims are JSON")
}

/// The error that a frame answers.
pub(crate) fn error(frame: DownFrame) -> Result<ErrorMessage> {
    match frame.body {
        DownBody::Error(error) => Ok(error),
        DownBody::ChannelResp(wire::ChannelResponse { error: Some(error), .. }) => Ok(error),
        other => bail!("not an error: {other:?}"),
    }
}

/// The answer to a request on a channel.
pub(crate) fn channel(frame: DownFrame) -> Result<wire::ChannelResponse> {
    match frame.body {
        DownBody::ChannelResp(response) if response.error.is_none() => Ok(response),
        other => bail!("not a channel's answer: {other:?}"),
    }
}

/// The reply to a call.
pub(crate) fn reply(frame: DownFrame) -> Result<wire::BusinessResponse> {
    match frame.body {
        DownBody::BusinessData(reply) => Ok(reply),
        other => bail!("not a reply: {other:?}"),
    }
}

/// Where START_RESP says that a channel goes on.
pub(crate) fn position(response: &StartResponse, channel: &str) -> Result<wire::ChannelPosition> {
    let found = response.positions.iter().find(|position| position.channel == channel);
    found.cloned().with_context(|| format!("{channel} is not live: {:?}", response.positions))
}
