//! Where the large measurements happen: a lab that can be kept with its data, the
//! gateway of this run in front of it, and what the system tells about its process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pgspan_lab::{Address, Gateway, GatewayOptions, Lab, LabError, LabOptions};

use super::client::{Client, Login};
use crate::demo::DemoError;
use crate::lab::{relay_command, this_program};
use crate::terminal::{INTERRUPTED, Style, note};

/// How often open sockets are looked at while bytes are counted.
const SOCKETS_EVERY: Duration = Duration::from_millis(15);

/// A server, or the gateway in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Home, directly.
    Home,
    /// The source, directly.
    Source,
    /// Home through the gateway.
    Gateway,
}

/// A lab and its gateway.
#[derive(Debug)]
pub struct Stand {
    lab: Lab,
    gateway: Gateway,
    kept: bool,
}

/// How a stand is opened.
#[derive(Debug)]
pub struct StandOptions<'a> {
    /// A lab that is kept there; a temporary one when absent.
    pub dir: Option<&'a Path>,
    /// PostgreSQL's programs.
    pub postgres_bin: Option<&'a Path>,
    /// Another program as the gateway.
    pub gateway_program: Option<&'a Path>,
    /// Keys of the gateway's configuration.
    pub settings: Vec<(String, String)>,
}

/// Tells what is going on.
pub fn progress(line: impl AsRef<str>) {
    note(Style::for_stderr().dim(format!("  {}", line.as_ref())));
}

impl Stand {
    /// Takes the lab that runs in the directory, or starts one; the gateway is started
    /// anew, so that it is the program of this run.
    pub fn open(options: &StandOptions<'_>) -> Result<Stand, DemoError> {
        let mut lab_options = match options.dir {
            Some(dir) => LabOptions::new(dir),
            None => LabOptions::temporary()?,
        };
        lab_options.postgres_bin =
            options.postgres_bin.map(Path::to_owned).or(lab_options.postgres_bin);
        lab_options.cancel = Some(&INTERRUPTED);
        lab_options.relay_command = Some(relay_command()?);
        let mut lab = match Lab::start(&lab_options, &mut |line: &str| progress(line)) {
            Ok(lab) => lab,
            Err(LabError::AlreadyRunning { dir }) => {
                progress(format!("the lab in {} is used again", dir.display()));
                Lab::open(&dir)?.with_relay_command(relay_command()?)
            }
            Err(error) => return Err(error.into()),
        };
        let program: PathBuf = match options.gateway_program {
            Some(program) => program.to_owned(),
            None => this_program()?,
        };
        let mut gateway_options = GatewayOptions::new(program);
        gateway_options.settings.clone_from(&options.settings);
        if let Some(before) = &lab.state().gateway {
            gateway_options.port = Some(before.endpoint("users-writer")?.address.port);
        }
        lab.stop_helper("gateway")?;
        let gateway = lab.start_gateway(&gateway_options, &mut |_: &str| {})?;
        let mut stand = Stand { lab, gateway, kept: options.dir.is_some() };
        if stand.kept {
            stand.keep()?;
        }
        Ok(stand)
    }

    /// From here on the lab stays, whatever becomes of this process.
    fn keep(&mut self) -> Result<(), DemoError> {
        let open = Lab::open(&self.lab.state().dir)?.with_relay_command(relay_command()?);
        std::mem::replace(&mut self.lab, open).detach();
        Ok(())
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.lab.state().dir
    }

    /// PostgreSQL's version.
    pub fn postgres_version(&self) -> &str {
        &self.lab.state().postgres_version
    }

    /// How to log in somewhere.
    pub fn login(&self, at: At, database: &str) -> Result<Login, DemoError> {
        let state = self.lab.state();
        Ok(Login {
            address: self.address(at)?,
            user: state.user.clone(),
            password: state.password.clone(),
            database: database.to_owned(),
        })
    }

    /// Where that is.
    pub fn address(&self, at: At) -> Result<Address, DemoError> {
        Ok(match at {
            At::Home => self.lab.server("users-writer")?.address.clone(),
            At::Source => self.lab.server("orders-writer")?.address.clone(),
            At::Gateway => self.gateway.endpoint("users-writer")?.address.clone(),
        })
    }

    /// Where the gateway stands for a server.
    pub fn endpoint_of(&self, at: At) -> Result<Address, DemoError> {
        let name = if at == At::Source { "orders-writer" } else { "users-writer" };
        Ok(self.gateway.endpoint(name)?.address.clone())
    }

