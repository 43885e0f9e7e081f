//! Who runs the servers, and the files and directories that they may reach.
//!
//! PostgreSQL refuses to run as root, so root's lab runs its servers as the
//! account `postgres`, or `nobody` where that does not exist.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LabError;

/// The account that servers run as; `None` is the caller's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    ids: Option<(u32, u32)>,
}

impl Account {
    /// The caller's account, or an unprivileged one when the caller is root.
    pub(crate) fn for_servers() -> Result<Account, LabError> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(Account { ids: None });
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| look_up(name))
            .map(|ids| Account { ids: Some(ids) })
            .ok_or_else(|| {
                LabError::Invalid(
                    "PostgreSQL does not run as root, and there is no account postgres or nobody"
                        .into(),
                )
            })
    }

    /// Makes `command` run as this account, in a directory that it can enter.
    pub(crate) fn apply(self, command: &mut Command) {
        if let Some((uid, gid)) = self.ids {
            // The home of who started us is not its own: libpq looks for files there.
            command.uid(uid).gid(gid).env_remove("HOME");
        }
        command.current_dir("/");
    }

    /// Creates a directory that only this account may enter.
    pub(crate) fn create_private_dir(self, path: &Path) -> Result<(), LabError> {
        let what = || format!("creating {}", path.display());
        fs::create_dir_all(path).map_err(LabError::io(what()))?;
        self.own(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(LabError::io(what()))
    }

    /// Gives a file or directory to this account.
    pub(crate) fn own(self, path: &Path) -> Result<(), LabError> {
        match self.ids {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(LabError::io(format!("giving {} to uid {uid}", path.display()))),
            None => Ok(()),
        }
    }

    /// Whether this account can enter the directory: every parent must let it.
    pub(crate) fn can_enter(self, dir: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(dir);
        self.apply(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// The user and group id of a named account.
fn look_up(name: &str) -> Option<(u32, u32)> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string; the result is read before any
    // other call that could overwrite its static storage, and the lab looks
    // accounts up from one thread only.
    unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        if entry.is_null() { None } else { Some(((*entry).pw_uid, (*entry).pw_gid)) }
    }
}

/// The directory for temporary files with the shortest name: the path of a
/// Unix socket has room for about a hundred bytes.
pub(crate) fn short_temp_root() -> PathBuf {
    let tmp = PathBuf::from("/tmp");
    if tmp.is_dir() { tmp } else { std::env::temp_dir() }
}

/// `bytes` random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, LabError> {
    let mut buffer = vec![0_u8; bytes];
    getrandom::fill(&mut buffer)
        .map_err(|error| LabError::Invalid(format!("no random numbers: {error}")))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name that nobody else has: a prefix and random hexadecimal digits.
pub fn random_name(prefix: &str) -> Result<String, LabError> {
    Ok(format!("{prefix}{}", random_hex(5)?))
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), LabError> {
    let what = || format!("writing {}", path.display());
    // A file that is already there keeps its mode: make a new one.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(LabError::io(what())(error));
        }
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(LabError::io(what()))?;
    file.write_all(content).map_err(LabError::io(what()))
}

/// The free space of the file system that holds `path`, in bytes, if known.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero statvfs is a valid value of that plain C struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated and `stat` is valid for writing.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return None;
    }
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}
