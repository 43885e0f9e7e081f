//! `pgspan demo` and `pgspan verify`: the guide, played with real psql, and
//! its ten success marks.

mod csv;
pub mod guide;
pub mod measure;
mod play;
pub mod psql;
pub mod report;
pub mod show;
pub mod stage;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use pgspan_lab::{Gateway, GatewayOptions, Lab, LabError, LabOptions};

use crate::lab::{connection_info, duration, relay_command, this_program};
use crate::terminal::{INTERRUPTED, Style, note, say, watch_signals};
use guide::Fill;
use psql::Login;
use report::Report;
use show::{Lang, Show};
use stage::{Baseline, Stage};

pub use verify::{Verify, run as run_verify};

/// Why a run ended early.
#[derive(Debug)]
pub struct DemoError {
    message: String,
    interrupted: bool,
}

impl DemoError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> DemoError {
        DemoError { message: message.into(), interrupted: INTERRUPTED.load(Ordering::Relaxed) }
    }

    /// A signal came.
    pub fn interrupted() -> DemoError {
        DemoError { message: "interrupted".into(), interrupted: true }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<LabError> for DemoError {
    fn from(error: LabError) -> DemoError {
        DemoError {
            interrupted: matches!(error, LabError::Interrupted),
            message: error.to_string(),
        }
    }
}

/// How a run is shown.
#[derive(Debug, Args)]
pub struct Shown {
    /// Language (default: that of the locale)
    #[arg(long, value_enum)]
    lang: Option<Lang>,
    /// Print a JSON report instead
    #[arg(long)]
    json: bool,
    /// Measured runs of each query, on each side
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
}

impl Shown {
    fn show(&self) -> Show {
        Show {
            style: Style::for_stdout(),
            lang: self.lang.unwrap_or_else(Lang::of_locale),
            quiet: self.json,
        }
    }
}

/// Play the guide on real PostgreSQL servers of this machine: two clusters with
/// a streaming replica, the gateway in front, the guide's SQL through psql, its
/// ten success marks checked, and direct postgres_fdw measured beside it.
/// Succeeds only if all ten marks hold.
#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    shown: Shown,
    /// Leave everything running and print how to connect
    #[arg(long)]
    keep: bool,
    /// The lab's directory (default: a temporary one)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The directory of PostgreSQL's programs; else PGSPAN_POSTGRES_BIN, else found
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// Round-trip time to put on every link, for example 1ms
    #[arg(long, value_parser = duration, default_value = "0", value_name = "TIME")]
    latency: Duration,
    /// The gateway's snapshot order: home_first or parallel
    #[arg(long, value_name = "ORDER")]
    snapshot_order: Option<String>,
    /// Another program to run as the gateway
    #[arg(long, hide = true)]
    gateway_program: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(demo: &Demo) -> ExitCode {
    watch_signals();
    let show = demo.shown.show();
    exit_code(try_run(demo, &show))
}

/// Success, failure, or 130 after a signal; an error is shown.
pub fn exit_code(result: Result<bool, DemoError>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            note(format!("{} {error}", Style::for_stderr().red("pgspan:")));
            if error.is_interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn try_run(demo: &Demo, show: &Show) -> Result<bool, DemoError> {
    let mut options = match &demo.dir {
        Some(dir) => LabOptions::new(dir),
        None => LabOptions::temporary()?,
    };
    options.postgres_bin = demo.postgres_bin.clone().or(options.postgres_bin);
    options.latency = demo.latency;
    options.cancel = Some(&INTERRUPTED);
    options.relay_command = Some(relay_command()?);
    show.line(show.style.bold(show.t(
        "pgspan demo：在本机真实的 PostgreSQL 服务器上，通过网关执行指南第4至9步",
        "pgspan demo: the guide's steps 4 to 9 through the gateway, on real PostgreSQL servers",
    )));
    let style = show.style;
    let quiet = show.quiet;
    let mut progress = |line: &str| {
        if quiet {
            note(format!("  {line}"));
        } else {
            say(style.dim(format!("  {line}")));
        }
    };
    let mut lab = Lab::start(&options, &mut progress)?;
    let program = match &demo.gateway_program {
        Some(program) => program.clone(),
        None => this_program()?,
    };
    let mut gateway_options = GatewayOptions::new(program);
    if let Some(order) = &demo.snapshot_order {
        gateway_options.settings.push(("gateway.snapshot_order".into(), order.clone()));
    }
    let gateway = lab.start_gateway(&gateway_options, &mut progress)?;
    let stage = lab_stage(&lab, &gateway)?;
    let report = play::play(&stage, show, usize::from(demo.shown.runs))?;
    finish(&report, show, demo.shown.json)?;
    if demo.keep {
        let state = lab.detach();
        if !demo.shown.json {
            keep_hint(&state, show);
        }
    } else {
        lab.stop()?;
        if !demo.shown.json {
            show.line("");
            next_steps(show);
        }
    }
    Ok(report.ok)
}

/// The lab as a stage: the guide's `orders_server` names the gateway's own
/// endpoint, as the guide writes it; the baseline's names the server itself.
pub fn lab_stage(lab: &Lab, gateway: &Gateway) -> Result<Stage, DemoError> {
    let state = lab.state();
    let endpoint = |name: &str| gateway.endpoint(name).map(|one| one.address.clone());
    let orders_writer = endpoint("orders-writer")?;
    let foreign = state.server("orders-writer")?.link.clone();
    let fill = Fill {
        foreign_host: orders_writer.host.clone(),
        foreign_port: orders_writer.port,
        password: state.password.clone(),
        user: state.user.clone(),
        orders_db: "ordersdb".into(),
        server: "orders_server".into(),
        orders_schema: "public".into(),
    };
    let direct = Fill {
        foreign_host: foreign.host,
        foreign_port: foreign.port,
        server: "direct_orders_server".into(),
        ..fill.clone()
    };
    Ok(Stage {
        login: Login {
            psql: psql::program(Some(&state.postgres_bin)),
            user: state.user.clone(),
            password: state.password.clone(),
        },
        users_db: "usersdb".into(),
        orders_db: "ordersdb".into(),
        users_writer: endpoint("users-writer")?,
        users_reader: endpoint("users-reader")?,
        orders_writer,
        search_path: None,
        fill,
        baseline: Baseline {
            writer: state.server("users-writer")?.link.clone(),
            reader: state.server("users-replica")?.link.clone(),
            search_path: "direct_fdw, public".into(),
            fill: Some(direct),
        },
        latency_us: state.latency_us,
    })
}

/// Shows the verdict, or prints the report.
fn finish(report: &Report, show: &Show, json: bool) -> Result<(), DemoError> {
    if json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| DemoError::new(error.to_string()))?;
        say(text);
        return Ok(());
    }
    if !report.routes.is_empty() {
        show.line("");
        show.line(show.style.bold("── SHOW pgspan.routes"));
        let columns = ["strategy", "reason", "count"].map(String::from);
        show.table(&columns, &report.routes);
    }
    show.line("");
    show.line(show.style.bold(show.t("── 验证成功标志", "── the ten success marks")));
    for mark in &report.marks {
        show.mark(mark);
    }
    if let Some(error) = &report.error {
        show.line("");
        show.line(show.style.red(error));
    }
    let held = report.marks.iter().filter(|mark| mark.ok).count();
    let verdict = format!("{held}/{}", report.marks.len());
    show.line("");
    show.line(if report.ok {
        show.style.green(format!("{verdict} {}", show.t("全部成立", "all marks hold")))
    } else {
        show.style.red(format!("{verdict} {}", show.t("成立", "marks hold")))
    });
    Ok(())
}

