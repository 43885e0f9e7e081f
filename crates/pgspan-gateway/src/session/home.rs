//! Asking home on the session's own server connection: pipelines of prepared
//! statements of the gateway's, which the client never sees.

use super::Session;
use super::query::Request;
use bytes::Bytes;
use pgspan_pool::{ServerConnection, ServerError};
use pgspan_sql::ask;
use pgspan_sql::quote::text_array_value;
use pgspan_wire::backend::{self, ErrorFields, Field, TransactionStatus};
use pgspan_wire::frontend;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// `invalid_savepoint_specification`: there is no such savepoint.
const NO_SAVEPOINT: &str = "3B001";

/// No parameters.
pub(crate) const NO_PARAMETERS: &[Option<Bytes>] = &[];

/// A statement of the gateway's, numbered once for all connections.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    number: u64,
    name: String,
    pub sql: String,
}

/// Numbers below are the constants'.
static NEXT: AtomicU64 = AtomicU64::new(16);

impl Statement {
    /// Gives a text a number.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement::numbered(NEXT.fetch_add(1, Ordering::Relaxed), sql)
    }

    fn numbered(number: u64, sql: impl Into<String>) -> Statement {
        Statement { number, name: Statement::name_of(number), sql: sql.into() }
    }

    /// The name of the statement of this number.
    pub fn name_of(number: u64) -> String {
        format!("pgspan:{number}")
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its name on every connection that has it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Appends Parse for a statement of the gateway's unless the connection has it; tells
/// whether it was new. What is appended but then fails is doubted by
/// [`Prepared::failed`](pgspan_pool::Prepared::failed).
pub(crate) fn prepare(server: &mut ServerConnection, statement: &Statement, oids: &[u32]) -> bool {
    if server.prepared.has(statement.number) {
        return false;
    }
    for number in server.prepared.insert(statement.number, statement.sql.len()) {
        frontend::close_statement(&mut server.outbox, &Statement::name_of(number));
    }
    // One of the same name may be left from before a failure.
    frontend::close_statement(&mut server.outbox, &statement.name);
    frontend::parse(&mut server.outbox, &statement.name, &statement.sql, oids);
    true
}

/// As [`prepare`], for a text that means something else each time it is read.
pub(crate) fn prepare_anew(
    server: &mut ServerConnection,
    statement: &Statement,
    oids: &[u32],
) -> bool {
    server.prepared.doubt(statement.number);
    prepare(server, statement, oids)
}

/// Appends Bind and Execute of a prepared statement of the gateway's, results as text.
pub(crate) fn run_prepared(server: &mut ServerConnection, statement: &Statement) {
    prepare(server, statement, &[]);
    frontend::bind(&mut server.outbox, "pgspan:", &statement.name, &[], NO_PARAMETERS, &[]);
    execute(server);
}

/// Appends the question for what home knows of the tables of these names. It is one text for
/// all statements, so that home plans it a few times and not for each: that costs it 5 ms,
/// the answer 0.3.
pub(crate) fn run_facts(server: &mut ServerConnection, names: &[String]) {
    static FACTS: OnceLock<Statement> = OnceLock::new();
    let facts = FACTS.get_or_init(|| Statement::new(ask::home_facts()));
    prepare(server, facts, &[]);
    let names = [Some(Bytes::from(text_array_value(names)))];
    frontend::bind(&mut server.outbox, "pgspan:", &facts.name, &[], &names, &[]);
    execute(server);
}

/// As [`run_prepared`], for a text that is not kept: a client that counts its prepared
/// statements finds its own.
pub(crate) fn run_once(server: &mut ServerConnection, sql: &str) {
    once(server, sql, false);
}

/// As [`run_once`], with its description ahead.
pub(crate) fn run_described(server: &mut ServerConnection, sql: &str) {
    once(server, sql, true);
}

fn once(server: &mut ServerConnection, sql: &str, described: bool) {
    let once = "pgspan:once";
    let out = &mut server.outbox;
    // One may be left from before a failure.
    frontend::close_statement(out, once);
    frontend::parse(out, once, sql, &[]);
    if described {
        frontend::describe_statement(out, once);
    }
    frontend::bind(out, "pgspan:", once, &[], NO_PARAMETERS, &[]);
    execute(server);
    frontend::close_statement(&mut server.outbox, once);
}

/// The same of a text with the client's parameters.
pub(crate) fn run_with_parameters(server: &mut ServerConnection, sql: &str, request: &Request) {
    let explained = "pgspan:explain";
    let out = &mut server.outbox;
    frontend::close_statement(out, explained);
    frontend::parse(out, explained, sql, &request.param_oids);
    match &request.batch {
        Some(b) => {
            let (formats, values) = (&b.bind.param_formats, &b.bind.params);
            frontend::bind(out, "pgspan:", explained, formats, values, &[]);
        }
        None => frontend::bind(out, "pgspan:", explained, &[], NO_PARAMETERS, &[]),
    }
    execute(server);
}

/// Appends Execute of the gateway's own portal, and closes it: in a transaction its
/// name would stay taken.
pub(crate) fn execute(server: &mut ServerConnection) {
    frontend::execute(&mut server.outbox, "pgspan:", 0);
    frontend::close_portal(&mut server.outbox, "pgspan:");
}

/// The rows of one executed statement.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub rows: Vec<Vec<Option<Bytes>>>,
}

