//! S9: clients that come and stop leave nothing behind, and STOP is answered at once. A million of them is `./prove S9`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use trunkline_proto::wire::StopRequest;
use trunkline_proto::{UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, Ready, TestClient, TestServer, Way};

use crate::common::{find, get, millis, percentile, reading, server, size};

/// How often the node is looked at, always when nobody is connected.
const LOOKS: u64 = 20;

/// Looks that belong to the warm-up: allocator, tables and threads have their size after it.
const WARM_UP: usize = 5;

/// What the node holds while nobody is connected.
#[derive(Debug, Clone, Copy)]
struct Look {
    resident: u64,
    tasks: u64,
    files: usize,
    series: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_clients_that_come_and_stop_leave_nothing_behind() {
    let (cycles, at_once) = (size("S9_CYCLES", 400), size("S9_AT_ONCE", 8));
    // One in so many comes by another way than TCP, all ways in turn: their handshakes cost this process more than a
    // whole life over TCP.
    let every = size("S9_OTHER_WAY_EVERY", 2);
    let server = server().anonymous().start().await.unwrap();
    let ready = Arc::new(server.ready().clone());
    let (mut looks, mut stops, mut busy) = (Vec::new(), Vec::new(), Duration::ZERO);
    for look in 0..LOOKS {
        let begin = Instant::now();
        let share = cycles / LOOKS;
        let mut workers = JoinSet::new();
        for worker in 0..at_once {
            let (first, last) = (look * share + worker, (look + 1) * share);
            let numbers = (first..last).step_by(usize::try_from(at_once).unwrap());
            workers.spawn(come_and_stop(Arc::clone(&ready), numbers, every));
        }
        while let Some(times) = workers.join_next().await {
            stops.extend(times.unwrap());
        }
        busy += begin.elapsed();
        looks.push(quiet(&server).await);
    }
    let (warm, last) = (looks[WARM_UP - 1], looks[looks.len() - 1]);
    // The connections over which the looks are taken may still be ending.
    assert!(last.tasks <= warm.tasks + 2, "tasks: {looks:?}");
    assert!(last.files <= warm.files + 2, "descriptors: {looks:?}");
    assert!(last.series <= warm.series, "series: {looks:?}");
    reading("cycles", cycles);
    reading("per_second", format!("{:.0}", cycles as f64 / busy.as_secs_f64()));
    reading("stop_p99_ms", millis(percentile(&mut stops, 99)));
    reading("stop_most_ms", millis(percentile(&mut stops, 100)));
    let megabytes = |bytes: i64| format!("{:.2}", bytes as f64 / 1e6);
    reading("resident_mb", megabytes(last.resident as i64));
    reading("resident_growth_mb", megabytes(last.resident as i64 - warm.resident as i64));
    reading("tasks_growth", last.tasks as i64 - warm.tasks as i64);
    reading("files_growth", last.files as i64 - warm.files as i64);
    reading("series_growth", last.series as i64 - warm.series as i64);
    let resident: Vec<_> = looks.iter().map(|look| megabytes(look.resident as i64)).collect();
    reading("resident_by_look_mb", resident.join(" "));
}

/// Starts and stops as one user after the other; how long each STOP took to close the connection.
async fn come_and_stop(ready: Arc<Ready>, numbers: impl Iterator<Item = u64>, every: u64) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in numbers {
        let way = match number % every {
            0 => Way::ALL[usize::try_from(number / every).unwrap() % Way::ALL.len()],
            _ => Way::TCP,
        };
        let mut client = TestClient::connect(&ready, way).await.unwrap();
        let started = client.start_as(&format!("user{number}"), "").await.unwrap();
        assert!(started.success, "{started:?}");
        let begin = Instant::now();
        client.send(&UpFrame::new(0, 0, UpBody::Stop(StopRequest { reason: 1 }))).await.unwrap();
        assert_eq!(client.close_code().await.unwrap(), 4300);
        times.push(begin.elapsed());
    }
    times
}

/// Waits until nobody is connected, then looks. Connections end behind their clients' backs, and what ends them waits
/// for nothing, so the number of tasks is that of an idle node after at most a few more looks.
async fn quiet(server: &TestServer) -> Look {
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(50));
    let (mut before, mut same) = (u64::MAX, 0);
    loop {
        ticks.tick().await;
        let status = get(server.ready(), "/api/status").await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let figure = |name: &str| find(&status, name).unwrap_or_else(|| panic!("no {name} in {status}"));
        let metrics = get(server.ready(), "/metrics").await;
        // All tasks of the runtime, not only those that the gateway knows of.
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("trunkline_tasks "));
        let tasks = tasks.unwrap_or_else(|| panic!("no number of tasks: {metrics}")).parse().unwrap();
        let empty = figure("sessions_live") + figure("sessions_waiting") == 0;
        same = if empty && tasks == before { same + 1 } else { 0 };
        before = tasks;
        if same == 4 {
            let series = metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
            assert!(series > 0, "no series: {metrics}");
            let (resident, files) = (server.resident_bytes().unwrap(), server.open_files().unwrap());
            return Look { resident, tasks, files, series };
        }
        assert!(begin.elapsed() < DEADLINE, "{status}");
    }
}
