//! `pgspan bench`: latency and throughput beside direct postgres_fdw, PgBouncer and
//! plain PostgreSQL, with the targets that pgspan sets itself.
//!
//! The demo's stage is used as it is: the guide's schema and rows, its foreign table
//! through the gateway, and the baseline's own foreign table that names the orders
//! server itself. Every figure comes from `pgbench`'s per-transaction log.

mod answers;
mod client;
mod equal;
mod large;
mod measure;
mod pgbench;
mod plan;
mod python;
mod race;
mod report;
mod stand;
mod svg;
mod tpch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use pgspan_gateway::config::Config;
use pgspan_lab::{Address, Gateway, GatewayOptions, Lab, LabOptions};

use crate::demo::guide::{self, statements};
use crate::demo::measure::{same, strategies, used_between};
use crate::demo::psql::Psql;
use crate::demo::show::{Lang, Show};
use crate::demo::stage::{Place, Stage};
use crate::demo::{DemoError, exit_code, lab_stage};
use crate::lab::{relay_command, this_program};
use crate::terminal::{INTERRUPTED, Style, note, say, watch_signals};
use measure::{Effort, Measured, Measurement, Watch};
use pgbench::{Pgbench, Script, Target};
use plan::Scene;
use report::Report;

/// Scale of pgbench's tables: a million accounts.
const SCALE: u32 = 10;
/// Added to every link for the measurements of a network.
const LATENCY: Duration = Duration::from_millis(1);
/// A load average above which somebody else is at work.
const BUSY_LOAD: f64 = 0.5;
/// How long the replica may take to show what was made on the writer.
const REPLICATION_LIMIT: Duration = Duration::from_secs(60);

/// Measure latency and throughput on real servers of this machine, beside direct
/// postgres_fdw, PgBouncer and plain PostgreSQL. Peers take turns in short rounds, and
/// medians of the rounds are compared. Succeeds when everything was measured,
/// whatever the ratios.
#[derive(Debug, Args)]
pub struct Bench {
    /// Instead: large joins, beside postgres_fdw, DuckDB, chDB and the floor
    #[arg(long)]
    large: bool,
    /// Instead: the 22 queries of TPC-H over two clusters
    #[arg(long, conflicts_with = "large")]
    tpch: bool,
    #[command(flatten)]
    volume: large::Volume,
    /// A short run: two rounds of one second each
    #[arg(long)]
    quick: bool,
    /// Fail when a target is missed
    #[arg(long)]
    strict: bool,
    /// Rounds of each peer (default: 7; 2 with --quick)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Seconds of each round (default: 2; 1 with --quick)
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Only measurements whose name contains this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the report goes, as JSON
    #[arg(long, default_value = "bench-out/bench.json", value_name = "FILE")]
    out: PathBuf,
    /// The directory of PostgreSQL's programs; else PGSPAN_POSTGRES_BIN, else found
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// Another program to run as the gateway
    #[arg(long, hide = true)]
    gateway_program: Option<PathBuf>,
}

/// Runs the benchmark.
pub fn run(bench: &Bench) -> ExitCode {
    watch_signals();
    exit_code(match bench {
        Bench { large: true, .. } => large::run(bench),
        Bench { tpch: true, .. } => tpch::run(bench),
        _ => try_run(bench),
    })
}

