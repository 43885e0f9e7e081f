//! Starting, recognising and ending processes.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::LabError;

/// Makes `command` start in a session of its own, so that a Ctrl-C in the
/// caller's terminal does not reach it, and frees it from `PG…` variables.
pub(crate) fn detach(command: &mut Command) {
    forget_pg_variables(command);
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
}

/// Makes `command` end when the thread that starts and awaits it is gone.
pub(crate) fn end_with_us(command: &mut Command) {
    forget_pg_variables(command);
    // SAFETY: prctl and setsid are async-signal-safe and touch no memory.
    unsafe {
        command.pre_exec(|| {
            #[cfg(target_os = "linux")]
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::setsid();
            Ok(())
        });
    }
}

/// The caller's `PGHOST`, `PGSERVICE` and the like must not steer the lab.
fn forget_pg_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
}

/// Runs a command to its end within `timeout` and returns its standard output.
pub(crate) fn run(
    command: &mut Command,
    timeout: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<String, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io(format!("starting {program}")))?;
    let stdout = child.stdout.take().map(read_in_background);
    let stderr = child.stderr.take().map(read_in_background);
    let deadline = Instant::now() + timeout;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(LabError::io(format!("waiting for {program}"))(error)),
        }
        let stop = if cancelled() {
            Some(LabError::Interrupted)
        } else if Instant::now() > deadline {
            Some(LabError::Timeout {
                what: format!("the end of {program}"),
                seconds: timeout.as_secs(),
                log: String::new(),
            })
        } else {
            None
        };
        if let Some(error) = stop {
            // initdb has children of its own: the whole session goes.
            kill_group(child.id());
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        thread::sleep(Duration::from_millis(5));
    };
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        Ok(stdout)
    } else {
        Err(LabError::Command {
            program,
            status: status.to_string(),
            output: stderr.trim_end().to_string(),
        })
    }
}

fn read_in_background<R: io::Read + Send + 'static>(mut from: R) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Starts a long-running process of the lab with its output in `log`.
pub(crate) fn spawn_logged(command: &mut Command, log: &Path) -> Result<Child, LabError> {
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(LabError::io(format!("opening {}", log.display())))?;
    let second = file.try_clone().map_err(LabError::io(format!("opening {}", log.display())))?;
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(second)
        .spawn()
        .map_err(LabError::io(format!("starting {program}")))
}

/// The last lines of a log, for an error message.
pub(crate) fn end_of_log(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    lines[from..].join("\n")
}

/// When a process started, in the system's own notation; `None` when there is
/// no such process, or only its zombie.
pub(crate) fn started(pid: u32) -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything: read after its end.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        fields.nth(18).map(str::to_string)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let output = Command::new("ps")
            .args(["-o", "lstart=", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Sends a signal; errors mean that the process is gone already.
pub(crate) fn signal(pid: u32, signal: libc::c_int) {
    if let Ok(pid) = libc::pid_t::try_from(pid)
        && pid > 1
    {
        // SAFETY: kill touches no memory; the caller has checked that the
        // process is one of the lab's.
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

/// Kills the process group that a child leads (see [`end_with_us`]).
fn kill_group(leader: u32) {
    if let Ok(leader) = libc::pid_t::try_from(leader)
        && leader > 1
    {
        // SAFETY: kill touches no memory; the child was not reaped yet, so its
        // id is still its own. Where it leads no group, nothing is hit.
        unsafe {
            libc::kill(-leader, libc::SIGKILL);
        }
    }
}

/// Removes a directory; processes that just ended may still write into it.
pub(crate) fn remove_dir(path: &Path) -> bool {
    wait_until(Duration::from_secs(5), || {
        let _ = fs::remove_dir_all(path);
        !path.exists()
    })
}

/// Waits until `done` holds, at most `limit`.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// An advisory lock on a file, held until dropped.
pub(crate) struct FileLock {
    _file: fs::File,
}

impl FileLock {
    /// Takes the lock at once, or says that another process has it.
    pub(crate) fn take(path: &Path, dir: &Path) -> Result<FileLock, LabError> {
        use std::os::fd::AsRawFd;
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(LabError::io(format!("opening {}", path.display())))?;
        // SAFETY: the descriptor is open for as long as `file` lives.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(LabError::Busy { dir: dir.into() });
        }
        Ok(FileLock { _file: file })
    }
}