/// What came back up to ReadyForQuery.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// One per completed statement, in order.
    pub results: Vec<Rows>,
    /// ParameterDescription of described statements.
    pub parameters: Vec<Vec<u32>>,
    /// RowDescription of described statements; `None` for no rows.
    pub fields: Vec<Option<Vec<Field>>>,
    /// Whether a NoticeResponse came.
    pub noticed: bool,
}

/// Rows that the answers of one pipeline may have, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Of what comes behind them so many bytes are read, so that the connection is in order; whoever
/// says more loses it.
const READ_OVER_MAX: usize = 1024 * 1024 * 1024;

/// Bytes of an answer that are read in one go.
const REST_BYTES: usize = 512 * 1024;

/// What a row takes besides its values, in bytes.
const ROW_BYTES: usize = 64;

/// An answer that is being read.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    out: Answers,
    rows: Rows,
    error: Option<ErrorFields>,
    /// Bytes of its rows.
    bytes: usize,
    /// Bytes of all else.
    beside: usize,
    /// Bytes read since others had their turn.
    unrested: usize,
    /// More came than is kept.
    outgrown: bool,
    /// Bytes of that.
    over: usize,
    ready: bool,
}

/// Somebody waits for an answer to a question. `true`: nobody did before; then
/// [`ServerConnection::patience`] is to be taken away behind it.
pub(crate) fn ask(server: &mut ServerConnection) -> bool {
    let waits = server.patience.is_none();
    if waits {
        server.patience.clone_from(&server.asking);
    }
    waits
}

impl Asked {
    /// Sends, and reads up to ReadyForQuery, or until so many statements are complete.
    /// ParameterStatus and notifications on the way go to `aside`.
    ///
    /// # Errors
    /// A lost connection. The server's own error waits for [`Asked::finish`].
    pub async fn read(
        &mut self,
        server: &mut ServerConnection,
        aside: &mut bytes::BytesMut,
        results: Option<usize>,
    ) -> Result<(), ServerError> {
        let waits = ask(server);
        let read = self.read_on(server, aside, results).await;
        if waits {
            server.patience = None;
        }
        read
    }

