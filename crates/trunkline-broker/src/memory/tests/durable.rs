//! What the memory broker keeps over a restart, and what it says when it cannot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::broker::{BrokerError, Condition, Deleted, EngineState, Life, Written};
use crate::defaults::FENCE_BLOCK;
use crate::memory::MemoryError;
use crate::names::Incarnation;

const TTL: Duration = Duration::from_secs(10);

fn open(folder: &Path, clock: &Arc<ManualClock>) -> Result<MemoryBroker, MemoryError> {
    let durable_prefixes = vec!["upstream/".to_owned()];
    let data_dir = Some(folder.to_owned());
    MemoryBroker::open(MemoryOptions { durable_prefixes, ..options(clock, data_dir) })
}

fn place() -> (TempDir, Arc<ManualClock>) {
    (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at(NOW_US)))
}

async fn put(broker: &MemoryBroker, key: &str, value: &str, life: Life) -> Result<Written, BrokerError> {
    broker.put(key, Bytes::from(value.to_owned()), Condition::Any, life).await
}

async fn set(broker: &MemoryBroker, key: &str, value: &str, life: Life) {
    assert!(matches!(put(broker, key, value, life).await.unwrap(), Written::Done(_)));
}

async fn get(broker: &MemoryBroker, key: &str) -> Option<String> {
    let found = broker.get(key).await.unwrap()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

fn incarnation(broker: &MemoryBroker) -> Incarnation {
    match *broker.engine().borrow() {
        EngineState::Up { incarnation } => incarnation,
        EngineState::Away => panic!("a memory broker is up"),
    }
}

/// Makes every write beside `name` meet a full disk.
fn fill_disk(folder: &Path, name: &str) {
    let beside = folder.join("broker").join(name).with_extension("new");
    symlink("/dev/full", beside).unwrap();
}

fn empty_disk(folder: &Path, name: &str) {
    fs::remove_file(folder.join("broker").join(name).with_extension("new")).unwrap();
}

#[tokio::test]
async fn its_files_are_for_the_owner_only() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    set(&broker, "k", "secret", Life::Forever).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let inside = folder.path().join("broker");
    assert_eq!(mode(&inside), 0o700);
    for name in ["counters.json", "values.json", "lock"] {
        assert_eq!(mode(&inside.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_second_process_is_told_to_use_another_folder() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    let second = open(folder.path(), &clock).unwrap_err();
    assert!(matches!(second, MemoryError::InUse { .. }), "{second}");
    drop(broker);
    open(folder.path(), &clock).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_named_and_nothing_is_guessed() {
    for name in ["counters.json", "values.json"] {
        for damage in ["", "{", "null", "[]", "{\"version\":1}", "{\"version\":2}", "\u{0}\u{1}"] {
            let (folder, clock) = place();
            let broker = open(folder.path(), &clock).unwrap();
            set(&broker, "k", "v", Life::Forever).await;
            drop(broker);
            let path = folder.path().join("broker").join(name);
            fs::write(&path, damage).unwrap();
            let error = open(folder.path(), &clock).unwrap_err();
            assert!(matches!(&error, MemoryError::Corrupt { path: told, .. } if *told == path), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[tokio::test]
async fn every_cut_of_a_file_is_damage() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    set(&broker, "k", "value", Life::Forever).await;
    drop(broker);
    let path = folder.path().join("broker/values.json");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(open(folder.path(), &clock), Err(MemoryError::Corrupt { .. })), "{length} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(get(&open(folder.path(), &clock).unwrap(), "k").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn a_full_disk_is_a_typed_error_and_loses_nothing() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    set(&broker, "k", "accepted", Life::Forever).await;
    fill_disk(folder.path(), "values.json");
    let full = put(&broker, "k", "refused", Life::Forever).await;
    let Err(BrokerError::Storage { path, source }) = full else { panic!("{full:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(path.ends_with("broker/values.json"));
    let kept = broker.delete("k", Condition::Any).await;
    assert!(matches!(kept, Err(BrokerError::Storage { .. })), "{kept:?}");
    assert_eq!(get(&broker, "k").await.as_deref(), Some("accepted"));
    set(&broker, "session", "needs no disk", Life::Ttl(TTL)).await;

    drop(broker);
    let broker = open(folder.path(), &clock).unwrap();
    assert_eq!(get(&broker, "k").await.as_deref(), Some("accepted"));
    empty_disk(folder.path(), "values.json");
    set(&broker, "k", "again", Life::Forever).await;
    assert_eq!(get(&broker, "k").await.as_deref(), Some("again"));
}

#[tokio::test]
async fn renewing_a_durable_value_as_it_is_needs_no_disk() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    let lease = broker.lease(TTL).await.unwrap();
    let lives = [Life::Forever, Life::Ttl(TTL), Life::Lease(lease.id())];
    for (n, life) in lives.into_iter().enumerate() {
        set(&broker, &format!("upstream/{n}"), "same", life).await;
    }
    fill_disk(folder.path(), "values.json");
    for (n, life) in lives.into_iter().enumerate() {
        let key = format!("upstream/{n}");
        let before = broker.get(&key).await.unwrap().unwrap().revision;
        set(&broker, &key, "same", life).await;
        assert!(broker.get(&key).await.unwrap().unwrap().revision > before);
    }
    clock.advance(TTL - Duration::from_secs(1));
    set(&broker, "upstream/1", "same", Life::Ttl(TTL)).await;
    clock.advance(TTL - Duration::from_secs(1));
    assert_eq!(get(&broker, "upstream/1").await.as_deref(), Some("same"), "its ttl runs anew");
    for (key, value, life) in [
        ("upstream/0", "other", Life::Forever),
        ("upstream/0", "same", Life::Ttl(TTL)),
        ("upstream/1", "same", Life::Ttl(TTL * 2)),
    ] {
        let full = put(&broker, key, value, life).await;
        assert!(matches!(full, Err(BrokerError::Storage { .. })), "{key} {value} {life:?}: {full:?}");
    }
}

#[tokio::test]
async fn durable_values_are_bounded() {
    let (folder, clock) = place();
    let data_dir = Some(folder.path().to_owned());
    let broker = MemoryBroker::open(MemoryOptions { max_durable_bytes: 10, ..options(&clock, data_dir) });
    let broker = broker.unwrap();
    let refused = put(&broker, "k", "0123456789", Life::Forever).await;
    assert!(matches!(refused, Err(BrokerError::Full { limit: 10, .. })), "{refused:?}");
    set(&broker, "k", "012345678", Life::Forever).await;
    set(&broker, "k", "876543210", Life::Forever).await;
    assert_eq!(broker.delete("k", Condition::Any).await.unwrap(), Deleted::Done);
    set(&broker, "l", "012345678", Life::Forever).await;
}

#[tokio::test]
async fn a_registration_outlives_a_restart_by_one_ttl() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    let lease = broker.lease(TTL).await.unwrap();
    set(&broker, "upstream/a", "leased", Life::Lease(lease.id())).await;
    set(&broker, "upstream/b", "timed", Life::Ttl(TTL)).await;
    set(&broker, "session/c", "leased", Life::Lease(lease.id())).await;
    set(&broker, "session/d", "timed", Life::Ttl(TTL)).await;
    lease.abandon();
    drop(broker);
    clock.advance(TTL * 100);
    let broker = open(folder.path(), &clock).unwrap();
    assert_eq!(get(&broker, "session/c").await, None, "only what is under the prefix is durable");
    assert_eq!(get(&broker, "session/d").await, None);
    clock.advance(TTL - Duration::from_secs(1));
    assert_eq!(get(&broker, "upstream/a").await.as_deref(), Some("leased"));
    assert_eq!(get(&broker, "upstream/b").await.as_deref(), Some("timed"));
    // One of them is taken over by a lease of the new process, which is another one.
    let lease = broker.lease(TTL).await.unwrap();
    set(&broker, "upstream/a", "taken over", Life::Lease(lease.id())).await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(get(&broker, "upstream/a").await.as_deref(), Some("taken over"));
    assert_eq!(get(&broker, "upstream/b").await, None);
}

#[tokio::test]
async fn what_lost_its_durability_does_not_come_back() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    set(&broker, "a", "for ever", Life::Forever).await;
    set(&broker, "a", "for a while", Life::Ttl(TTL)).await;
    let lease = broker.lease(TTL).await.unwrap();
    set(&broker, "upstream/a", "leased", Life::Lease(lease.id())).await;
    drop(lease);
    set(&broker, "b", "the next write tidies", Life::Forever).await;
    drop(broker);
    let broker = open(folder.path(), &clock).unwrap();
    assert_eq!(get(&broker, "a").await, None);
    assert_eq!(get(&broker, "upstream/a").await, None);
    assert_eq!(get(&broker, "b").await.as_deref(), Some("the next write tidies"));
}

#[tokio::test]
async fn drawing_fences_writes_once_a_block() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    let path = folder.path().join("broker/counters.json");
    let before = fs::read(&path).unwrap();
    let first = broker.next_fence().await.unwrap().number;
    // A file that cannot be replaced: any write would be an error.
    fill_disk(folder.path(), "counters.json");
    for _ in 1..FENCE_BLOCK {
        broker.next_fence().await.unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    let full = broker.next_fence().await;
    assert!(matches!(full, Err(BrokerError::Storage { .. })), "{full:?}");
    empty_disk(folder.path(), "counters.json");
    let next = broker.next_fence().await.unwrap().number;
    assert_eq!(next, first + FENCE_BLOCK);
    drop(broker);
    clock.set_unix_us(0);
    let broker = open(folder.path(), &clock).unwrap();
    assert!(broker.next_fence().await.unwrap().number > next, "not even with the clock set back");
}

#[tokio::test]
async fn a_clock_that_is_set_back_gives_a_later_incarnation() {
    let (folder, clock) = place();
    let mut last = incarnation(&open(folder.path(), &clock).unwrap());
    for unix_us in [NOW_US - 1, 0, NOW_US] {
        clock.set_unix_us(unix_us);
        let next = incarnation(&open(folder.path(), &clock).unwrap());
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_is_done_or_not_but_never_half() {
    let (folder, clock) = place();
    let broker = open(folder.path(), &clock).unwrap();
    for n in 0..50 {
        let give_up = put(&broker, "k", if n % 2 == 0 { "even" } else { "odd" }, Life::Forever);
        tokio::select! {
            biased;
            written = give_up => assert!(matches!(written.unwrap(), Written::Done(_))),
            () = async { for _ in 0..n % 5 { tokio::task::yield_now().await } } => {}
        }
        set(&broker, "n", &n.to_string(), Life::Forever).await;
    }
    let before = get(&broker, "k").await;
    drop(broker);
    // The last writes given up may still hold the engine, and with it the folder, for a moment.
    let reopen = async {
        loop {
            match open(folder.path(), &clock) {
                Ok(broker) => break broker,
                Err(MemoryError::InUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let broker = tokio::time::timeout(Duration::from_secs(20), reopen).await.expect("the folder is freed");
    assert_eq!(get(&broker, "k").await, before);
    assert_eq!(get(&broker, "n").await.as_deref(), Some("49"));
}

#[tokio::test]
async fn a_write_waits_for_one_of_its_key_that_is_on_its_way_to_the_disk() {
    let (folder, clock) = place();
    let broker = Arc::new(open(folder.path(), &clock).unwrap());
    // A pipe takes the place of the file: the write to it stands still until somebody reads.
    let beside = folder.path().join("broker/values.new");
    assert!(std::process::Command::new("mkfifo").arg(&beside).status().unwrap().success());
    let mut pipe = fs::File::options().read(true).write(true).open(&beside).unwrap();
    let writer = broker.clone();
    let mut writers = tokio::task::JoinSet::new();
    let first = writers.spawn(async move {
        let value = Bytes::from(vec![0; 500_000]);
        writer.put("k", value, Condition::Absent, Life::Forever).await
    });
    let (mut pipe, _) = tokio::task::spawn_blocking(move || {
        let mut begun = [0; 1];
        std::io::Read::read_exact(&mut pipe, &mut begun).unwrap();
        (pipe, begun)
    })
    .await
    .unwrap();
    {
        let other = put(&broker, "other", "goes on", Life::Ttl(TTL));
        assert!(matches!(other.await, Ok(Written::Done(_))));
    }
    let life = Life::Ttl(TTL);
    let second = broker.put("k", Bytes::from("second"), Condition::Absent, life);
    tokio::pin!(second);
    let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending()));
    let waits = waits.await;
    fs::remove_file(&beside).unwrap();
    // Reading lets the write run to its end, where a pipe cannot be flushed: it fails, and the key is free.
    tokio::task::spawn_blocking(move || {
        let mut rest = vec![0; 600_000];
        let mut read = 1;
        while read < 600_000 {
            read += std::io::Read::read(&mut pipe, &mut rest).unwrap();
        }
    });
    let deadline = Duration::from_secs(20);
    let ended = tokio::time::timeout(deadline, writers.join_next_with_id()).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.0, first.id());
    assert!(matches!(ended.1, Err(BrokerError::Storage { .. })), "{:?}", ended.1);
    // Asserted only here: a panic while the write stands still would leave its thread, and the test, waiting.
    assert!(waits, "whether the key is absent was not known yet");
    let second = tokio::time::timeout(deadline, second).await.unwrap().unwrap();
    assert!(matches!(second, Written::Done(_)));
    assert_eq!(get(&broker, "k").await.as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_tidies_the_disk() {
    let (folder, clock) = place();
    let data_dir = Some(folder.path().to_owned());
    let background = |clock: &Arc<ManualClock>| MemoryOptions {
        sweeping: Sweeping::Background,
        durable_prefixes: vec!["upstream/".to_owned()],
        ..options(clock, data_dir.clone())
    };
    let broker = MemoryBroker::open(background(&clock)).unwrap();
    set(&broker, "upstream/a", "timed", Life::Ttl(TTL)).await;
    let path = folder.path().join("broker/values.json");
    assert!(fs::read_to_string(&path).unwrap().contains("upstream/a"));
    clock.advance(TTL * 2);
    let tidy = async {
        while fs::read_to_string(&path).unwrap().contains("upstream/a") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), tidy).await.expect("the value goes from the disk");
}
