//! `pgspan verify`: the ten marks on clusters of the user's own.
//!
//! Everything it makes has one unique name: a schema in each database and a
//! foreign server. It removes exactly these, however the run ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use pgspan_gateway::config::{Config, EndpointKind};
use pgspan_lab::{Address, ORDERS_SCHEMA, USERS_SCHEMA, free_ports, random_name, write_private};

use super::guide::Fill;
use super::psql::{self, Login, Psql};
use super::show::Show;
use super::stage::{Baseline, Stage};
use super::{DemoError, Shown, exit_code, finish, play};
use crate::lab::this_program;
use crate::terminal::{INTERRUPTED, watch_signals};

/// How long the temporary gateway may take to listen, and to end.
const GATEWAY_LIMIT: Duration = Duration::from_secs(15);

/// Check the guide's ten success marks on clusters of your own, Aurora included.
///
/// Give the clusters' endpoints (a temporary gateway is started in front of
/// them), or --config for a gateway that runs already. Nothing that exists is
/// changed or dropped: the run works in a new schema with a unique name
/// (pgspan_verify_…) in each of the two databases and with a foreign server of
/// the same name, and removes these when it ends, whether it succeeds, fails or
/// is interrupted. The extension postgres_fdw is created in that schema if it
/// is missing, and then removed with it. The password is taken from PGPASSWORD;
/// psql's TLS settings from PGSSLMODE and its like.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    shown: Shown,
    /// Writer endpoint of the cluster that holds the users
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "config")]
    users_writer: Option<Address>,
    /// Its reader endpoint (default: the writer)
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    users_reader: Option<Address>,
    /// Writer endpoint of the cluster that holds the orders
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "config")]
    orders_writer: Option<Address>,
    /// Configuration of a running gateway: its listeners and clusters are used
    #[arg(long, value_name = "FILE", conflicts_with_all = ["users_writer", "orders_writer"])]
    config: Option<PathBuf>,
    /// The cluster of --config that holds the users
    #[arg(long, default_value = "users", value_name = "NAME")]
    users_cluster: String,
    /// The cluster of --config that holds the orders
    #[arg(long, default_value = "orders", value_name = "NAME")]
    orders_cluster: String,
    /// Host by which the users' cluster reaches the orders' (default: the orders writer's)
    #[arg(long, value_name = "HOST")]
    foreign_host: Option<String>,
    /// The port beside it
    #[arg(long, value_name = "PORT")]
    foreign_port: Option<u16>,
    /// The user, of both clusters
    #[arg(long, env = "PGUSER", default_value = "postgres")]
    user: String,
    /// The password, of both clusters
    #[arg(long, env = "PGPASSWORD", hide_env_values = true, hide = true)]
    password: Option<String>,
    /// The database of the users
    #[arg(long, default_value = "usersdb", value_name = "NAME")]
    users_db: String,
    /// The database of the orders
    #[arg(long, default_value = "ordersdb", value_name = "NAME")]
    orders_db: String,
    /// sslmode of the temporary gateway towards the clusters
    #[arg(long, value_name = "MODE")]
    sslmode: Option<String>,
    /// The psql program (default: from PATH)
    #[arg(long, value_name = "FILE")]
    psql: Option<PathBuf>,
    /// Another program to run as the gateway
    #[arg(long, hide = true)]
    gateway_program: Option<PathBuf>,
}

/// The clusters' own endpoints.
struct Clusters {
    users_writer: Address,
    users_reader: Address,
    orders_writer: Address,
}

/// Runs the verification.
pub fn run(verify: &Verify) -> ExitCode {
    watch_signals();
    let show = verify.shown.show();
    exit_code(try_run(verify, &show))
}

fn try_run(verify: &Verify, show: &Show) -> Result<bool, DemoError> {
    let Some(password) = verify.password.clone() else {
        return Err(DemoError::new("set PGPASSWORD: CREATE USER MAPPING needs the password too"));
    };
    let login = Login {
        psql: verify.psql.clone().unwrap_or_else(|| psql::program(None)),
        user: verify.user.clone(),
        password,
    };
    let (clusters, listeners, _gateway) = match &verify.config {
        Some(config) => {
            let (clusters, listeners) = configured(verify, config)?;
            (clusters, listeners, None)
        }
        None => {
            let clusters = given(verify)?;
            let gateway = TemporaryGateway::start(verify, &login, &clusters)?;
            (clusters, gateway.listeners.clone(), Some(gateway))
        }
    };
    let name = random_name("pgspan_verify_")?;
    let stage = stage(verify, login, &clusters, listeners, &name);
    show.line(show.style.bold(format!(
        "{} {name}",
        show.t(
            "pgspan verify：在自己的集群上执行指南第4至9步，只使用并最终删除 schema 和 server",
            "pgspan verify: the guide's steps 4 to 9 on your clusters, in schema and server"
        )
    )));
    let scene = Scene { stage: &stage, clusters: &clusters, name: &name };
    let result =
        scene.make().and_then(|()| play::play(&stage, show, usize::from(verify.shown.runs)));
    // A Ctrl-C ended the run; removing what was made must not end too.
    let interrupted = INTERRUPTED.swap(false, Ordering::Relaxed);
    let removed = scene.remove();
    if interrupted {
        removed?;
        return Err(DemoError::interrupted());
    }
    let report = result?;
    finish(&report, show, verify.shown.json)?;
    removed?;
    Ok(report.ok)
}

