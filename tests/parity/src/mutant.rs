//! A deliberately wrong gateway: a relay in front of home that changes the text
//! of statements, or their parameters, on the way. The suite must turn red on it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use pgspan_wire::{frame, frontend};

use crate::case_file::{Case, CaseFile, Mutation};
use crate::client::Address;
use crate::lab::Lab;
use crate::report::Outcome;
use crate::runner;

/// A running relay; it ends with the process or on drop.
#[derive(Debug)]
pub struct Mutant {
    /// Where it listens.
    pub address: Address,
    stop: Arc<AtomicBool>,
}

impl Mutant {
    /// Starts a relay in front of `target`; without a mutation it changes nothing.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(target: &Address, mutation: Option<Mutation>) -> Result<Mutant, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let target = target.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(server) = TcpStream::connect((target.host.as_str(), target.port)) {
                    let _ = relay(client, server, mutation);
                }
            }
        });
        Ok(Mutant { address: Address { host: "127.0.0.1".to_owned(), port }, stop })
    }
}

impl Drop for Mutant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((self.address.host.as_str(), self.address.port));
    }
}

fn relay(client: TcpStream, server: TcpStream, mutation: Option<Mutation>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut down_from, mut down_to) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut down_from, &mut down_to);
        let _ = down_to.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = upwards(&client, &server, mutation);
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Client to server: the startup packet as it is, then message by message.
fn upwards(
    mut client: &TcpStream,
    mut server: &TcpStream,
    mutation: Option<Mutation>,
) -> std::io::Result<()> {
    let mut length = [0u8; 4];
    client.read_exact(&mut length)?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(0);
    let mut packet = vec![0u8; size.saturating_sub(4)];
    client.read_exact(&mut packet)?;
    server.write_all(&length)?;
    server.write_all(&packet)?;
    let (mut input, mut chunk) = (BytesMut::new(), [0u8; 16 * 1024]);
    loop {
        while let Some(message) = frame::take(&mut input).map_err(std::io::Error::other)? {
            let changed = mutation.and_then(|mutation| mutate(&message, mutation));
            server.write_all(changed.as_deref().unwrap_or(&message.raw))?;
        }
        match client.read(&mut chunk)? {
            0 => return Ok(()),
            n => input.extend_from_slice(&chunk[..n]),
        }
    }
}

/// The changed message, if the mutation touches it.
fn mutate(message: &frame::Frame, mutation: Mutation) -> Option<BytesMut> {
    let mut changed = BytesMut::new();
    match (message.tag, mutation) {
        (b'Q', Mutation::DropFilter | Mutation::DropJoin) => {
            let text = frame::Fields::new(b'Q', message.body()).text().ok()?;
            frontend::query(&mut changed, &mutate_sql(&text, mutation)?);
        }
        (b'P', Mutation::DropFilter | Mutation::DropJoin) => {
            let parse = frontend::Parse::decode(message.body()).ok()?;
            let text = String::from_utf8_lossy(&parse.sql).into_owned();
            let text = mutate_sql(&text, mutation)?;
            frontend::parse(&mut changed, &parse.name, &text, &parse.param_oids);
        }
        (b'B', Mutation::DropParam) => {
            let mut bind = frontend::Bind::decode(message.body()).ok()?;
            *bind.params.first_mut()? = None;
            frontend::bind(
                &mut changed,
                &bind.portal,
                &bind.statement,
                &bind.param_formats,
                &bind.params,
                &bind.result_formats,
            );
        }
        _ => return None,
    }
    Some(changed)
}

/// The text with every condition of the kind made true.
fn mutate_sql(sql: &str, mutation: Mutation) -> Option<String> {
    let keyword = match mutation {
        Mutation::DropFilter => " where ",
        Mutation::DropJoin => " on ",
        Mutation::DropParam => return None,
    };
    let flat = sql.replace('\n', " ");
    let lower = flat.to_ascii_lowercase();
    if !lower.contains(keyword) {
        return None;
    }
    let mut text = String::new();
    let mut rest = 0;
    for (at, found) in lower.match_indices(keyword) {
        text.push_str(&flat[rest..at + found.len()]);
        text.push_str("true or ");
        rest = at + found.len();
    }
    text.push_str(&flat[rest..]);
    Some(text)
}

/// Plays the cases that say what they catch: all green in front of an honest
/// relay, red in front of the mutation they name. Prints and counts the lines of
/// the case files.
///
/// # Errors
/// When a relay cannot be started.
pub fn run(lab: &Lab, files: &[CaseFile], threads: usize) -> Result<(usize, usize), String> {
    let (mut passed, mut failed) = (0, 0);
    for mutation in std::iter::once(None).chain(Mutation::ALL.into_iter().map(Some)) {
        let name = mutation.map_or("none", Mutation::name);
        let chosen = choose(files, mutation);
        let mutant = Mutant::start(&lab.home, mutation)?;
        let report = runner::run(&lab.with_gateway(mutant.address.clone()), &chosen, threads, true);
        // The cases of one `foreach` stand on one line: some of its values may make no
        // difference (`where true`), but not all of them.
        let mut lines: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &report.outcomes {
            lines.entry(&outcome.place).or_default().push(outcome);
        }
        for outcomes in lines.values() {
            let red: Vec<&&Outcome> = outcomes.iter().filter(|o| !o.wrong.is_empty()).collect();
            let setup = red.iter().any(|outcome| outcome.name.ends_with("/setup"));
            if (mutation.is_some() != red.is_empty()) && !setup {
                passed += 1;
                continue;
            }
            failed += 1;
            for outcome in red {
                print!("{}", outcome.failure());
            }
            if mutation.is_some() && !setup {
                println!("  {} did not notice {name}", outcomes[0].name);
            }
        }
        println!("mutation {name}: {} of {} cases red", report.failed(), report.outcomes.len());
        if report.outcomes.is_empty() {
            failed += 1;
            println!("  no case says that it catches {name}");
        }
    }
    Ok((passed, failed))
}

fn choose(files: &[CaseFile], mutation: Option<Mutation>) -> Vec<CaseFile> {
    files
        .iter()
        .filter_map(|file| {
            let mut file = file.clone();
            file.cases.retain(|case: &Case| {
                let catches = &case.marks().catches;
                mutation.map_or(!catches.is_empty(), |mutation| catches.contains(&mutation))
            });
            (!file.cases.is_empty()).then_some(file)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_made_true() {
        assert_eq!(
            mutate_sql("select 1 WHERE a = 1", Mutation::DropFilter).as_deref(),
            Some("select 1 WHERE true or a = 1")
        );
        assert_eq!(
            mutate_sql("select 1 from a join b\non a.x = b.x", Mutation::DropJoin).as_deref(),
            Some("select 1 from a join b on true or a.x = b.x")
        );
        assert_eq!(mutate_sql("select 1", Mutation::DropFilter), None);
    }

    #[test]
    fn a_parameter_is_dropped() {
        let mut buffer = BytesMut::new();
        frontend::bind(&mut buffer, "", "", &[], &[Some(b"7")], &[]);
        let message = frame::take(&mut buffer).unwrap().unwrap();
        let mut changed = mutate(&message, Mutation::DropParam).unwrap();
        let changed = frame::take(&mut changed).unwrap().unwrap();
        let bind = frontend::Bind::decode(changed.body()).unwrap();
        assert_eq!(bind.params, [None]);
    }
}