    /// A session.
    pub fn connect(&self, at: At, database: &str) -> Result<Client, DemoError> {
        Client::connect(&self.login(at, database)?).map_err(DemoError::from)
    }

    /// What is written on a database, if it exists.
    pub fn mark(&self, at: At, database: &str) -> Result<Option<String>, DemoError> {
        let sql = format!(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database \
             WHERE datname = '{database}'"
        );
        let answer = self.connect(at, "postgres")?.run(&sql)?;
        Ok(answer.scalar().map(str::to_owned))
    }

    /// Writes on a database, for the next run.
    pub fn set_mark(&self, at: At, database: &str, mark: &str) -> Result<(), DemoError> {
        self.connect(at, "postgres")?
            .run(&format!("COMMENT ON DATABASE {database} IS '{mark}'"))?;
        Ok(())
    }

    /// An empty database.
    pub fn make_database(&self, at: At, database: &str) -> Result<Client, DemoError> {
        let mut admin = self.connect(at, "postgres")?;
        admin.run(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
        admin.run(&format!("CREATE DATABASE {database}"))?;
        self.connect(at, database)
    }

    /// `CREATE SERVER` and its mapping; `direct` names the server itself, otherwise the
    /// gateway's endpoint of it is named.
    pub fn create_server(
        &self,
        name: &str,
        (at, database): (At, &str),
        direct: bool,
        options: &str,
    ) -> Result<String, DemoError> {
        let Address { host, port } = if direct { self.address(at)? } else { self.endpoint_of(at)? };
        let state = self.lab.state();
        Ok(format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw \
             OPTIONS (host '{host}', port '{port}', dbname '{database}'{options});
             CREATE USER MAPPING FOR {user} SERVER {name} \
             OPTIONS (user '{user}', password '{password}');",
            user = state.user,
            password = state.password,
        ))
    }

    /// Tells home where the gateway's endpoint is in this run.
    pub fn move_server(&self, home: &mut Client, name: &str, at: At) -> Result<(), DemoError> {
        let Address { host, port } = self.endpoint_of(at)?;
        home.run(&format!("ALTER SERVER {name} OPTIONS (SET host '{host}', SET port '{port}')"))?;
        Ok(())
    }

    /// The gateway's process.
    pub fn gateway_pid(&self) -> Option<u32> {
        let helpers = &self.lab.state().helpers;
        helpers.iter().find(|helper| helper.name == "gateway").map(|helper| helper.pid)
    }

    /// Forgets the most memory that the gateway had so far.
    pub fn reset_peak(&self) -> bool {
        let Some(pid) = self.gateway_pid() else { return false };
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
    }

    /// The most memory that the gateway had since then, in bytes.
    pub fn peak(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.gateway_pid()?)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// Bytes that a server sent while `work` ran, as its open sockets tell; `None` where
    /// `ss` is not installed. What a connection sent in its very last moment may be missing.
    pub fn bytes_sent<T>(&self, at: At, work: impl FnOnce() -> T) -> (T, Option<u64>) {
        let Ok(Address { port, .. }) = self.address(at) else { return (work(), None) };
        let Some(before) = sockets(port) else { return (work(), None) };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most: HashMap<String, u64> = HashMap::new();
                loop {
                    // Read first, so that there is one look after the end.
                    let last = done.load(Ordering::Relaxed);
                    for (socket, bytes) in sockets(port).unwrap_or_default() {
                        let known = most.entry(socket).or_default();
                        *known = bytes.max(*known);
                    }
                    if last {
                        return most;
                    }
                    thread::sleep(SOCKETS_EVERY);
                }
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            let bytes = watch.join().ok().map(|most| {
                most.iter()
                    .map(|(socket, bytes)| {
                        bytes.saturating_sub(before.get(socket).copied().unwrap_or_default())
                    })
                    .sum()
            });
            (result, bytes)
        })
    }

    /// Ends the gateway, and the lab if it is not kept.
    pub fn close(mut self) -> Result<(), DemoError> {
        if self.kept {
            // The gateway stays too, for whoever wants to look.
            return Ok(());
        }
        self.lab.stop_helper("gateway")?;
        Ok(self.lab.stop()?)
    }
}

/// The other end of each open socket of a local port, and the bytes sent to it.
fn sockets(port: u16) -> Option<HashMap<String, u64>> {
    let output = Command::new("ss")
        .args(["-tinHO", "state", "established", &format!("( sport = :{port} )")])
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let peer = words.nth(3)?.to_owned();
                let sent = words.find_map(|word| word.strip_prefix("bytes_sent:"))?;
                Some((peer, sent.parse().ok()?))
            })
            .collect(),
    )
}
