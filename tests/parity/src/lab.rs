//! The servers that the suite plays on: a lab that it starts itself through the
//! binary, or one that is described to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Address, Connection, Login};
use crate::options::Options;

/// The role that everything is done with unless a case says otherwise.
pub const USER: &str = "postgres";

/// Running servers and the gateway in front of them.
#[derive(Debug)]
pub struct Lab {
    /// Home, directly.
    pub home: Address,
    /// Home's replica, directly.
    pub home_replica: Option<Address>,
    /// The source, directly.
    pub source: Address,
    /// The source as home's CREATE SERVER names it.
    pub foreign: Address,
    /// Home through the gateway.
    pub gateway: Address,
    /// The replica through the gateway.
    pub gateway_replica: Option<Address>,
    /// Password of [`USER`].
    pub password: String,
    /// PostgreSQL's major version at home.
    pub version: u32,
    /// ICU collations exist.
    pub icu: bool,
    /// `SHOW pgspan.last_route` answers.
    pub routes_visible: bool,
    started: Option<Started>,
}

/// A lab of our own, stopped on drop.
#[derive(Debug)]
struct Started {
    binary: PathBuf,
    folder: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        let stopped = Command::new(&self.binary)
            .args(["lab", "down", "--dir"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .output();
        match stopped {
            Ok(output) if output.status.success() => {
                let _ = std::fs::remove_dir_all(&self.folder);
            }
            Ok(output) => eprintln!("lab down: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("lab down: {error}"),
        }
    }
}

impl Lab {
    /// Starts a lab, or takes the one that the options describe.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(options: &Options) -> Result<Lab, String> {
        let (json, started) = match &options.lab_env {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                (text, None)
            }
            None => {
                let (text, started) = start(options)?;
                (text, Some(started))
            }
        };
        let mut lab = describe(&json, started)?;
        if let Some(address) = &options.gateway {
            lab.gateway = address.clone();
        }
        if let Some(address) = &options.gateway_replica {
            lab.gateway_replica = Some(address.clone());
        }
        lab.probe()?;
        Ok(lab)
    }

    /// A login of [`USER`] at `address`.
    pub fn login(&self, address: &Address, database: &str) -> Login {
        Login {
            address: address.clone(),
            user: USER.to_owned(),
            password: self.password.clone(),
            database: database.to_owned(),
            settings: Vec::new(),
        }
    }

    /// A session of [`USER`] at `address`.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn connect(&self, address: &Address, database: &str) -> Result<Connection, String> {
        Connection::open(&self.login(address, database))
            .map_err(|reply| format!("{}:{}: {}", address.host, address.port, reply.summary()))
    }

    /// The same servers behind another gateway.
    #[must_use]
    pub fn with_gateway(&self, gateway: Address) -> Lab {
        Lab {
            home: self.home.clone(),
            home_replica: self.home_replica.clone(),
            source: self.source.clone(),
            foreign: self.foreign.clone(),
            gateway,
            gateway_replica: None,
            password: self.password.clone(),
            version: self.version,
            icu: self.icu,
            routes_visible: false,
            started: None,
        }
    }

    /// Waits until the replica has replayed what the primary has written.
    ///
    /// # Errors
    /// When it does not within a bound, or there is none.
    pub fn catch_up(&self) -> Result<(), String> {
        const WAIT_MAX: Duration = Duration::from_secs(20);
        let Some(replica) = &self.home_replica else {
            return Err("there is no replica".to_owned());
        };
        let mut writer = self.connect(&self.home, "postgres")?;
        let mut reader = self.connect(replica, "postgres")?;
        let written = writer
            .simple("select pg_catalog.pg_current_wal_insert_lsn()")
            .scalar()
            .ok_or("the primary does not tell its position")?;
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            let caught_up = reader
                .simple(&format!(
                    "select pg_catalog.pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
                ))
                .scalar();
            if caught_up.as_deref() == Some("t") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the replica did not reach {written} in {WAIT_MAX:?}"))
    }

    /// Whether the gateway has counted no text of its own that a server could not read: home
    /// answers all the same, so that no comparison shows it. Prints those that it has.
    ///
    /// # Errors
    /// A gateway that does not answer.
    pub fn has_no_defects(&self) -> Result<bool, String> {
        if !self.routes_visible {
            return Ok(true);
        }
        let reply = self.connect(&self.gateway, "postgres")?.simple("show pgspan.routes");
        let rows: Vec<_> = reply.results.into_iter().flat_map(|result| result.rows).collect();
        if rows.is_empty() {
            return Err("the gateway does not tell its routes".to_owned());
        }
        let mut none = true;
        for row in rows {
            let texts = row.iter().flatten().map(|value| String::from_utf8_lossy(value));
            let text = texts.collect::<Vec<_>>().join(" | ");
            if text.contains("a defect of the gateway") {
                println!("FAILED {text}");
                none = false;
            }
        }
        Ok(none)
    }

    /// Asks the servers what they are.
    fn probe(&mut self) -> Result<(), String> {
        let mut home = self.connect(&self.home, "postgres")?;
        let number = home.simple("show server_version_num").scalar();
        self.version = number
            .and_then(|text| text.parse::<u32>().ok())
            .map(|number| number / 10_000)
            .ok_or("home does not tell its version")?;
        let icu = home
            .simple("select count(*) > 0 from pg_catalog.pg_collation where collprovider = 'i'")
            .scalar();
        self.icu = icu.as_deref() == Some("t");
        let mut gateway = self.connect(&self.gateway, "postgres")?;
        let answered = gateway.simple("select 1");
        if answered.error.is_some() || answered.broken.is_some() {
            return Err(format!("the gateway: {}", answered.summary()));
        }
        self.routes_visible = gateway.simple("show pgspan.last_route").error.is_none();
        Ok(())
    }
}

