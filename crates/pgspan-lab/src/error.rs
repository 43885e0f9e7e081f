//! What can go wrong in a lab, said so that the reader knows what to do next.

use std::io;
use std::path::PathBuf;

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// No PostgreSQL server programs were found.
    #[error(
        "no PostgreSQL server (14 to 18) was found; looked in: {searched}\n\
         install one (Debian: apt-get install postgresql postgresql-contrib) or give --postgres-bin"
    )]
    PostgresNotFound {
        /// The places that were looked at.
        searched: String,
    },
    /// The PostgreSQL that was found is too old, too new, or unreadable.
    #[error("{path}: PostgreSQL {version} is not supported by the lab (14 to 18 are)")]
    PostgresVersion {
        /// The directory of its programs.
        path: PathBuf,
        /// The version it reports.
        version: String,
    },
    /// An operation of the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The error.
        source: io::Error,
    },
    /// A program that the lab ran failed.
    #[error("{program} failed ({status}):\n{output}")]
    Command {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// What it wrote to its standard error.
        output: String,
    },
    /// A server or another process of the lab ended while it was starting.
    #[error("{name} ended while starting ({status}); the end of its log {log_path}:\n{log}")]
    Exited {
        /// Whose process it was.
        name: String,
        /// How it ended.
        status: String,
        /// Where its log was.
        log_path: PathBuf,
        /// The last lines of the log.
        log: String,
    },
    /// Something did not happen within its bounded wait.
    #[error("{what} did not happen within {seconds} s{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of the log, if there is one.
        log: String,
    },
    /// A port that was free a moment ago is taken.
    #[error("{name}: port {port} was taken by another process")]
    PortTaken {
        /// Whose port it was.
        name: String,
        /// The port.
        port: u16,
    },
    /// The caller asked to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
    /// A running lab already owns the directory.
    #[error("a lab is already running in {dir}")]
    AlreadyRunning {
        /// Its directory.
        dir: PathBuf,
    },
    /// Another process is starting or stopping the lab of this directory.
    #[error("another process is starting or stopping the lab in {dir}")]
    Busy {
        /// Its directory.
        dir: PathBuf,
    },
    /// There is no lab in the directory.
    #[error("there is no lab in {dir}; start one with: pgspan lab up")]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds files that the lab did not write.
    #[error("{path} exists, but no lab wrote it; choose another directory")]
    NotOurs {
        /// The path in the way.
        path: PathBuf,
    },
    /// The state file does not make sense, or an option does not.
    #[error("{0}")]
    Invalid(String),
}

impl LabError {
    /// Names what was being done when an I/O error occurred.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }
}