    async fn read_on(
        &mut self,
        server: &mut ServerConnection,
        aside: &mut bytes::BytesMut,
        results: Option<usize>,
    ) -> Result<(), ServerError> {
        server.send().await?;
        while !self.ready && results.is_none_or(|n| self.out.results.len() < n) {
            let frame = match (server.receive().await, self.error.take()) {
                (Err(_), Some(last)) if last.is_fatal() => return Err(ServerError::HungUp(last)),
                (received, error) => {
                    self.error = error;
                    received?
                }
            };
            let out = &mut self.out;
            self.unrested += frame.raw.len() + ROW_BYTES;
            if self.unrested > REST_BYTES {
                // The other sessions of this thread have their turn.
                self.unrested = 0;
                tokio::task::yield_now().await;
            }
            if frame.tag != b'D' {
                self.beside += frame.raw.len();
                if self.beside > ANSWER_BYTES_MAX {
                    return Err(ServerError::Unexpected(char::from(frame.tag)));
                }
            }
            match frame.tag {
                b'D' => {
                    // What is more is read over, as far as an honest server goes.
                    self.outgrown |= frame.is_cut() || self.bytes > ANSWER_BYTES_MAX;
                    // Of one that is cut the length is not told: it is longer than this.
                    let length =
                        if frame.is_cut() { server.message_bytes_max } else { frame.raw.len() };
                    self.over += if self.outgrown { length } else { 0 };
                    if self.over > READ_OVER_MAX {
                        return Err(ServerError::Unexpected('D'));
                    }
                    if !self.outgrown {
                        let row = backend::data_row(frame.body())?;
                        // A row of one byte takes more than that.
                        self.bytes += frame.raw.len() + ROW_BYTES + size_of_val(&row[..]);
                        self.rows.rows.push(row);
                    }
                }
                b'C' => out.results.push(std::mem::take(&mut self.rows)),
                b't' => out.parameters.push(backend::parameter_description(frame.body())?),
                b'T' => out.fields.push(Some(backend::row_description(frame.body())?)),
                b'n' => out.fields.push(None),
                b'E' => self.error = Some(ErrorFields::read(&frame)),
                b'N' => out.noticed = true,
                b'S' | b'A' => aside.extend_from_slice(&frame.raw),
                b'Z' => self.ready = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// The error that the server reported, or that it said too much (after ReadyForQuery has
    /// been read), or a lost connection.
    pub async fn finish(
        mut self,
        server: &mut ServerConnection,
        aside: &mut bytes::BytesMut,
    ) -> Result<Answers, ServerError> {
        self.read(server, aside, None).await?;
        match self.error {
            Some(e) => {
                match e.sqlstate() {
                    // A prepared statement is not there, or is another one.
                    "26000" | "0A000" => server.prepared.doubt_all(),
                    _ => server.prepared.failed(),
                }
                Err(ServerError::Sql(e))
            }
            None if self.outgrown => Err(ServerError::TooMuch),
            None => Ok(self.out),
        }
    }
}

/// Sends, and reads up to ReadyForQuery.
///
/// # Errors
/// As [`Asked::finish`].
pub(crate) async fn answers(
    server: &mut ServerConnection,
    aside: &mut bytes::BytesMut,
) -> Result<Answers, ServerError> {
    Asked::default().finish(server, aside).await
}

impl Answers {
    /// The single value of the `i`th result's first row.
    pub fn value(&self, i: usize, column: usize) -> Option<&Bytes> {
        self.results.get(i)?.rows.first()?.get(column)?.as_ref()
    }
}

/// How a statement of the straight line stands in a transaction at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Outside a block: a read-only transaction of our own, so that home's snapshot is
    /// the same from the first question to the last row.
    Own,
    /// In the client's block: a savepoint of our own, so that giving up leaves the
    /// block as it was.
    Savepoint,
}

/// How many constants there are.
const CONSTANTS: usize = 15;

fn constant(number: u64) -> &'static Statement {
    static ALL: OnceLock<Vec<Statement>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let texts: [&str; CONSTANTS] = [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "COMMIT",
            "SAVEPOINT pgspan",
            "RELEASE SAVEPOINT pgspan",
            "SELECT 1",
            "ROLLBACK",
            "ROLLBACK TO SAVEPOINT pgspan",
            "SELECT 1 OPERATOR(pg_catalog./) 0",
            "SET max_parallel_workers_per_gather TO DEFAULT",
            "SET max_parallel_workers_per_gather = 0",
            "SET enable_bitmapscan = off",
            "SET enable_bitmapscan TO DEFAULT",
            "SET LOCAL plan_cache_mode = force_custom_plan",
            "SAVEPOINT pgspan_question",
            "ROLLBACK TO SAVEPOINT pgspan_question",
        ];
        texts.into_iter().zip(0..).map(|(sql, number)| Statement::numbered(number, sql)).collect()
    });
    &all[usize::try_from(number).unwrap_or(0)]
}

/// The statements that open and end transactions and savepoints are parsed anew.
pub(crate) fn doubt_constants(server: &mut ServerConnection) {
    (0..CONSTANTS as u64).for_each(|number| server.prepared.doubt(number));
}

