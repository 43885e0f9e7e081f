//! The command line.

use std::path::PathBuf;

use crate::client::Address;
use crate::sequences::Mistake;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: cargo run -p pgspan-parity -- [options]

  --filter TEXT         only cases whose FILE/LABEL contains TEXT (may be repeated: any of them)
  --list                list the cases and stop
  --mutations           prove that the suite turns red on a deliberately wrong gateway
  --settings N          play N scenarios under settings drawn from the server's list
  --random N            play N generated queries instead of the files, and shrink what fails
  --fuzz N              play N generated queries over generated schemas, with each strategy in turn;
                        what fails is made small and written to tests/parity/fuzz-failures
  --sessions N          play N generated sequences of steps over one or two sessions
  --mistake end|write   the gateway's player forgets the end of a transaction, or a write
  --properties          try each operation on each type over many values (--filter names types)
  --values N            so many on either side (default 100000)
  --failures DIR        another folder for them
  --seed S              where the generated queries start (default 1)
  --routes              print the route of every case
  --report FILE         write totals, strategies and reasons for the compatibility page
  --gateway HOST:PORT   another gateway in front of the same servers
  --gateway-reader HOST:PORT
  --lab-env FILE        servers as `pgspan lab env --json` describes them, instead of a lab of our own
  --threads N           files played at once (default 2)
  --cases DIR           another folder of case files

Without --lab-env, PGSPAN_BIN names the binary whose lab is started.";

/// The command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parts of names; empty: all cases.
    pub filters: Vec<String>,
    /// Only list.
    pub list: bool,
    /// Run the mutation test.
    pub mutations: bool,
    /// Play so many generated queries.
    pub random: Option<usize>,
    /// Scenarios of settings to play in place of the files.
    pub settings: Option<usize>,
    /// Play so many generated queries over generated schemas.
    pub fuzz: Option<usize>,
    /// Play so many generated sequences.
    pub sessions: Option<usize>,
    /// A deliberate mistake in them.
    pub mistake: Option<Mistake>,
    /// Try each operation on each type.
    pub properties: bool,
    /// So many values on either side.
    pub values: usize,
    /// Where their failures are kept.
    pub failures: PathBuf,
    /// Where they start.
    pub seed: u64,
    /// Print routes.
    pub routes: bool,
    /// Where the totals go, for the compatibility page.
    pub report: Option<PathBuf>,
    /// Another gateway.
    pub gateway: Option<Address>,
    /// Its reader endpoint.
    pub gateway_replica: Option<Address>,
    /// A description of running servers.
    pub lab_env: Option<PathBuf>,
    /// Files at once.
    pub threads: usize,
    /// Folder of case files.
    pub cases: PathBuf,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What is wrong, or the usage.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            filters: Vec::new(),
            list: false,
            mutations: false,
            random: None,
            settings: None,
            fuzz: None,
            sessions: None,
            mistake: None,
            properties: false,
            values: crate::properties::VALUES,
            failures: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz-failures")),
            seed: 1,
            routes: false,
            report: None,
            gateway: None,
            gateway_replica: None,
            lab_env: None,
            threads: 2,
            cases: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--filter" => options.filters.push(value()?),
                "--list" => options.list = true,
                "--mutations" => options.mutations = true,
                "--settings" => options.settings = Some(number(&value()?)?),
                "--random" => options.random = Some(number(&value()?)?),
                "--fuzz" => options.fuzz = Some(number(&value()?)?),
                "--sessions" => options.sessions = Some(number(&value()?)?),
                "--mistake" => {
                    options.mistake = Some(match value()?.as_str() {
                        "end" => Mistake::End,
                        "write" => Mistake::Write,
                        other => return Err(format!("`{other}` is not a mistake")),
                    });
                }
                "--properties" => options.properties = true,
                "--values" => options.values = number::<usize>(&value()?)?.max(20_000),
                "--failures" => options.failures = PathBuf::from(value()?),
                "--seed" => options.seed = number(&value()?)?,
                "--routes" => options.routes = true,
                "--report" => options.report = Some(PathBuf::from(value()?)),
                "--gateway" => options.gateway = Some(address(&value()?)?),
                "--gateway-reader" => options.gateway_replica = Some(address(&value()?)?),
                "--lab-env" => options.lab_env = Some(PathBuf::from(value()?)),
                "--threads" => options.threads = number::<usize>(&value()?)?.max(1),
                "--cases" => options.cases = PathBuf::from(value()?),
                "--help" | "-h" => return Err(USAGE.to_owned()),
                other => return Err(format!("{other} is not understood\n\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Whether a case is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|part| name.contains(part.as_str()))
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn address(text: &str) -> Result<Address, String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` is not HOST:PORT"))?;
    Ok(Address {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().map_err(|_| format!("`{text}` is not HOST:PORT"))?,
    })
}
