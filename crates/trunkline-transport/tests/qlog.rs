//! What the qlogs of connections have, and what they may not have: their bounds, and a disk that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::HashSet,
    fs,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::task::JoinSet;
use trunkline_transport::{
    ClientProtocol, ClientTls, Qlog, QuicClientConfig, QuicServerConfig, ServerProtocol, Session, Tls,
    TransportClient, TransportClientBuilder, TransportError, TransportServer, TransportServerBuilder,
    WebTransportClientConfig, WebTransportServerConfig,
};

async fn within<T>(future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(120);
    tokio::time::timeout(deadline, future).await.expect("this should have happened by now")
}

async fn echo(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        session.send(packet.reply(packet.payload.clone())).await?;
    }
    Ok(())
}

struct Serving {
    server: TransportServer,
    trust: ClientTls,
    _tasks: JoinSet<()>,
}

impl Serving {
    async fn by(protocol: impl FnOnce(Tls) -> ServerProtocol) -> Self {
        let tls = Tls::self_signed_dev().unwrap();
        let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
        let server = TransportServerBuilder::new().with_protocol(protocol(tls)).build().await.unwrap();
        let (serving, mut tasks) = (server.clone(), JoinSet::new());
        tasks.spawn(async move { serving.serve_with(echo).await.unwrap() });
        Self { server, trust, _tasks: tasks }
    }

    async fn quic(qlog: &Qlog) -> Self {
        Self::by(|tls| QuicServerConfig::new("127.0.0.1:0").tls(tls).qlog(qlog.clone()).into()).await
    }

    fn address(&self) -> String {
        self.server.local_addrs()[0].to_string()
    }

    fn quic_client(&self) -> QuicClientConfig {
        QuicClientConfig::new(self.address()).tls(self.trust.clone())
    }
}