fn try_run(bench: &Bench) -> Result<bool, DemoError> {
    let (rounds, seconds) = if bench.quick { (2, 1) } else { (7, 2) };
    let effort = Effort {
        rounds: usize::from(bench.rounds.unwrap_or(rounds)),
        seconds: bench.seconds.unwrap_or(seconds),
    };
    let show = Show { style: Style::for_stdout(), lang: Lang::En, quiet: false };
    warn_of_noise();
    let mut report = Report {
        pgspan_version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        postgres_version: String::new(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        load_average: [report::load_average(), None],
        effort,
        measurements: Vec::new(),
        met: 0,
        missed: 0,
        not_measured: 0,
    };
    loopback(bench, effort, &show, &mut report)?;
    network(bench, effort, &show, &mut report)?;
    report.load_average[1] = report::load_average();
    report.count();
    write(&bench.out, &report)?;
    show.line("");
    show.line(show.style.bold(format!(
        "{} targets met, {} missed, {} not measured; {} rounds of {} s each; {}",
        report.met,
        report.missed,
        report.not_measured,
        effort.rounds,
        effort.seconds,
        bench.out.display()
    )));
    Ok(!bench.strict || report.missed == 0)
}

/// Says what makes figures worth less.
fn warn_of_noise() {
    if cfg!(debug_assertions) {
        note("pgspan: this is a debug build; its figures mean nothing");
    }
    if let Some(load) = report::load_average().filter(|load| *load > BUSY_LOAD) {
        note(format!(
            "pgspan: the machine is busy (load {load:.1}): run this again when it is idle"
        ));
    }
}

/// Everything without added latency.
fn loopback(
    bench: &Bench,
    effort: Effort,
    show: &Show,
    report: &mut Report,
) -> Result<(), DemoError> {
    let mut run = Run::start(bench, Duration::ZERO)?;
    report.postgres_version.clone_from(&run.lab.state().postgres_version);
    let scene = run.open(&[])?;
    for measurement in plan::cross_database(&scene, "loopback", plan::LOOPBACK) {
        run.measure(&measurement, effort, show, report, None)?;
    }
    let sources_max = Config::load(&run.config)
        .map_err(|error| DemoError::new(error.to_string()))?
        .limits
        .source_connections_max;
    let mut orders = Orders::connect(&run)?;
    run.measure(&plan::concurrency(&scene, sources_max), effort, show, report, Some(&mut orders))?;
    drop(orders);

    let relays = plan::relays(&scene, None);
    if relays.iter().any(|one| run.is_wanted(one)) {
        let bouncer = run.lab.start_pgbouncer()?;
        if bouncer.is_none() {
            note("  PgBouncer is not installed: its rows are missing (apt-get install pgbouncer)");
        }
        // PgBouncer keeps server connections for the next client; here it is a setting.
        let scene = run.open(&[("limits.home_idle_s_max", "60")])?;
        run.make_pgbench_tables()?;
        for measurement in plan::relays(&scene, bouncer) {
            run.measure(&measurement, effort, show, report, None)?;
        }
    }
    run.stop()
}

/// The aggregate with a network's round trip on every link.
fn network(
    bench: &Bench,
    effort: Effort,
    show: &Show,
    report: &mut Report,
) -> Result<(), DemoError> {
    let places = [
        ("1 ms", &[][..], plan::NETWORK),
        (
            "1 ms, snapshot_order = parallel",
            &[("gateway.snapshot_order", "parallel")][..],
            plan::NETWORK_PARALLEL,
        ),
    ];
    let wanted = |name: &str| bench.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
    if !places.iter().any(|(place, ..)| wanted(&plan::name(plan::AGGREGATE, place))) {
        return Ok(());
    }
    let mut run = Run::start(bench, LATENCY)?;
    for (place, settings, bounds) in places {
        let scene = run.open(settings)?;
        // The aggregate alone: it stands for the others.
        for measurement in plan::cross_database(&scene, place, bounds).iter().take(1) {
            run.measure(measurement, effort, show, report, None)?;
        }
    }
    run.stop()
}

fn write(path: &Path, report: &Report) -> Result<(), DemoError> {
    let fail = |error: std::io::Error| DemoError::new(format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let text =
        serde_json::to_string_pretty(report).map_err(|error| DemoError::new(error.to_string()))?;
    std::fs::write(path, text + "\n").map_err(fail)
}

/// A lab with the guide's rows, and what measures it.
struct Run {
    lab: Lab,
    program: PathBuf,
    only: Option<String>,
    config: PathBuf,
    stage: Option<Stage>,
    pgbench: Option<Pgbench>,
    dir: PathBuf,
}

impl Run {
    fn start(bench: &Bench, latency: Duration) -> Result<Run, DemoError> {
        let mut options = LabOptions::temporary()?;
        options.postgres_bin = bench.postgres_bin.clone().or(options.postgres_bin);
        options.latency = latency;
        options.cancel = Some(&INTERRUPTED);
        options.relay_command = Some(relay_command()?);
        let style = Style::for_stdout();
        let lab = Lab::start(&options, &mut |line: &str| say(style.dim(format!("  {line}"))))?;
        let program = match &bench.gateway_program {
            Some(program) => program.clone(),
            None => this_program()?,
        };
        // Among the lab's logs: it goes with the lab.
        let dir = lab.state().dir.join("logs").join("bench");
        std::fs::create_dir_all(&dir)
            .map_err(|error| DemoError::new(format!("{}: {error}", dir.display())))?;
        let only = bench.only.clone();
        let config = lab.state().dir.join("pgspan.toml");
        Ok(Run { lab, program, only, config, stage: None, pgbench: None, dir })
    }

    /// Starts the gateway, or starts it anew with other settings; the first time the
    /// guide's rows and tables are made through it.
    fn open(&mut self, settings: &[(&str, &str)]) -> Result<Scene, DemoError> {
        let mut options = GatewayOptions::new(&self.program);
        if let Some(before) = &self.lab.state().gateway {
            let endpoint = before.endpoint("orders-writer")?;
            options.port = Some(endpoint.address.port);
            self.lab.stop_helper("gateway")?;
            self.lab.stop_helper("gateway-relay")?;
        }
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        options.settings.extend(settings.iter().map(owned));
        let gateway = self.lab.start_gateway(&options, &mut |_: &str| {})?;
        let stage = lab_stage(&self.lab, &gateway)?;
        match &self.stage {
            None => fill(&stage)?,
            // Somebody else took the address in between.
            Some(before) if before.orders_writer != stage.orders_writer => move_server(&stage)?,
            Some(_) => {}
        }
        let bin = &self.lab.state().postgres_bin;
        self.pgbench = Some(Pgbench::new(bin, stage.login.clone(), self.dir.clone()));
        let scene = self.scene(&stage, &gateway)?;
        self.stage = Some(stage);
        Ok(scene)
    }

    fn scene(&self, stage: &Stage, gateway: &Gateway) -> Result<Scene, DemoError> {
        let target = |address: &Address, options: &str| Target {
            address: address.clone(),
            database: stage.users_db.clone(),
            options: options.into(),
        };
        let path = stage.baseline.search_path.replace(' ', "");
        Ok(Scene {
            pgspan: target(&stage.users_reader, ""),
            direct: target(&stage.baseline.reader, &format!("-c search_path={path}")),
            pgspan_writer: target(&gateway.endpoint("users-writer")?.address, ""),
            postgres_writer: target(&stage.baseline.writer, ""),
            fill: stage.fill.clone(),
        })
    }

    fn stage(&self) -> Result<(&Stage, &Pgbench), DemoError> {
        match (&self.stage, &self.pgbench) {
            (Some(stage), Some(pgbench)) => Ok((stage, pgbench)),
            _ => Err(DemoError::new("no gateway was started")),
        }
    }

    fn make_pgbench_tables(&self) -> Result<(), DemoError> {
        let (stage, pgbench) = self.stage()?;
        let target = Target {
            address: stage.baseline.writer.clone(),
            database: stage.users_db.clone(),
            options: String::new(),
        };
        say(Style::for_stdout().dim(format!("  pgbench: tables of scale {SCALE}")));
        pgbench.initialize(&target, SCALE)?;
        let server = self.lab.server("users-writer")?;
        self.lab.psql(server, &stage.users_db, "CHECKPOINT")?;
        Ok(())
    }

    fn is_wanted(&self, measurement: &Measurement) -> bool {
        self.only.as_ref().is_none_or(|text| measurement.name.contains(text.as_str()))
    }

    fn measure(
        &self,
        measurement: &Measurement,
        effort: Effort,
        show: &Show,
        report: &mut Report,
        watch: Option<&mut dyn Watch>,
    ) -> Result<(), DemoError> {
        if !self.is_wanted(measurement) {
            return Ok(());
        }
        let (stage, pgbench) = self.stage()?;
        let mut reader = stage.connect(Place::UsersReader)?;
        let same = match &measurement.script {
            Script::Statement(sql) => {
                let mut direct = stage.connect_baseline(&stage.baseline.reader)?;
                Some(same(&mut reader, &mut direct, sql)?)
            }
            Script::SelectOnly => None,
        };
        let before = strategies(&mut reader);
        let measured = measurement.run(pgbench, effort, watch)?;
        let strategy = used_between(before, strategies(&mut reader));
        let measured = Measured { strategy, same, ..measured };
        report::table(show, &measured);
        report.measurements.push(measured);
        Ok(())
    }

    fn stop(self) -> Result<(), DemoError> {
        Ok(self.lab.stop()?)
    }
}

/// The guide's rows to their end: five users, a hundred and eight orders.
fn fill(stage: &Stage) -> Result<(), DemoError> {
    for (place, scripts) in [
        (Place::UsersWriter, &[guide::USERS, guide::FDW][..]),
        (Place::OrdersWriter, &[guide::ORDERS, guide::NEW_ORDERS, guide::BULK][..]),
    ] {
        let mut psql = stage.connect(place)?;
        for script in scripts {
            for sql in statements(script, &stage.fill) {
                psql.run(&sql)?;
            }
        }
    }
    stage.prepare_baseline()?;
    wait(stage, "SELECT to_regclass('direct_fdw.remote_orders') IS NOT NULL;")
}

/// Tells home where the gateway's endpoint of `orders` is now.
fn move_server(stage: &Stage) -> Result<(), DemoError> {
    let Address { host, port } = &stage.orders_writer;
    let server = &stage.fill.server;
    let mut writer = stage.connect_baseline(&stage.baseline.writer)?;
    writer
        .run(&format!("ALTER SERVER {server} OPTIONS (SET host '{host}', SET port '{port}');"))?;
    wait(
        stage,
        &format!(
            "SELECT srvoptions @> ARRAY['host={host}', 'port={port}'] \
             FROM pg_foreign_server WHERE srvname = '{server}';"
        ),
    )
}

/// Waits until the replica answers a question with true.
fn wait(stage: &Stage, ready: &str) -> Result<(), DemoError> {
    let mut reader = stage.connect_baseline(&stage.baseline.reader)?;
    let began = Instant::now();
    while reader.run(ready)?.cell(0, 0) != "t" {
        if began.elapsed() > REPLICATION_LIMIT {
            return Err(DemoError::new("the replica does not follow"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Counts the clients of the orders server, on a connection of its own.
struct Orders {
    psql: Psql,
    since: String,
    most: u64,
}

impl Orders {
    fn connect(run: &Run) -> Result<Orders, DemoError> {
        let (stage, _) = run.stage()?;
        let server = run.lab.server("orders-writer")?;
        let psql = Psql::connect(&stage.login, &server.address, &stage.orders_db)?;
        Ok(Orders { psql, since: String::new(), most: 0 })
    }
}

impl Watch for Orders {
    fn begin(&mut self) -> Result<(), DemoError> {
        self.most = 0;
        self.since = self.psql.run("SELECT clock_timestamp();")?.cell(0, 0).to_string();
        Ok(())
    }

    fn look(&mut self, system: &str) -> Result<(), DemoError> {
        // pgspan keeps its connections from round to round; who connects directly
        // makes new ones each time.
        let since = match system {
            "pgspan" => "-infinity",
            _ => self.since.as_str(),
        };
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND backend_type = 'client backend' AND pid <> pg_backend_pid() \
             AND backend_start > '{since}';"
        );
        let count = self.psql.run(&sql)?.cell(0, 0).parse().unwrap_or_default();
        self.most = self.most.max(count);
        Ok(())
    }

    fn end(&mut self) -> u64 {
        self.most
    }
}
