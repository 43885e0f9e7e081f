//! A sequence at one player, and what counts as a difference.

use bytes::{BufMut as _, Bytes, BytesMut};
use pgspan_wire::backend::TransactionStatus;
use pgspan_wire::frontend;

use super::step::{Behind, Beside, Step};
use crate::case_file::{Endpoint, Side};
use crate::client::{Connection, Extended, Flow};
use crate::reply::{Reply, describe_row};
use crate::world::{Player, World};

/// The serialization failure that the gateway may answer with where a source was written.
const CONFLICT: &str = "40001";

/// What it says of it.
const REFUSED: &str = "A source has changed since pgspan read it in this transaction.";

/// A player's databases with what is needed to use them again.
pub struct Seat<'w, 'l> {
    world: &'w World<'l>,
    player: Player,
    home: Connection,
    source: Connection,
    /// Functions by name.
    functions: Vec<(String, u32)>,
}

/// How the two players' runs differ.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The place of the step, and what differs.
    pub wrong: Option<(usize, String)>,
    /// The gateway refused a block whose source was written meanwhile.
    pub conflict: bool,
    /// The gateway refused one that nobody is known to have written beside.
    pub unexplained: bool,
    /// What PostgreSQL had locked at the source for a block that failed or went back to a
    /// savepoint was free at the gateway.
    pub let_go: bool,
    /// Steps compared.
    pub steps: usize,
}

const RESET_SOURCE: &str = "truncate snap, log, renamed; insert into snap values (1, 10), (2, 20); \
    insert into renamed values (1, 'one'), (9, 'nine')";
const RESET_HOME: &str = "truncate l, plain, checked, defaulted, fired, ruled, calls, moody; \
    insert into l select g, 'l' || g from generate_series(1, 20) g; \
    create or replace function public.abs(text) returns int language sql volatile as 'select public.put($1::int)'; \
    drop function if exists public.lower(varchar); drop trigger if exists t on plain; \
    drop view if exists v_away, v_far; create view v_far as select id from snap; \
    grant all on v_far to sequences_other; \
    alter table defaulted alter n set default peek(); \
    create or replace trigger t before insert on fired for each row execute function fires(); \
    alter table checked drop constraint if exists checked_id_check; alter table checked add check (peeks(id)); \
    do $$ begin if exists (select from pg_foreign_table where ftoptions::text like '%fetch_size%' and ftrelid = 'snap'::regclass) then alter foreign table snap options (drop fetch_size); end if; \
    if exists (select from pg_foreign_table where ftoptions::text like '%fetch_size%' and ftrelid = 'far'::regclass) then alter foreign table far options (drop fetch_size); end if; end $$";

impl<'w, 'l> Seat<'w, 'l> {
    /// Opens it.
    ///
    /// # Errors
    /// When the servers cannot be used.
    pub fn open(world: &'w World<'l>, player: Player) -> Result<Seat<'w, 'l>, String> {
        let mut home = world.direct(player, Side::Home)?;
        let mut source = world.direct(player, Side::Source)?;
        for connection in [&mut home, &mut source] {
            connection.simple("set lock_timeout = '150ms'");
        }
        let mut functions = Vec::new();
        for name in ["put", "peek", "near"] {
            let reply = home.simple(&format!("select '{name}'::regproc::oid"));
            let oid = reply.scalar().and_then(|oid| oid.parse().ok());
            functions.push((name.to_owned(), oid.ok_or_else(|| reply.summary())?));
        }
        Ok(Seat { world, player, home, source, functions })
    }

    fn reset(&mut self) -> Result<(), String> {
        for (connection, sql) in [(&mut self.source, RESET_SOURCE), (&mut self.home, RESET_HOME)] {
            let mut reply = connection.simple(sql);
            for _ in 0..20 {
                if reply.error.is_none() {
                    break;
                }
                // Sessions of the run before may not have ended yet.
                std::thread::sleep(std::time::Duration::from_millis(50));
                reply = connection.simple(sql);
            }
            if reply.error.is_some() || reply.broken.is_some() {
                return Err(format!("reset: {}", reply.summary()));
            }
        }
        Ok(())
    }