fn start(options: &Options) -> Result<(String, Started), String> {
    let binary = std::env::var_os("PGSPAN_BIN")
        .map(PathBuf::from)
        .ok_or("PGSPAN_BIN is not set: build pgspan and name it, or give --lab-env")?;
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let name = match STARTED.fetch_add(1, Ordering::Relaxed) {
        0 => format!("pgspan-parity-{}", std::process::id()),
        more => format!("pgspan-parity-{}-{more}", std::process::id()),
    };
    let folder = std::env::temp_dir().join(name);
    let started = Started { binary: binary.clone(), folder: folder.clone() };
    let quick = ["--server-setting", "fsync=off", "--server-setting", "max_connections=300"];
    // The tables of generated schemas are small: what the engine does with large ones is
    // to happen with them too.
    let small = [
        "--set",
        "limits.engine_rows_min=8",
        "--set",
        "limits.engine_pages_min=1",
        "--set",
        "limits.engine_part_bytes=200",
    ];
    // What is compiled is a setting of some databases.
    let compiled = ["--server-setting", "jit=off"];
    let (small, compiled): (&[&str], &[&str]) =
        if options.fuzz.is_some() { (&small, &compiled) } else { (&[], &[]) };
    run(&binary, &["lab", "up", "--dir"], &folder, &[&quick[..], small, compiled].concat())?;
    let json = run(&binary, &["lab", "env", "--dir"], &folder, &["--json"])?;
    Ok((json, started))
}

fn run(binary: &Path, before: &[&str], folder: &Path, after: &[&str]) -> Result<String, String> {
    let output = Command::new(binary)
        .args(before)
        .arg(folder)
        .args(after)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{} {}: {}\n{}{}",
        binary.display(),
        before.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Reads what `pgspan lab env --json` prints.
fn describe(json: &str, started: Option<Started>) -> Result<Lab, String> {
    let value: Value =
        serde_json::from_str(json).map_err(|error| format!("lab env --json: {error}\n{json}"))?;
    let info = &value["connection_info"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let port = |value: &Value| {
        value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .and_then(|port| u16::try_from(port).ok())
    };
    let pair =
        |value: &Value| Some(Address { host: text(&value["host"])?, port: port(&value["port"])? });
    let need = |found: Option<Address>, name: &str| {
        found.ok_or_else(|| format!("lab env --json does not tell {name}"))
    };
    let endpoint = |name: &str| match &info[name] {
        Value::String(host) => Some(Address { host: host.clone(), port: port(&info["port"])? }),
        value => pair(value),
    };
    let servers = &info["servers"];
    let source = need(pair(&servers["orders_writer"]), "servers.orders_writer")?;
    Ok(Lab {
        home: need(pair(&servers["users_writer"]), "servers.users_writer")?,
        home_replica: pair(&servers["users_replica"]),
        foreign: pair(&info["foreign_server"]).unwrap_or_else(|| source.clone()),
        source,
        gateway: need(endpoint("users_writer"), "users_writer")?,
        gateway_replica: endpoint("users_reader"),
        password: text(&value["database_password"])
            .ok_or("lab env --json does not tell database_password")?,
        version: 0,
        icu: false,
        routes_visible: false,
        started,
    })
}

impl Lab {
    /// Whether this lab is our own.
    pub fn is_own(&self) -> bool {
        self.started.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_own_words_are_read() {
        let json = r#"{"connection_info": {"users_writer": "127.0.0.2",
            "users_reader": {"host": "127.0.0.3", "port": 5440},
            "orders_writer": "127.0.0.4", "port": 5439,
            "servers": {"users_writer": {"host": "127.0.0.1", "port": 1},
                        "orders_writer": {"host": "127.0.0.1", "port": "2"}},
            "foreign_server": {"host": "127.0.0.9", "port": 3}},
            "database_password": "x"}"#;
        let lab = describe(json, None).unwrap();
        assert_eq!((lab.home.port, lab.source.port, lab.foreign.port), (1, 2, 3));
        assert_eq!((lab.gateway.host.as_str(), lab.gateway.port), ("127.0.0.2", 5439));
        assert!(lab.home_replica.is_none() && lab.gateway_replica.is_some());
    }
}
