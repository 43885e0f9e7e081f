//! Protocol scripts: data files that say which messages to send and until which one
//! to read. Each plays at PostgreSQL and at the gateway, and what comes back must be
//! the same, message by message.
//!
//! [`script`] reads the files, [`play`] plays one at one server, [`told`] makes
//! messages readable. `tests/protocol/README.md` has the format.

pub mod play;
pub mod script;
pub mod told;

use crate::client::Address;
use crate::lab::Lab;
use script::Script;

/// The databases that the scripts play in.
pub const HOME: &str = "protocol_home";
/// At the source.
pub const SOURCE: &str = "protocol_source";

/// Both players' transcripts of a script, line by line.
#[derive(Debug)]
pub struct Compared {
    /// PostgreSQL's.
    pub direct: Vec<String>,
    /// The gateway's.
    pub gateway: Vec<String>,
    /// Lines that the script itself demands and PostgreSQL did not send.
    pub missing: Vec<String>,
}

impl Compared {
    /// Whether both saw the same.
    pub fn same(&self) -> bool {
        self.direct == self.gateway
    }
}

/// Makes the databases, empty.
///
/// # Errors
/// What the servers say.
pub fn make_databases(lab: &Lab) -> Result<(), String> {
    for (address, name) in [(&lab.home, HOME), (&lab.source, SOURCE)] {
        let mut session = lab.connect(address, "postgres")?;
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name}"),
        ] {
            let reply = session.simple(&sql);
            if reply.error.is_some() || reply.broken.is_some() {
                return Err(format!("{sql}: {}", reply.summary()));
            }
        }
    }
    Ok(())
}

/// Plays a script at both, each on a fresh setup.
///
/// # Errors
/// What is wrong with the script or the servers.
pub fn compare(lab: &Lab, script: &Script) -> Result<Compared, String> {
    let at = |address: &Address| -> Result<Vec<String>, String> {
        reset(lab, script)?;
        let mut lines = play::play(lab, address, script)?;
        if script.loose_description {
            let errors: Vec<bool> = lines.iter().map(|line| line.contains(" E S=")).collect();
            let mut at = 0;
            lines.retain(|line| {
                at += 1;
                let described = line.get(1..4) == Some(" T ");
                !(described && errors.get(at).copied().unwrap_or(false))
            });
        }
        Ok(lines)
    };
    let direct = at(&lab.home)?;
    let gateway = at(&lab.gateway)?;
    let missing =
        script.demands.iter().filter(|d| !direct.iter().any(|line| line.contains(*d))).cloned();
    Ok(Compared { missing: missing.collect(), direct, gateway })
}

/// Both databases as the script's file sets them up.
fn reset(lab: &Lab, script: &Script) -> Result<(), String> {
    let empty = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;";
    let foreign = format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw
            OPTIONS (host '{}', port '{}', dbname '{SOURCE}');
         CREATE USER MAPPING FOR postgres SERVER src OPTIONS (user 'postgres', password '{}');",
        lab.foreign.host, lab.foreign.port, lab.password
    );
    for (address, name, sql) in [
        (&lab.source, SOURCE, format!("{empty}{}", script.setup_source)),
        (&lab.home, HOME, format!("{empty}{foreign}{}", script.setup_home)),
    ] {
        let reply = lab.connect(address, name)?.simple(&sql);
        if reply.error.is_some() || reply.broken.is_some() {
            return Err(format!("setup at {name}: {}", reply.summary()));
        }
    }
    Ok(())
}
