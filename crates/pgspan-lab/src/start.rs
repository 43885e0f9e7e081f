//! The steps of a start: which servers, in which order.

use std::path::Path;
use std::process::Child;
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::server::Starter;
use crate::{Address, LabError, LabOptions, Role, Server};

/// Starts one cluster: its writer, the schema, then its replica.
pub(crate) fn start_cluster(
    starter: &Starter<'_>,
    servers: &[&Server],
    children: &Mutex<Vec<Child>>,
    progress: &Sender<String>,
) -> Result<(), LabError> {
    let say = |text: String| {
        let _ = progress.send(text);
    };
    let keep = |child: Child| {
        children.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(child);
    };
    let Some(writer) = servers.iter().find(|server| server.role == Role::Writer) else {
        return Err(LabError::Invalid("a cluster without a writer".into()));
    };
    say(format!("{}: initdb", writer.name));
    starter.make_writer(writer)?;
    keep(starter.start(writer)?);
    starter.create_schema(writer)?;
    say(format!("{}: ready on {}", writer.name, writer.address));
    for replica in servers {
        if replica.role != Role::Replica {
            continue;
        }
        say(format!("{}: pg_basebackup", replica.name));
        starter.make_replica(replica, writer)?;
        keep(starter.start(replica)?);
        wait_streaming(starter, writer, replica)?;
        say(format!("{}: streaming, ready on {}", replica.name, replica.address));
    }
    Ok(())
}

fn wait_streaming(
    starter: &Starter<'_>,
    writer: &Server,
    replica: &Server,
) -> Result<(), LabError> {
    let deadline = Instant::now() + starter.timeout;
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    while starter.psql(writer, "postgres", sql)? != "1" {
        if Instant::now() > deadline {
            return Err(LabError::Timeout {
                what: format!("{}: streaming from {}", replica.name, writer.name),
                seconds: starter.timeout.as_secs(),
                log: format!("; the end of its log:\n{}", process::end_of_log(&replica.log)),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Names and places of the servers that the options ask for.
pub(crate) fn plan(
    options: &LabOptions,
    dir: &Path,
    data_root: &Path,
) -> Result<Vec<Server>, LabError> {
    let mut wanted =
        vec![("users", Role::Writer), ("users", Role::Replica), ("orders", Role::Writer)];
    if options.orders_replica {
        wanted.push(("orders", Role::Replica));
    }
    let mut ports = crate::ports::free_ports(wanted.len() * 2)?.into_iter();
    let mut port = || ports.next().unwrap_or_default();
    let servers = wanted.into_iter().map(|(cluster, role)| {
        let kind = match role {
            Role::Writer => "writer",
            Role::Replica => "replica",
        };
        let name = format!("{cluster}-{kind}");
        let address = Address::new("127.0.0.1", port());
        let link = if options.latency.is_zero() {
            address.clone()
        } else {
            Address::new("127.0.0.1", port())
        };
        Server {
            cluster: cluster.into(),
            role,
            address,
            link,
            database: format!("{cluster}db"),
            data: data_root.join(&name),
            log: dir.join("logs").join(format!("{name}.log")),
            name,
        }
    });
    Ok(servers.collect())
}
