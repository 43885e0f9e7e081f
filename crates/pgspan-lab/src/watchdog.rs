//! Cleans up after a process that was killed before it could.
//!
//! A small shell script waits on a pipe from the process that owns the lab.
//! When the pipe closes without a word, the owner is gone, however it died:
//! the script stops the servers and helpers and removes the lab's files.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::LabError;
use crate::process;
use crate::state::OWN_FILES;

/// `$1` data root, `$2` socket directory, `$3` lab directory, `$4…` the names
/// to delete there. A helper is ended only if it is still the process that was
/// registered (its start time, where /proc tells).
const SCRIPT: &str = r#"
helpers=
while read -r word pid started; do
  case "$word" in
    helper) helpers="$helpers $pid/$started" ;;
    release) exit 0 ;;
  esac
done
for helper in $helpers; do
  pid=${helper%%/*}
  if [ -r "/proc/$pid/stat" ]; then
    read -r line < "/proc/$pid/stat"
    line=${line##*) }
    now=$(set -- $line; echo "${20}")
    [ "$now" = "${helper#*/}" ] || continue
  fi
  kill -TERM "$pid" 2>/dev/null
done
data=$1; sockets=$2; dir=$3; shift 3
clean() {
  for signal in INT QUIT; do
    tries=0
    while [ $tries -lt 50 ]; do
      alive=
      for file in "$data"/*/postmaster.pid; do
        [ -r "$file" ] || continue
        read -r pid < "$file"
        kill -0 "$pid" 2>/dev/null || continue
        alive=yes
        [ $tries -eq 0 ] && kill -$signal "$pid"
      done
      [ -n "$alive" ] || break 2
      tries=$((tries + 1))
      sleep 0.2
    done
  done
  rm -rf "$data" "$sockets"
}
clean
sleep 1
clean
for name in "$@"; do rm -rf "${dir:?}/$name"; done
rmdir "$dir" 2>/dev/null
case ${dir%/*} in */.pgspan) rmdir "${dir%/*}" 2>/dev/null ;; esac
exit 0
"#;

/// The watchdog of one lab.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pipe: ChildStdin,
}

impl Watchdog {
    /// Starts watching over this process on behalf of the lab in `dir`.
    pub(crate) fn start(
        data_root: &Path,
        socket_dir: &Path,
        dir: &Path,
    ) -> Result<Watchdog, LabError> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "pgspan-lab-watchdog"])
            .args([data_root, socket_dir, dir])
            .args(OWN_FILES)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        process::detach(&mut command);
        let mut child = command.spawn().map_err(LabError::io("starting the lab's watchdog"))?;
        match child.stdin.take() {
            Some(pipe) => Ok(Watchdog { child, pipe }),
            None => Err(LabError::Invalid("the watchdog has no pipe".into())),
        }
    }

    /// Adds a process to end.
    pub(crate) fn watch(&mut self, pid: u32, started: &str) {
        let _ = writeln!(self.pipe, "helper {pid} {started}");
    }

    /// Ends the watch: the lab is stopped, or meant to stay.
    pub(crate) fn release(mut self) {
        let _ = writeln!(self.pipe, "release");
        let _ = self.child.wait();
    }
}
