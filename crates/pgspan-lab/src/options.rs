//! What a lab is asked to be.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::LabError;

/// Options of [`crate::Lab::start`].
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// The lab's directory: state, logs, configuration and, where possible, data.
    pub dir: PathBuf,
    /// The directory of PostgreSQL's programs; found when absent. Unless set it is
    /// `PGSPAN_POSTGRES_BIN`.
    pub postgres_bin: Option<PathBuf>,
    /// The same for the cluster `orders`, when it is to be of another version. Unless set it
    /// is `PGSPAN_POSTGRES_BIN_ORDERS`.
    pub orders_postgres_bin: Option<PathBuf>,
    /// Round-trip time to put on every link; zero means no relays.
    pub latency: Duration,
    /// Whether `orders` gets a streaming replica too.
    pub orders_replica: bool,
    /// More server settings (`postgresql.conf`), on every server.
    pub settings: Vec<(String, String)>,
    /// The longest wait for any one step of the start.
    pub start_timeout: Duration,
    /// The command that runs relays in a process of their own; its arguments
    /// are those of [`crate::relay::run_from_args`]. When absent, relays are
    /// threads of this process.
    pub relay_command: Option<Vec<OsString>>,
    /// Becomes true when the caller wants the start abandoned.
    pub cancel: Option<&'static AtomicBool>,
}

/// A directory that the environment names.
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

impl LabOptions {
    /// The default options for a lab in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> LabOptions {
        LabOptions {
            dir: dir.into(),
            postgres_bin: named("PGSPAN_POSTGRES_BIN"),
            orders_postgres_bin: named("PGSPAN_POSTGRES_BIN_ORDERS"),
            latency: Duration::ZERO,
            orders_replica: false,
            settings: Vec::new(),
            start_timeout: Duration::from_secs(60),
            relay_command: None,
            cancel: None,
        }
    }

    /// The default options for a lab in a new directory under the system's
    /// temporary directory.
    pub fn temporary() -> Result<LabOptions, LabError> {
        let dir = crate::account::short_temp_root()
            .join(format!("pgspan-lab-{}", crate::account::random_hex(4)?));
        Ok(LabOptions::new(dir))
    }
}