async fn client(protocol: impl Into<ClientProtocol>) -> TransportClient {
    let client = TransportClientBuilder::new().with_protocol(protocol).build().await.unwrap();
    within(client.connect()).await.unwrap();
    assert_eq!(within(async { client.request("hello").await }).await.unwrap().payload, "hello");
    client
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The records of a file, once there are some: they come some kilobytes at a time, and the last when the connection is over.
async fn records(file: &Path) -> Vec<Value> {
    within(async {
        loop {
            let text = fs::read_to_string(file).unwrap();
            // What is being written now may be seen in part.
            if text.ends_with('\n') {
                // RFC 7464: each begins with a record separator.
                let records = text.split('\u{1E}').filter(|record| !record.is_empty());
                break records.map(|record| serde_json::from_str(record).unwrap()).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// What the events of a handshake are called, and the kinds of packets that they had.
fn seen(records: &[Value]) -> HashSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let event = |record: &Value| (text(&record["name"]), text(&record["data"]["header"]["packet_type"]));
    records.iter().map(event).collect()
}

fn assert_is_a_handshake(records: &[Value], vantage: &str) {
    let head = &records[0];
    assert_eq!(head["qlog_format"], "JSON-SEQ", "{head}");
    assert!(head.to_string().contains(&format!("trunkline-transport {vantage}")), "{head}");
    let seen = seen(records);
    for name in ["transport:packet_sent", "transport:packet_received"] {
        for packets in ["initial", "handshake", "1RTT"] {
            let event = (name.to_owned(), packets.to_owned());
            assert!(seen.contains(&event), "{vantage}: no {event:?} in {seen:?}");
        }
    }
    assert!(seen.iter().any(|(name, _)| name == "recovery:metrics_updated"), "{vantage}: {seen:?}");
    let times: Vec<f64> = records[1..].iter().map(|record| record["time"].as_f64().unwrap()).collect();
    assert!(times.iter().all(|time| (0.0..300_000.0).contains(time)), "milliseconds of its own: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_of_a_connection_has_a_file_with_its_handshake() {
    for is_web_transport in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        // It need not be there.
        let directory = folder.path().join("qlog");
        let qlog = Qlog::new(&directory).unwrap();
        let any = "127.0.0.1:0";
        let serving = Serving::by(|tls| match is_web_transport {
            false => QuicServerConfig::new(any).tls(tls).qlog(qlog.clone()).into(),
            true => WebTransportServerConfig::new(any).tls(tls).qlog(qlog.clone()).into(),
        })
        .await;
        for connection in 1..=2 {
            let protocol: ClientProtocol = if is_web_transport {
                let url = format!("https://{}/any", serving.address());
                WebTransportClientConfig::new(url).tls(serving.trust.clone()).qlog(qlog.clone()).into()
            } else {
                serving.quic_client().qlog(qlog.clone()).into()
            };
            let client = client(protocol).await;
            within(client.disconnect()).await;
            assert_eq!(files(&directory).len(), 2 * connection, "each side has its own");
        }
        let (mut servers, mut clients) = (HashSet::new(), HashSet::new());
        for file in files(&directory) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let vantage = if name.ends_with("-server.sqlog") { "server" } else { "client" };
            assert!(name.ends_with(&format!("-{vantage}.sqlog")), "{name}");
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "it tells who talks to whom");
            }
            let records = records(&file).await;
            assert_is_a_handshake(&records, vantage);
            assert!(!fs::read_to_string(&file).unwrap().contains("hello"), "no content");
            if vantage == "server" {
                let title = records[0]["title"].as_str().unwrap().to_owned();
                servers.insert(title.rsplit(' ').next().unwrap().to_owned());
            } else {
                clients.insert(records[1]["group_id"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(servers.len(), 2);
        assert_eq!(servers, clients, "each of two connections is seen from both sides");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_files_than_may_be_and_the_connections_go_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("of-an-earlier-run.sqlog"), "").unwrap();
    fs::write(folder.path().join("another.txt"), "").unwrap();
    let qlog = Qlog::new(folder.path()).unwrap().max_files(3);
    let serving = Serving::quic(&qlog).await;
    for _ in 0..5 {
        let client = client(serving.quic_client()).await;
        within(client.disconnect()).await;
    }
    assert_eq!(files(folder.path()).len(), 1 + 3, "the one that was there counts");
    // Another value finds the directory full.
    let full = Qlog::new(folder.path()).unwrap().max_files(3);
    client(serving.quic_client().qlog(full)).await.disconnect().await;
    assert_eq!(files(folder.path()).len(), 1 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_no_longer_than_it_may_be_and_ends_with_a_whole_event() {
    const MOST: usize = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let qlog = Qlog::new(folder.path()).unwrap().max_file_bytes(MOST);
    let serving = Serving::quic(&qlog).await;
    let client = client(serving.quic_client()).await;
    for _ in 0..200 {
        within(async { client.request("more").await }).await.unwrap();
    }
    let file = &files(folder.path())[0];
    let records = records(file).await;
    let bytes = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
    assert!((MOST / 2..=MOST).contains(&bytes), "{bytes}");
    assert!(records.len() < 100, "most of it is left out: {}", records.len());
    within(async { client.request("and on").await }).await.unwrap();
    within(client.disconnect()).await;
    assert_eq!(usize::try_from(fs::metadata(file).unwrap().len()).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_gone_costs_the_record_and_not_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let qlog = Qlog::new(folder.path()).unwrap();
    let serving = Serving::quic(&qlog).await;
    folder.close().unwrap();
    for _ in 0..3 {
        let client = client(serving.quic_client().qlog(qlog.clone())).await;
        within(client.disconnect()).await;
    }
    // What cannot be a directory is told at once.
    let file = tempfile::NamedTempFile::new().unwrap();
    Qlog::new(file.path()).unwrap_err();
}

/// The disk takes no more, which a limit of the process on the size of files is as good for. The test is its own child, since
/// the limit is of a whole process.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_no_more_costs_the_record_and_not_the_connection() {
    const CHILD: &str = "TRUNKLINE_QLOG_DIRECTORY";
    if let Some(directory) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let qlog = Qlog::new(directory).unwrap();
            let serving = Serving::quic(&qlog).await;
            let client = client(serving.quic_client()).await;
            for _ in 0..500 {
                within(async { client.request("more").await }).await.unwrap();
            }
            within(client.disconnect()).await;
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "a_disk_that_takes_no_more_costs_the_record_and_not_the_connection";
    // Whoever ignores the signal is told by an error.
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$0\" \"$@\"";
    let child = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let bytes = fs::metadata(&files(folder.path())[0]).unwrap().len();
    // Blocks are of 512 bytes or 1024, as the shell likes.
    assert!([1_024, 2_048].contains(&bytes), "what it took is there: {bytes}");
}
