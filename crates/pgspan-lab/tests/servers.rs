//! A lab on real PostgreSQL servers: it replicates, it adds latency, and it
//! leaves nothing behind, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgspan_lab::{Lab, LabError, LabOptions, Phase, State};

fn quiet(_line: &str) {}

fn pids(state: &State) -> Vec<u32> {
    state
        .servers
        .iter()
        .map(|server| {
            let text = std::fs::read_to_string(server.data.join("postmaster.pid")).unwrap();
            text.lines().next().unwrap().parse().unwrap()
        })
        .collect()
}

fn gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(50));
    }
}

fn assert_nothing_left(state: &State, pids: &[u32]) {
    for pid in pids {
        wait("the end of a server", || gone(*pid));
    }
    for path in [&state.dir, &state.data_root, &state.socket_dir] {
        wait(&format!("the removal of {}", path.display()), || !path.exists());
    }
}

#[test]
fn replicates_and_leaves_nothing() {
    let options = LabOptions::temporary().unwrap();
    let mut lines = Vec::new();
    let lab = Lab::start(&options, &mut |line| lines.push(line.to_string())).unwrap();
    assert!(lines.iter().any(|line| line.contains("streaming")), "{lines:?}");
    assert_eq!(lab.state().phase, Phase::Ready);
    assert!(matches!(Lab::start(&options, &mut quiet), Err(LabError::AlreadyRunning { .. })));

    let writer = lab.server("users-writer").unwrap();
    let replica = lab.server("users-replica").unwrap();
    lab.psql(writer, "usersdb", "INSERT INTO users (username, email) VALUES ('a', 'a@b.c')")
        .unwrap();
    wait("the row on the replica", || {
        lab.psql(replica, "usersdb", "SELECT username FROM users").unwrap() == "a"
    });
    let refused = lab.psql(replica, "usersdb", "CREATE EXTENSION postgres_fdw");
    assert!(
        refused.unwrap_err().to_string().contains("read-only transaction"),
        "a replica takes no writes"
    );
    let orders = lab.server("orders-writer").unwrap();
    assert_eq!(lab.psql(orders, "ordersdb", "SELECT count(*) FROM orders").unwrap(), "0");
    let status = lab.status();
    assert!(status.up && status.servers.iter().any(|one| one.lag_bytes.is_some()), "{status:?}");

    let (state, pids) = (lab.state().clone(), pids(lab.state()));
    lab.stop().unwrap();
    assert_nothing_left(&state, &pids);
    assert!(matches!(Lab::open(&state.dir), Err(LabError::NotFound { .. })));
}

#[test]
fn latency_is_on_the_links_and_not_on_the_servers() {
    let mut options = LabOptions::temporary().unwrap();
    options.latency = Duration::from_millis(20);
    let lab = Lab::start(&options, &mut quiet).unwrap();
    let server = lab.server("orders-writer").unwrap();
    assert_ne!(server.address, server.link);
    let mut linked = server.clone();
    linked.address = server.link.clone();
    let began = Instant::now();
    assert_eq!(lab.psql(&linked, "ordersdb", "SELECT 1").unwrap(), "1");
    // Connecting, authenticating and one statement: several round trips.
    assert!(began.elapsed() >= 4 * options.latency, "{:?}", began.elapsed());
}

#[test]
fn a_failed_start_shows_the_log_and_leaves_nothing() {
    let mut options = LabOptions::temporary().unwrap();
    options.settings = vec![("shared_buffers".into(), "nonsense".into())];
    let error = Lab::start(&options, &mut quiet).expect_err("must fail").to_string();
    assert!(error.contains("shared_buffers"), "{error}");
    assert!(!options.dir.exists());
}

#[test]
fn a_start_can_be_abandoned() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let mut options = LabOptions::temporary().unwrap();
    options.cancel = Some(&CANCEL);
    let result = Lab::start(&options, &mut |line| {
        if line.contains("initdb") {
            CANCEL.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(result, Err(LabError::Interrupted)), "{result:?}");
    assert!(!options.dir.exists());
}

/// Runs this test program again as the owner of a lab, to be killed.
fn owner(test: &str, dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("PGSPAN_LAB_TEST_DIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by the tests that kill it"]
fn owner_keeps_a_lab() {
    let lab =
        Lab::start(&LabOptions::new(std::env::var_os("PGSPAN_LAB_TEST_DIR").unwrap()), &mut quiet);
    let _lab = lab.unwrap();
    thread::sleep(Duration::from_secs(120));
}

#[test]
#[ignore = "run by the tests that kill it"]
fn owner_detaches_a_lab() {
    let lab =
        Lab::start(&LabOptions::new(std::env::var_os("PGSPAN_LAB_TEST_DIR").unwrap()), &mut quiet);
    lab.unwrap().detach();
}

#[test]
fn the_watchdog_cleans_up_after_a_kill() {
    let options = LabOptions::temporary().unwrap();
    let mut owner = owner("owner_keeps_a_lab", &options.dir);
    let mut ready = None;
    wait("the lab", || {
        ready = Lab::open(&options.dir).ok();
        ready.as_ref().is_some_and(|lab| lab.state().phase == Phase::Ready)
    });
    let state = ready.unwrap().state().clone();
    let pids = pids(&state);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_nothing_left(&state, &pids);
}

#[test]
fn a_damaged_lab_is_replaced_by_the_next() {
    let options = LabOptions::temporary().unwrap();
    assert!(owner("owner_detaches_a_lab", &options.dir).wait().unwrap().success());
    let old = Lab::open(&options.dir).unwrap().state().clone();
    let old_pids = pids(&old);
    assert!(Lab::open(&options.dir).unwrap().servers_run(), "it outlives its starter");
    // One of its servers dies.
    assert!(
        Command::new("kill").args(["-KILL", &old_pids[2].to_string()]).status().unwrap().success()
    );
    wait("its end", || gone(old_pids[2]));
    let lab = Lab::start(&options, &mut quiet).unwrap();
    for pid in old_pids {
        assert!(gone(pid), "{pid} of the old lab still runs");
    }
    assert!(lab.servers_run());
    assert_ne!(lab.state().password, old.password);
}