/// Appends the opening of a read-only transaction with one snapshot.
pub(crate) fn begin(server: &mut ServerConnection) {
    run_prepared(server, constant(0));
}

/// Appends the end of a transaction.
pub(crate) fn commit(server: &mut ServerConnection) {
    run_prepared(server, constant(1));
}

/// Appends a savepoint of our own.
pub(crate) fn savepoint(server: &mut ServerConnection) {
    run_prepared(server, constant(2));
}

/// Appends its end: what was done since stays.
pub(crate) fn release_savepoint(server: &mut ServerConnection) {
    run_prepared(server, constant(3));
}

/// What becomes of the locks that a question takes in the client's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// They are given up. A server that holds a lock on a catalog looks there for names without
    /// reading what others have changed meanwhile
    /// (`LockRelationOid`, PostgreSQL's `src/backend/storage/lmgr/lmgr.c`).
    GivenUp,
    /// They stay to the block's end: they are the client's.
    Kept,
}

/// Appends a question, in the client's block behind a savepoint.
pub(crate) fn append_aside(
    server: &mut ServerConnection,
    in_block: bool,
    locks: Locks,
    ask: impl FnOnce(&mut ServerConnection),
) {
    if in_block {
        savepoint(server);
    }
    ask(server);
    match locks {
        _ if !in_block => {}
        Locks::GivenUp => back_to_savepoint(server),
        Locks::Kept => release_savepoint(server),
    }
}

/// Appends the return to it, and its end: settings made since are undone.
pub(crate) fn back_to_savepoint(server: &mut ServerConnection) {
    run_prepared(server, constant(6));
    run_prepared(server, constant(3));
}

/// Appends a question behind [`Around::open`]; gives how many statements are in front of it. In
/// the client's block its locks are given up ([`Locks::GivenUp`]), and those of the client's
/// statement, which home has read by then, stay. The savepoint ends with the one around it.
pub(crate) fn append_within(
    server: &mut ServerConnection,
    around: Around,
    ask: impl FnOnce(&mut ServerConnection),
) -> usize {
    if around == Around::Own {
        ask(server);
        return 0;
    }
    run_prepared(server, constant(13));
    ask(server);
    run_prepared(server, constant(14));
    1
}

/// What a source may use for one query. Only for connections of the gateway's own: home's
/// settings are the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Means {
    /// Parallel workers, which connections to sources do without otherwise.
    pub parallel: bool,
    /// Bitmaps of an index.
    pub bitmaps: bool,
}

impl Means {
    /// What connections to sources use otherwise.
    pub const USUAL: Means = Means { parallel: false, bitmaps: true };

    /// Appends it; gives how many statements that are.
    pub fn allow(self, server: &mut ServerConnection) -> usize {
        self.put(server, [8, 10])
    }

    /// Appends its end.
    pub fn end(self, server: &mut ServerConnection) {
        self.put(server, [9, 11]);
    }

    fn put(self, server: &mut ServerConnection, [parallel, bitmaps]: [u64; 2]) -> usize {
        if self.parallel {
            run_prepared(server, constant(parallel));
        }
        if !self.bitmaps {
            run_prepared(server, constant(bitmaps));
        }
        usize::from(self.parallel) + usize::from(!self.bitmaps)
    }
}

/// Appends a statement that takes the transaction's snapshot and does nothing else.
pub(crate) fn take_snapshot(server: &mut ServerConnection) {
    run_prepared(server, constant(4));
}

/// Appends what makes home plan the statement that is bound next for the values that it has,
/// until the transaction ends.
pub(crate) fn plan_for_values(server: &mut ServerConnection) {
    run_prepared(server, constant(12));
}

impl Around {
    /// Appends the opening.
    pub fn open(self, server: &mut ServerConnection) {
        run_prepared(server, constant(if self == Around::Own { 0 } else { 2 }));
    }

    /// Appends the end after success.
    pub fn close(self, server: &mut ServerConnection) {
        run_prepared(server, constant(if self == Around::Own { 1 } else { 3 }));
    }
}

