//! Ends a lab's processes and removes what it wrote.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::state::{OWN_FILES, STATE_FILE};
use crate::{Helper, State, process, server};

/// How long a helper may take to end after SIGTERM.
const HELPER_STOP: Duration = Duration::from_secs(5);

/// Whether every server of a lab runs.
pub(crate) fn all_servers_run(state: &State) -> bool {
    state.servers.iter().all(|server| server::running_pid(&server.data).is_some())
}

/// Whether a helper's process is still the one that was started.
pub(crate) fn helper_runs(helper: &Helper) -> bool {
    process::started(helper.pid).is_some_and(|started| started == helper.started)
}

/// Ends a helper, if it is still the process that was started.
pub(crate) fn end_helper(helper: &Helper) {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        if !helper_runs(helper) {
            return;
        }
        process::signal(helper.pid, signal);
        if process::wait_until(HELPER_STOP, || !helper_runs(helper)) {
            return;
        }
    }
}

/// Ends every process of a lab and deletes what it wrote.
pub(crate) fn clean_up(state: &State) {
    // The gateway first: it was started last.
    for helper in state.helpers.iter().filter(|one| one.name != "relay") {
        end_helper(helper);
    }
    thread::scope(|scope| {
        for server in &state.servers {
            scope.spawn(|| server::stop(&server.data));
        }
    });
    for helper in &state.helpers {
        end_helper(helper);
    }
    let ours = |path: &Path| {
        path == state.dir.join("servers")
            || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgspan-"))
    };
    let mut gone = true;
    for path in [&state.data_root, &state.socket_dir] {
        if ours(path) {
            gone &= process::remove_dir(path);
        }
    }
    for name in OWN_FILES.iter().filter(|name| **name != STATE_FILE) {
        let path = state.dir.join(name);
        if path.is_dir() {
            let _ = fs::remove_dir_all(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    if !gone {
        return;
    }
    // Last: as long as it is there, another attempt can finish the work.
    let _ = fs::remove_file(state.dir.join(STATE_FILE));
    let _ = fs::remove_dir(&state.dir);
    if let Some(parent) = state.dir.parent()
        && parent.ends_with(".pgspan")
    {
        let _ = fs::remove_dir(parent);
    }
}