fn next_steps(show: &Show) {
    show.line(show.style.bold(show.t("下一步", "What to type next")));
    let next = |command: &str, zh: &str, en: &str| {
        show.line(format!(
            "  {}  {}",
            show.style.cyan(format!("{command:<34}")),
            show.style.dim(show.t(zh, en))
        ));
    };
    next(
        "pgspan demo --keep",
        "保留环境，自己用 psql 继续",
        "leave it running and go on with psql yourself",
    );
    next(
        "pgspan demo --latency 1ms",
        "每段链路加 1 毫秒往返，像真实网络一样测量",
        "the same with a network's round trip on every link",
    );
    next(
        "pgspan lab up",
        "只启动集群和网关，供手工操作",
        "only the clusters and the gateway, to play by hand",
    );
    next(
        "pgspan verify --help",
        "在自己的集群（含 Aurora）上验证同样的十项",
        "the same ten marks on clusters of your own, Aurora included",
    );
}

fn keep_hint(state: &pgspan_lab::State, show: &Show) {
    show.line("");
    show.line(show.style.bold(show.t(
        "环境保持运行。在另一个终端执行：",
        "Everything is left running. In another terminal:",
    )));
    for line in connection_info(state).environment_setup_commands {
        show.line(show.style.cyan(format!("  {line}")));
    }
    show.line(show.style.cyan("  psql -h $USERS_READER -U postgres -d usersdb"));
    show.line(format!(
        "{}\n{}",
        show.t("结束时：", "When done:"),
        show.style.cyan(format!("  pgspan lab down --dir {}", state.dir.display()))
    ));
}
