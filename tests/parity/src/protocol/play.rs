//! Plays one script at one server, and writes down what comes back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::script::{Place, Script, Step};
use super::told::Teller;
use super::{HOME, SOURCE};
use crate::client::{Address, Connection, NOTHING};
use crate::lab::Lab;

/// How long a message may take. Longer than anything in a script, shorter than
/// what a person waits for a hang to show.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(8);
/// How long nothing must come to be nothing.
const QUIET: Duration = Duration::from_millis(250);
/// How long it may take until a server is at work.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(10);

struct Session {
    connection: Connection,
    teller: Teller,
}

/// The transcript.
///
/// # Errors
/// The servers cannot be reached, or SQL of the script's own fails.
pub fn play(lab: &Lab, address: &Address, script: &Script) -> Result<Vec<String>, String> {
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    // A block holds one snapshot of pg_stat_activity: watching needs sessions of its own.
    let (mut sides, mut watching) = (BTreeMap::new(), BTreeMap::new());
    let mut lines = Vec::new();
    let mut queued: Vec<u8> = Vec::new();
    for (at, step) in script.steps.iter().enumerate() {
        if let Step::Silent(name) = step {
            let connection = Connection::silent(address)?;
            sessions.insert(name.clone(), Session { connection, teller: Teller::default() });
            continue;
        }
        if let Some(name) = session_of(step)
            && !sessions.contains_key(name)
        {
            let connection = lab.connect(address, HOME)?;
            sessions.insert(name.to_owned(), Session { connection, teller: Teller::default() });
        }
        let session = |sessions: &mut BTreeMap<String, Session>, name: &str| {
            sessions.remove(name).ok_or_else(|| format!("no session {name}"))
        };
        match step {
            Step::Send(name, bytes) => {
                queued.extend_from_slice(bytes);
                let more = script.steps.get(at + 1);
                if !matches!(more, Some(Step::Send(next, _)) if next == name) {
                    let mut one = session(&mut sessions, name)?;
                    // A connection that the server has closed tells so when it is read.
                    let _ = one.connection.send_bytes(&std::mem::take(&mut queued));
                    sessions.insert(name.clone(), one);
                }
            }
            Step::Read(name, ..) | Step::End(name) | Step::Quiet(name) | Step::Byte(name) => {
                let mut one = session(&mut sessions, name)?;
                let goes_on = read(&mut one, name, step, &mut lines);
                sessions.insert(name.clone(), one);
                if !goes_on {
                    return Ok(lines);
                }
            }
            Step::Cancel(name) => {
                let one = session(&mut sessions, name)?;
                one.connection.cancel()?;
                sessions.insert(name.clone(), one);
            }
            Step::HangUp(name) => {
                let mut one = session(&mut sessions, name)?;
                one.connection.hang_up();
                sessions.insert(name.clone(), one);
            }
            Step::Sql(place, sql) => {
                run(lab, &mut sides, *place, sql)?;
            }
            Step::Busy(place) => until_busy(lab, &mut watching, *place)?,
            Step::Pause(millis) => std::thread::sleep(Duration::from_millis(*millis)),
            Step::Silent(_) => {}
        }
    }
    Ok(lines)
}

fn session_of(step: &Step) -> Option<&str> {
    match step {
        Step::Send(name, _)
        | Step::Read(name, ..)
        | Step::End(name)
        | Step::Quiet(name)
        | Step::Byte(name)
        | Step::HangUp(name)
        | Step::Cancel(name) => Some(name),
        _ => None,
    }
}

/// Reads what a step asks for; `false` when the script cannot go on.
fn read(one: &mut Session, name: &str, step: &Step, lines: &mut Vec<String>) -> bool {
    let mut left = match step {
        Step::Read(_, _, count) => *count,
        _ => usize::MAX,
    };
    if let Step::Byte(_) = step {
        let said = one.connection.byte().map_or_else(|e| e, |byte| char::from(byte).to_string());
        lines.push(format!("{name} byte {said}"));
        return true;
    }
    let quiet = matches!(step, Step::Quiet(_));
    loop {
        match one.connection.message(if quiet { QUIET } else { MESSAGE_WAIT_MAX }) {
            Ok(message) => {
                if let Some(line) = one.teller.tell(&message) {
                    lines.push(format!("{name} {line}"));
                }
                if matches!(step, Step::Read(_, tag, _) if *tag == message.tag) {
                    left -= 1;
                    if left == 0 {
                        return true;
                    }
                }
            }
            Err(why) if why == NOTHING => {
                lines.push(format!("{name} nothing comes"));
                // A hang spoils what follows.
                return quiet;
            }
            Err(_) => {
                lines.push(format!("{name} the connection ends"));
                return matches!(step, Step::End(_));
            }
        }
    }
}

fn side<'a>(
    lab: &Lab,
    sides: &'a mut BTreeMap<&'static str, Connection>,
    place: Place,
) -> Result<&'a mut Connection, String> {
    let (address, database) = match place {
        Place::Home => (&lab.home, HOME),
        Place::Source => (&lab.source, SOURCE),
    };
    if !sides.contains_key(database) {
        sides.insert(database, lab.connect(address, database)?);
    }
    sides.get_mut(database).ok_or_else(|| "no such session".to_owned())
}

fn run(
    lab: &Lab,
    sides: &mut BTreeMap<&'static str, Connection>,
    place: Place,
    sql: &str,
) -> Result<Option<String>, String> {
    let reply = side(lab, sides, place)?.simple(sql);
    if reply.error.is_some() || reply.broken.is_some() {
        return Err(format!("{sql}: {}", reply.summary()));
    }
    Ok(reply.scalar())
}

/// Waits until a session of the player's is at work there and cannot go on.
fn until_busy(
    lab: &Lab,
    sides: &mut BTreeMap<&'static str, Connection>,
    place: Place,
) -> Result<(), String> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'
         AND datname = current_database() AND pid <> pg_backend_pid()
         AND wait_event_type IN ('Lock', 'Timeout')";
    let deadline = Instant::now() + BUSY_WAIT_MAX;
    while Instant::now() < deadline {
        if run(lab, sides, place, sql)?.is_some_and(|count| count != "0") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("nobody is at work".to_owned())
}
