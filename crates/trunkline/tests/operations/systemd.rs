//! What the service manager is told, on a socket as systemd makes it.

use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::timeout;
use trunkline_testkit::{DEADLINE, Signal};

use crate::common::server;

/// The next message that is no sign of life.
async fn told(manager: &UnixDatagram) -> String {
    loop {
        let said = any(manager).await;
        if said != "WATCHDOG=1" {
            return said;
        }
    }
}

async fn any(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let read = timeout(DEADLINE, manager.recv(&mut buffer)).await.expect("nothing is said").unwrap();
    String::from_utf8_lossy(&buffer[..read]).trim_end().to_owned()
}

#[tokio::test]
async fn a_service_manager_hears_of_ready_reload_stop_and_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut server = server()
        .config("")
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .start()
        .await
        .unwrap();
    assert_eq!(told(&manager).await, "READY=1");
    for _ in 0..3 {
        assert_eq!(any(&manager).await, "WATCHDOG=1");
    }
    server.signal(Signal::Reload).unwrap();
    let reloading = told(&manager).await;
    let mut lines: Vec<&str> = reloading.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{reloading}");
    assert!(lines[0].starts_with("MONOTONIC_USEC=") && lines[1] == "RELOADING=1", "{reloading}");
    assert_eq!(told(&manager).await, "READY=1");
    server.signal(Signal::Terminate).unwrap();
    assert_eq!(told(&manager).await, "STOPPING=1");
    assert!(server.exited().await.unwrap().success());
}

#[tokio::test]
async fn a_node_that_stands_still_gives_no_sign_of_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let server = server()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "20000")
        .start()
        .await
        .unwrap();
    assert_eq!(told(&manager).await, "READY=1");
    server.signal(Signal::Freeze).unwrap();
    // What was said before is still to be heard; then nothing comes.
    while timeout(Duration::from_millis(300), any(&manager)).await.is_ok() {}
    server.signal(Signal::Thaw).unwrap();
    assert_eq!(any(&manager).await, "WATCHDOG=1");
}