impl Session {
    /// Asks home what the client has not asked for; `None`: home refuses, or the client's block
    /// has failed.
    ///
    /// # Errors
    /// A lost connection.
    pub(super) async fn ask_aside(
        &mut self,
        ask: impl FnOnce(&mut ServerConnection),
    ) -> Result<Option<Answers>, ServerError> {
        if self.server.status == TransactionStatus::Failed {
            return Ok(None);
        }
        match self.ask_or_undo(Locks::GivenUp, ask).await {
            Ok(got) => Ok(Some(got)),
            Err(ServerError::Sql(error)) => {
                tracing::debug!(%error, "home refuses a question of the gateway's own");
                Ok(None)
            }
            Err(ServerError::TooMuch) => Ok(None),
            Err(lost) => Err(lost),
        }
    }

    /// The same, with home's error. In the client's block behind a savepoint, so that a question
    /// that fails leaves the block as it was.
    ///
    /// # Errors
    /// Home's, behind which nothing is left to undo, or a lost connection.
    pub(super) async fn ask_or_undo(
        &mut self,
        locks: Locks,
        ask: impl FnOnce(&mut ServerConnection),
    ) -> Result<Answers, ServerError> {
        let in_block = self.server.status != TransactionStatus::Idle;
        append_aside(&mut self.server, in_block, locks, ask);
        frontend::sync(&mut self.server.outbox);
        match answers(&mut self.server, &mut self.client.outbox).await {
            Ok(mut got) => {
                // The savepoint's own.
                got.results.drain(..usize::from(in_block).min(got.results.len()));
                Ok(got)
            }
            Err(ServerError::Sql(error)) => {
                self.opened = in_block;
                self.undo(Around::Savepoint).await?;
                Err(ServerError::Sql(error))
            }
            Err(lost) => Err(lost),
        }
    }

    /// Leaves the transaction at home as it was before the statement. Does nothing
    /// when it was not opened.
    ///
    /// # Errors
    /// A lost connection.
    pub(super) async fn undo(&mut self, around: Around) -> Result<(), ServerError> {
        if !std::mem::take(&mut self.opened) || self.server.status == TransactionStatus::Idle {
            return Ok(());
        }
        // In the extended protocol under names of our own: a Query would destroy the
        // client's unnamed statement. A portal that failed still has its name.
        let mut attempts = 0;
        loop {
            attempts += 1;
            frontend::close_portal(&mut self.server.outbox, "pgspan:");
            if around == Around::Own {
                run_prepared(&mut self.server, constant(5));
            } else {
                run_prepared(&mut self.server, constant(6));
                run_prepared(&mut self.server, constant(3));
            }
            frontend::sync(&mut self.server.outbox);
            match answers(&mut self.server, &mut self.client.outbox).await {
                // The client's cancel request reached home only now.
                Err(ServerError::Sql(e)) if e.sqlstate() == "57014" && attempts < 5 => {}
                // It reached home before the savepoint: the block has failed.
                Err(ServerError::Sql(e)) if e.sqlstate() == NO_SAVEPOINT => return Ok(()),
                other => return other.map(|_| ()),
            }
        }
    }

    /// Goes on in our own transaction after an error behind [`savepoint`].
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn leave_savepoint(&mut self) -> Result<(), ServerError> {
        frontend::close_portal(&mut self.server.outbox, "pgspan:");
        back_to_savepoint(&mut self.server);
        frontend::sync(&mut self.server.outbox);
        answers(&mut self.server, &mut self.client.outbox).await.map(|_| ())
    }

    /// Makes the client's block fail, as its own failing statement would have.
    pub(super) async fn fail_block(&mut self, opened: bool) -> Result<(), ServerError> {
        self.opened = false;
        frontend::close_portal(&mut self.server.outbox, "pgspan:");
        if opened {
            run_prepared(&mut self.server, constant(6));
        }
        run_prepared(&mut self.server, constant(7));
        frontend::sync(&mut self.server.outbox);
        match answers(&mut self.server, &mut self.client.outbox).await {
            Err(ServerError::Sql(_)) => Ok(()),
            Err(lost) => Err(lost),
            Ok(_) => Ok(()),
        }
    }
}

impl Session {
    /// As [`Session::undo`], for a statement outside a block that failed after its
    /// first row.
    pub(crate) async fn undo_own(&mut self) -> Result<(), ServerError> {
        self.undo(Around::Own).await
    }
}