    /// Plays a sequence from the start.
    ///
    /// # Errors
    /// When the servers cannot be used.
    pub fn play(&mut self, steps: &[Step], strategy: &str) -> Result<Vec<Reply>, String> {
        self.reset()?;
        let mut login = self.world.login(self.player, Endpoint::Writer)?;
        login.settings.push(("lock_timeout".into(), "300ms".into()));
        login.settings.push(("statement_timeout".into(), "2s".into()));
        let mut sessions = Vec::new();
        for _ in 0..=steps.iter().filter_map(Step::session).max().unwrap_or(0) {
            let mut session = Connection::open(&login).map_err(|reply| reply.summary())?;
            session.simple(&format!("set pgspan.strategy = '{strategy}'"));
            sessions.push(session);
        }
        let mut replies = Vec::new();
        for step in steps {
            let reply = match step {
                Step::Direct(Beside::Home, sql) => self.home.simple(sql),
                Step::Direct(Beside::Source, sql) => self.source.simple(sql),
                _ => match step.session().and_then(|at| sessions.get_mut(at)) {
                    Some(session) => run(session, step, &self.functions),
                    None => Reply::broken("no such session"),
                },
            };
            let broken = reply.broken.is_some();
            replies.push(reply);
            if broken {
                break;
            }
        }
        for session in &mut sessions {
            // Nothing of this run is left when the next one begins.
            session.simple("rollback");
        }
        let is_for_all = |step: &Step| matches!(step, Step::Direct(_, sql) if sql.starts_with("alter system set"));
        if steps.iter().any(is_for_all) {
            // The players share the server.
            for sql in ["alter system reset work_mem", "select pg_reload_conf()"] {
                self.home.simple(sql);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(replies)
    }
}

fn run(session: &mut Connection, step: &Step, functions: &[(String, u32)]) -> Reply {
    let extended = |sql, flow| Extended {
        sql,
        param_oids: &[],
        params: &[],
        param_formats: &[],
        result_format: 0,
        flow,
    };
    let mut out = BytesMut::new();
    let mut answers = 1;
    let none: &[Option<Bytes>] = &[];
    match step {
        Step::Query(_, sql) => return session.simple(sql),
        Step::Extended(_, sql) => return session.extended(&extended(sql, Flow::OneTrip)),
        Step::Prepare(_, name, sql) => return session.prepare(name, sql, &[]),
        Step::Execute(_, name) => return session.execute(name, none, (&[], 0), 0, 1),
        Step::Batch(_, texts) | Step::Flushed(_, texts) => {
            for sql in texts {
                put_run(&mut out, sql);
                if matches!(step, Step::Flushed(..)) {
                    frontend::flush(&mut out);
                }
            }
            frontend::sync(&mut out);
        }
        Step::Pipeline(_, texts) => {
            texts.iter().for_each(|sql| frontend::query(&mut out, sql));
            answers = texts.len();
        }
        Step::Portal(_, sql, rows) => {
            frontend::close_portal(&mut out, "portal");
            frontend::parse(&mut out, "", sql, &[]);
            frontend::bind(&mut out, "portal", "", &[], none, &[]);
            frontend::execute(&mut out, "portal", *rows);
            frontend::sync(&mut out);
        }
        Step::More(_, rows) => {
            frontend::execute(&mut out, "portal", *rows);
            frontend::sync(&mut out);
        }
        Step::Bound(_, texts, order) => {
            for (at, sql) in texts.iter().enumerate() {
                frontend::close_portal(&mut out, &portal(at));
                frontend::parse(&mut out, "", sql, &[]);
                frontend::bind(&mut out, &portal(at), "", &[], none, &[]);
            }
            order.iter().for_each(|at| frontend::execute(&mut out, &portal(*at), 0));
            frontend::sync(&mut out);
        }
        Step::Later(_, at) => {
            frontend::execute(&mut out, &portal(*at), 0);
            frontend::sync(&mut out);
        }
        Step::Copied(_, row, behind) => return copy(session, row, behind),
        Step::Call(_, name, value) => {
            let oid = functions.iter().find(|(n, _)| n == name).map_or(0, |(_, oid)| *oid);
            let value = (name != "peek").then(|| value.to_string());
            frontend::message(&mut out, b'F', |body| {
                body.put_u32(oid);
                body.put_u16(0);
                body.put_u16(u16::from(value.is_some()));
                if let Some(value) = &value {
                    body.put_u32(u32::try_from(value.len()).unwrap_or(0));
                    body.put_slice(value.as_bytes());
                }
                body.put_u16(0);
            });
        }
        Step::Direct(..) => return Reply::broken("not a session's"),
    }
    if let Err(why) = session.send_bytes(&out) {
        return Reply::broken(why);
    }
    let mut reply = session.finish();
    for _ in 1..answers {
        reply.append(session.finish());
    }
    reply
}

/// Parse, Bind and Execute, unnamed.
fn put_run(out: &mut BytesMut, sql: &str) {
    let none: &[Option<Bytes>] = &[];
    frontend::parse(out, "", sql, &[]);
    frontend::bind(out, "", "", &[], none, &[]);
    frontend::execute(out, "", 0);
}

/// The portal of [`Step::Bound`].
fn portal(at: usize) -> String {
    format!("p{at}")
}

/// COPY of the extended protocol, whose Sync home overlooks where it reads data.
fn copy(session: &mut Connection, row: &str, behind: &Behind) -> Reply {
    let mut out = BytesMut::new();
    put_run(&mut out, "copy calls from stdin");
    frontend::sync(&mut out);
    let mut rest = BytesMut::new();
    match behind {
        Behind::Query(sql) => frontend::query(&mut rest, sql),
        Behind::Batch(texts) => texts.iter().for_each(|sql| put_run(&mut rest, sql)),
    }
    frontend::sync(&mut rest);
    session.copy_input = row.as_bytes().to_vec();
    session.behind_copy = rest.to_vec();
    if let Err(why) = session.send_bytes(&out) {
        return Reply::broken(why);
    }
    let mut reply = session.finish();
    // Where home refused to read data, nothing was sent behind it.
    let sent = session.behind_copy.is_empty();
    session.behind_copy.clear();
    session.copy_input.clear();
    let copied =
        reply.results.first().and_then(|r| r.tag.as_ref()).is_some_and(|t| t.starts_with("COPY"));
    if sent && copied && matches!(behind, Behind::Query(_)) && reply.broken.is_none() {
        reply.append(session.finish());
    }
    reply
}

/// Compares two runs.
pub fn judge(steps: &[Step], oracle: &[Reply], gateway: &[Reply]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut written = false;
    let mut goes_back = false;
    for (at, step) in steps.iter().enumerate() {
        let (Some(a), Some(b)) = (oracle.get(at), gateway.get(at)) else {
            if oracle.len() != gateway.len() {
                verdict.wrong = Some((at, "one of the connections broke".to_owned()));
            }
            return verdict;
        };
        verdict.steps += 1;
        let conflicts = |r: &Reply| r.errors().filter(|e| e.sqlstate() == CONFLICT).count();
        // In a pipeline PostgreSQL may have met its own behind the gateway's.
        let refused =
            b.errors().any(|e| e.sqlstate() == CONFLICT && e.field(b'D') == Some(REFUSED));
        let conflict = refused || conflicts(b) > conflicts(a);
        if conflict {
            // Whoever writes at the source besides the session, or what is bound and left waiting
            // behind a savepoint; else perhaps autovacuum.
            let explained = written || matches!(step, Step::Bound(..));
            verdict.conflict = explained;
            verdict.unexplained = !explained;
            return verdict;
        }
        match step {
            Step::Direct(Beside::Source, _)
                if goes_back && is_timeout(a) && b.error.is_none() && b.broken.is_none() =>
            {
                verdict.let_go = true;
                continue;
            }
            Step::Direct(..) => {}
            // From here on the players' rows differ.
            _ if verdict.let_go && b.status == TransactionStatus::Idle => return verdict,
            _ => {
                let failed = b.status == TransactionStatus::Failed;
                let later = matches!(step, Step::Later(..));
                goes_back =
                    failed || later || step.texts().any(|text| text.contains("rollback to"));
            }
        }
        written |= match step {
            Step::Direct(beside, _) => *beside == Beside::Source,
            _ => steps.iter().filter_map(Step::session).max() == Some(1),
        };
        if let Some(difference) = difference(a, b) {
            verdict.wrong = Some((at, difference));
            return verdict;
        }
    }
    verdict
}

fn is_timeout(reply: &Reply) -> bool {
    reply.error.as_ref().is_some_and(|error| error.sqlstate() == "55P03")
}

fn difference(a: &Reply, b: &Reply) -> Option<String> {
    let codes = |r: &Reply| r.errors().map(|e| e.sqlstate().to_owned()).collect::<Vec<_>>();
    let status = |s: TransactionStatus| s.byte() as char;
    if codes(a) != codes(b) || a.broken.is_some() != b.broken.is_some() {
        return Some(format!("PostgreSQL: {}\ngateway:    {}", a.summary(), b.summary()));
    }
    if a.status != b.status {
        return Some(format!("status {} and {}", status(a.status), status(b.status)));
    }
    let parts = |r: &Reply| -> Vec<String> {
        r.results
            .iter()
            .filter(|s| s.tag.is_some() || !s.rows.is_empty() || !s.copied.is_empty())
            .map(|s| {
                let rows: Vec<String> = s.rows.iter().map(|row| describe_row(row)).collect();
                format!("{:?} {} {:?}", s.tag, rows.join(" "), s.copied)
            })
            .collect()
    };
    // What came before an error depends on who computes a row first.
    let (a_parts, b_parts) = (parts(a), parts(b));
    let differs =
        if a.error.is_some() { a_parts.len() != b_parts.len() } else { a_parts != b_parts };
    (differs && a.error.is_none())
        .then(|| format!("PostgreSQL: {}\ngateway:    {}", a_parts.join("\n"), b_parts.join("\n")))
}