fn given(verify: &Verify) -> Result<Clusters, DemoError> {
    let (Some(users_writer), Some(orders_writer)) = (&verify.users_writer, &verify.orders_writer)
    else {
        return Err(DemoError::new("give --users-writer and --orders-writer, or --config"));
    };
    Ok(Clusters {
        users_reader: verify.users_reader.clone().unwrap_or(users_writer.clone()),
        users_writer: users_writer.clone(),
        orders_writer: orders_writer.clone(),
    })
}

/// The endpoints of a configuration: the clusters' own, and the gateway's.
fn configured(verify: &Verify, file: &Path) -> Result<(Clusters, Listeners), DemoError> {
    let config = Config::load(file).map_err(|error| DemoError::new(error.to_string()))?;
    let cluster = |name: &str| {
        config.clusters.get(name).ok_or_else(|| {
            DemoError::new(format!("{}: there is no cluster {name:?}", file.display()))
        })
    };
    let (users, orders) = (cluster(&verify.users_cluster)?, cluster(&verify.orders_cluster)?);
    let listener = |name: &str, kind: EndpointKind| {
        config
            .listeners
            .iter()
            .find(|one| one.cluster == name && one.endpoint == kind)
            // A relay or load balancer in front is how clients come.
            .map(|one| one.advertised.first().unwrap_or(&one.listen).parse::<Address>())
            .transpose()
            .map_err(DemoError::from)
    };
    let required = |name: &str, found: Option<Address>| {
        found.ok_or_else(|| {
            DemoError::new(format!(
                "{}: no listener leads to the writer of cluster {name:?}",
                file.display()
            ))
        })
    };
    let users_writer =
        required(&verify.users_cluster, listener(&verify.users_cluster, EndpointKind::Writer)?)?;
    let listeners = Listeners {
        users_reader: listener(&verify.users_cluster, EndpointKind::Reader)?
            .unwrap_or(users_writer.clone()),
        users_writer,
        orders_writer: required(
            &verify.orders_cluster,
            listener(&verify.orders_cluster, EndpointKind::Writer)?,
        )?,
    };
    let clusters = Clusters {
        users_writer: users.writer.parse()?,
        users_reader: users.reader.as_ref().unwrap_or(&users.writer).parse()?,
        orders_writer: orders.writer.parse()?,
    };
    Ok((clusters, listeners))
}

fn stage(
    verify: &Verify,
    login: Login,
    clusters: &Clusters,
    listeners: Listeners,
    name: &str,
) -> Stage {
    let fill = Fill {
        foreign_host: verify
            .foreign_host
            .clone()
            .unwrap_or_else(|| clusters.orders_writer.host.clone()),
        foreign_port: verify.foreign_port.unwrap_or(clusters.orders_writer.port),
        password: login.password.clone(),
        user: login.user.clone(),
        orders_db: verify.orders_db.clone(),
        server: name.into(),
        orders_schema: name.into(),
    };
    Stage {
        login,
        users_db: verify.users_db.clone(),
        orders_db: verify.orders_db.clone(),
        users_writer: listeners.users_writer,
        users_reader: listeners.users_reader,
        orders_writer: listeners.orders_writer,
        search_path: Some(name.into()),
        fill,
        baseline: Baseline {
            writer: clusters.users_writer.clone(),
            reader: clusters.users_reader.clone(),
            search_path: name.into(),
            fill: None,
        },
        latency_us: 0,
    }
}

/// What a run makes in the user's databases, and removes.
struct Scene<'a> {
    stage: &'a Stage,
    clusters: &'a Clusters,
    name: &'a str,
}

