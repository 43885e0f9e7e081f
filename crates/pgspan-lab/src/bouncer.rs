//! PgBouncer beside a lab, for comparison: session mode, in front of the writer of
//! `users`, with its files among the servers' own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::{Account, write_private};
use crate::{Address, Lab, LabError, ports};

/// Clients and server connections that it takes; above what any measurement asks.
const CONNECTIONS: u32 = 100;

impl Lab {
    /// Starts PgBouncer in session mode in front of the writer of `users` and waits
    /// until it accepts connections. `None` when it is not installed.
    pub fn start_pgbouncer(&mut self) -> Result<Option<Address>, LabError> {
        let Some(program) = program() else {
            return Ok(None);
        };
        // PgBouncer refuses to run as root, as PostgreSQL does.
        let account = Account::for_servers()?;
        let dir = self.state().data_root.join("pgbouncer");
        account.create_private_dir(&dir)?;
        let address =
            Address::new("127.0.0.1", ports::free_ports(1)?.into_iter().next().unwrap_or_default());
        let state = self.state();
        let writer = state.server("users-writer")?;
        let users = dir.join("userlist.txt");
        let config = dir.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{db} = host={host} port={port} dbname={db}\n\n\
             [pgbouncer]\nlisten_addr = {listen}\nlisten_port = {listen_port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n\
             pool_mode = session\nmax_client_conn = {CONNECTIONS}\n\
             default_pool_size = {CONNECTIONS}\nlog_connections = 0\nlog_disconnections = 0\n",
            db = writer.database,
            host = writer.link.host,
            port = writer.link.port,
            listen = address.host,
            listen_port = address.port,
            users = users.display(),
        );
        let list = format!("\"{}\" \"{}\"\n", state.user, state.password);
        for (path, content) in [(&users, &list), (&config, &text)] {
            write_private(path, content.as_bytes())?;
            account.own(path)?;
        }
        let mut command = Command::new(program);
        command.arg(&config);
        account.apply(&mut command);
        self.start_helper("pgbouncer", &mut command, vec![address.clone()])?;
        Ok(Some(address))
    }
}

/// PgBouncer's program; Debian keeps it where only root's `PATH` looks.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"].map(PathBuf::from))
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| is_file(program))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}
