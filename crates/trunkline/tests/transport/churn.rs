//! A11: connections that come and go leave nothing behind. Full size: `./prove A11`.

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};
use trunkline_transport::{ClientProtocol, TransportClientBuilder, TransportServerBuilder};

use crate::rig::{DEADLINE, Rig, Way, descriptors, echo, resident, until, within};
use crate::sizes::{reading, size};

/// How often it is looked, each time when nobody is connected.
const LOOKS: u64 = 10;

/// What has not changed for so long is what is there without connections. One that still ends then makes the bound higher by
/// itself, which does not hide what the others leave.
const STILL: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a11_connections_that_come_and_go_leave_nothing_behind() {
    let (cycles, at_once) = (size("A11_CYCLES", 240), size("A11_AT_ONCE", 8));
    let rig = Rig::start(TransportServerBuilder::new(), &Way::ALL, echo).await;
    let ways = Way::ALL.map(|way| rig.reach(way));
    // A part of them beforehand: allocator, tables and threads have their size after it, and every listener serves.
    come_and_go(&ways, cycles / LOOKS, at_once).await;
    let (theirs, ours, files) = settled(&rig).await;
    let quiet = || {
        let (server, clients, open) = counts(&rig);
        rig.server.session_count() == 0 && server <= theirs && clients <= ours && open <= files
    };
    // By a look as the others are: what the allocator gives back depends on what has just been.
    come_and_go(&ways, cycles / LOOKS, at_once).await;
    until(quiet).await;
    let base = resident();
    let (mut looks, begun) = (Vec::new(), Instant::now());
    for _ in 0..LOOKS {
        come_and_go(&ways, cycles / LOOKS, at_once).await;
        // Connections end behind their clients' backs; what does not end is found by the deadline.
        until(quiet).await;
        looks.push(resident());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let last = looks[looks.len() - 1];
    reading("a11_growth_percent", format!("{:.3}", (last as f64 / base as f64 - 1.0) * 100.0));
    reading("a11_tasks", format!("{theirs} of the server, {ours} of the clients"));
    reading("a11_files", files);
    reading("a11_per_second", format!("{:.0}", cycles as f64 / seconds));
    let mb: Vec<_> = [base].iter().chain(&looks).map(|bytes| format!("{:.2}", *bytes as f64 / 1e6)).collect();
    reading("a11_resident_by_look_mb", mb.join(" "));
}

/// Tasks of the server, tasks of the clients, descriptors of both.
fn counts(rig: &Rig) -> (usize, usize, usize) {
    (rig.tasks(), Handle::current().metrics().num_alive_tasks(), descriptors())
}

/// The counts when nobody is connected, once they have stood still.
async fn settled(rig: &Rig) -> (usize, usize, usize) {
    within(async {
        let (mut last, mut since) = (counts(rig), Instant::now());
        while since.elapsed() < STILL {
            sleep(Duration::from_millis(20)).await;
            let now = counts(rig);
            if now != last || rig.server.session_count() > 0 {
                (last, since) = (now, Instant::now());
            }
        }
        last
    })
    .await
}

/// So many connections, some at a time, all ways in turn: connect, one request, close.
async fn come_and_go(ways: &[ClientProtocol], cycles: u64, at_once: u64) {
    let mut workers = JoinSet::new();
    for worker in 0..at_once {
        let ways = ways.to_vec();
        workers.spawn(async move {
            for number in (worker..cycles).step_by(usize::try_from(at_once).unwrap()) {
                let way = ways[usize::try_from(number).unwrap() % ways.len()].clone();
                let builder = TransportClientBuilder::new().with_protocol(way).connect_timeout(DEADLINE);
                let client = builder.build().await.unwrap();
                within(client.connect()).await.unwrap();
                let answer = within(async { client.request("x").timeout(DEADLINE).await }).await.unwrap();
                assert_eq!(answer.payload, "x");
                within(client.disconnect()).await;
            }
        });
    }
    within_all(workers).await;
}

/// However many there are, each has its own deadlines.
async fn within_all(mut workers: JoinSet<()>) {
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
}