impl Scene<'_> {
    fn users(&self) -> Result<Psql, DemoError> {
        let stage = self.stage;
        Psql::connect(&stage.login, &self.clusters.users_writer, &stage.users_db)
    }

    fn orders(&self) -> Result<Psql, DemoError> {
        let stage = self.stage;
        Psql::connect(&stage.login, &self.clusters.orders_writer, &stage.orders_db)
    }

    fn make(&self) -> Result<(), DemoError> {
        for (mut psql, table) in [(self.users()?, USERS_SCHEMA), (self.orders()?, ORDERS_SCHEMA)] {
            psql.run(&format!("CREATE SCHEMA {};", self.name))?;
            psql.run(&format!("SET search_path = {};", self.name))?;
            psql.run(&format!("{table};"))?;
        }
        Ok(())
    }

    /// Removes what was made; goes on after an error, and reports the first.
    fn remove(&self) -> Result<(), DemoError> {
        let name = self.name;
        let users = self.users().and_then(|mut psql| {
            psql.run(&format!("DROP SERVER IF EXISTS {name} CASCADE;"))?;
            psql.run(&format!("DROP SCHEMA IF EXISTS {name} CASCADE;"))
        });
        let orders = self
            .orders()
            .and_then(|mut psql| psql.run(&format!("DROP SCHEMA IF EXISTS {name} CASCADE;")));
        for (result, database) in [(users, &self.stage.users_db), (orders, &self.stage.orders_db)] {
            result.map_err(|error| {
                DemoError::new(format!(
                    "{database}: {name} could not be removed; drop the schema and the server of \
                     this name yourself: {error}"
                ))
            })?;
        }
        Ok(())
    }
}

/// The gateway's endpoints.
#[derive(Debug, Clone)]
struct Listeners {
    users_writer: Address,
    users_reader: Address,
    orders_writer: Address,
}

/// A gateway for the time of one run.
struct TemporaryGateway {
    child: Child,
    dir: PathBuf,
    listeners: Listeners,
}

impl TemporaryGateway {
    fn start(
        verify: &Verify,
        login: &Login,
        clusters: &Clusters,
    ) -> Result<TemporaryGateway, DemoError> {
        let io = |error: std::io::Error| DemoError::new(format!("temporary gateway: {error}"));
        let ports = free_ports(3)?;
        let local = |index: usize| Address::new("127.0.0.1", ports[index]);
        let listeners =
            Listeners { users_writer: local(0), users_reader: local(1), orders_writer: local(2) };
        let dir = std::env::temp_dir().join(random_name("pgspan-verify-")?);
        std::fs::create_dir(&dir).map_err(io)?;
        let quote = |text: &str| text.replace('"', "\"\"");
        let users = format!("\"{}\" \"{}\"\n", quote(&login.user), quote(&login.password));
        write_private(&dir.join("userlist.txt"), users.as_bytes())?;
        let config = configuration(verify, clusters, &listeners);
        write_private(&dir.join("pgspan.toml"), config.as_bytes())?;
        let log = std::fs::File::create(dir.join("gateway.log")).map_err(io)?;
        let program = match &verify.gateway_program {
            Some(program) => program.clone(),
            None => this_program()?,
        };
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(dir.join("pgspan.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log)
            .spawn()
            .map_err(io)?;
        let mut gateway = TemporaryGateway { child, dir, listeners };
        gateway.wait()?;
        Ok(gateway)
    }

    fn wait(&mut self) -> Result<(), DemoError> {
        let deadline = Instant::now() + GATEWAY_LIMIT;
        let waited = [
            &self.listeners.users_writer,
            &self.listeners.users_reader,
            &self.listeners.orders_writer,
        ];
        for address in waited {
            while std::net::TcpStream::connect(address.to_string()).is_err() {
                let ended = !matches!(self.child.try_wait(), Ok(None));
                if ended || Instant::now() > deadline || INTERRUPTED.load(Ordering::Relaxed) {
                    let log = std::fs::read_to_string(self.dir.join("gateway.log"));
                    return Err(DemoError::new(format!(
                        "the temporary gateway does not listen on {address}:\n{}",
                        log.unwrap_or_default().trim_end()
                    )));
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for TemporaryGateway {
    fn drop(&mut self) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: kill touches no memory, and the child was not reaped yet.
            unsafe {
                libc::kill(pid, libc::SIGTERM);
            }
        }
        let deadline = Instant::now() + GATEWAY_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn configuration(verify: &Verify, clusters: &Clusters, listeners: &Listeners) -> String {
    let sslmode =
        verify.sslmode.as_ref().map_or(String::new(), |mode| format!("sslmode = \"{mode}\"\n"));
    let mut text = format!(
        "[gateway]\nauth_file = \"userlist.txt\"\n\
         \n[clusters.users]\nwriter = \"{}\"\nreader = \"{}\"\n{sslmode}\
         \n[clusters.orders]\nwriter = \"{}\"\n{sslmode}",
        clusters.users_writer, clusters.users_reader, clusters.orders_writer
    );
    for (listen, cluster, endpoint) in [
        (&listeners.users_writer, "users", "writer"),
        (&listeners.users_reader, "users", "reader"),
        (&listeners.orders_writer, "orders", "writer"),
    ] {
        text.push_str(&format!(
            "\n[[listeners]]\nlisten = \"{listen}\"\ncluster = \"{cluster}\"\nendpoint = \"{endpoint}\"\n"
        ));
    }
    text
}
