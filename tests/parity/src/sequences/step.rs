//! One step of a sequence, and where it comes from.

use crate::dice::Dice;

/// Who does something past the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Somebody else at home.
    Home,
    /// Somebody else at the source.
    Source,
}

/// What follows the end of COPY data without a Sync between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// One Query, then the Sync.
    Query(String),
    /// Statements of the extended protocol.
    Batch(Vec<String>),
}

/// What a session does, or somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One Query.
    Query(usize, String),
    /// Parse, Bind, Execute, Sync.
    Extended(usize, String),
    /// Parse and Describe of a named statement.
    Prepare(usize, String, String),
    /// Bind and Execute of one.
    Execute(usize, String),
    /// Several statements up to one Sync.
    Batch(usize, Vec<String>),
    /// The same, with a Flush behind each.
    Flushed(usize, Vec<String>),
    /// Several Queries before the first answer.
    Pipeline(usize, Vec<String>),
    /// A portal in pieces, the rest of which stays open.
    Portal(usize, String, i32),
    /// The next piece of it.
    More(usize, i32),
    /// Each text bound to a portal of its own; of these, so many as are named are executed, in
    /// that order.
    Bound(usize, Vec<String>, Vec<usize>),
    /// One of them, in a batch of its own.
    Later(usize, usize),
    /// COPY of the extended protocol with a row for `calls`, and what no Sync parts from it.
    Copied(usize, String, Behind),
    /// A function called by a message of its own.
    Call(usize, String, i32),
    /// Past the gateway.
    Direct(Beside, String),
}

impl Step {
    /// The session, if it is one's.
    pub fn session(&self) -> Option<usize> {
        match self {
            Step::Query(s, _)
            | Step::Extended(s, _)
            | Step::Prepare(s, ..)
            | Step::Execute(s, _)
            | Step::Batch(s, _)
            | Step::Flushed(s, _)
            | Step::Pipeline(s, _)
            | Step::Portal(s, ..)
            | Step::More(s, _)
            | Step::Bound(s, ..)
            | Step::Later(s, _)
            | Step::Copied(s, ..)
            | Step::Call(s, ..) => Some(*s),
            Step::Direct(..) => None,
        }
    }

    /// Its texts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let texts: &[String] = match self {
            Step::Query(_, t)
            | Step::Extended(_, t)
            | Step::Prepare(_, _, t)
            | Step::Portal(_, t, _)
            | Step::Copied(_, _, Behind::Query(t))
            | Step::Direct(_, t) => std::slice::from_ref(t),
            Step::Batch(_, texts)
            | Step::Flushed(_, texts)
            | Step::Pipeline(_, texts)
            | Step::Bound(_, texts, _)
            | Step::Copied(_, _, Behind::Batch(texts)) => texts,
            Step::Execute(..) | Step::More(..) | Step::Later(..) | Step::Call(..) => &[],
        };
        texts.iter().map(String::as_str)
    }

    /// The same, to be changed.
    pub fn texts_mut(&mut self) -> Vec<&mut String> {
        match self {
            Step::Query(_, t)
            | Step::Extended(_, t)
            | Step::Prepare(_, _, t)
            | Step::Portal(_, t, _)
            | Step::Copied(_, _, Behind::Query(t))
            | Step::Direct(_, t) => vec![t],
            Step::Batch(_, texts)
            | Step::Flushed(_, texts)
            | Step::Pipeline(_, texts)
            | Step::Bound(_, texts, _)
            | Step::Copied(_, _, Behind::Batch(texts)) => texts.iter_mut().collect(),
            Step::Execute(..) | Step::More(..) | Step::Later(..) | Step::Call(..) => Vec::new(),
        }
    }
}

const BEGINS: &[&str] = &[
    "begin",
    "begin",
    "begin",
    "start transaction",
    "begin work",
    "begin isolation level read committed",
    "begin read only",
    "begin isolation level repeatable read",
    "begin isolation level serializable",
    "begin transaction isolation level read uncommitted read write",
    "begin; set transaction isolation level read committed",
    "begin; savepoint s",
    "select 1; begin",
    "/* a comment that is longer than what is remembered of a text outside a block */ begin",
];

const ENDS: &[&str] = &[
    "commit",
    "commit",
    "rollback",
    "end",
    "abort",
    "commit work",
    "commit and chain",
    "rollback and chain",
    "end and no chain",
    "commit; begin",
    "rollback; begin",
    "COMMIT ; ; /* x */ BEGIN; select 1",
    "commit and chain; select 2",
    "insert into calls values (1); commit; begin",
    "prepare transaction 'never'",
];

const POINTS: &[&str] = &[
    "savepoint s",
    "savepoint s",
    "rollback to s",
    "rollback to savepoint s",
    "release s",
    "savepoint t",
    "rollback to t",
    "savepoint U&\"\\0073\"",
    "rollback to \"s\"",
];

/// What the gateway may answer itself.
const READS: &[&str] = &[
    "select l.id, s.v from l join snap s using (id) order by 1, 2",
    "select l.id, s.v from l left join snap s using (id) order by 1, 2",
    "select l.t, count(s.id), sum(s.v) from l left join snap s using (id) group by l.t order by 1",
    "select count(*), sum(v) from snap",
    "select id, v from snap order by id, v",
    "select f.id, f.t, s.v from far f join snap s using (id) order by 1, 2, 3",
    "select l.id from l where exists (select 1 from snap s where s.id = l.id) order by 1",
    "select l.id from l where not exists (select 1 from snap s where s.id = l.id) order by 1",
    "select count(*) from l join snap s using (id)",
    "select l.id, s.v from l join snap s using (id) where l.id < 0",
    "select l.id, s.v from l join snap s using (id) where l.t = 'l3' order by 1, 2",
    "select * from snap where false",
    "select * from snap limit 0",
    "select l.id, s.v from l left join snap s on s.id = l.id and 1 = 0 order by 1",
    "select id from snap union all select id from l order by 1",
    "with s as (select id, v from snap where id > 1) select l.t, s.v from l join s using (id) order by 1, 2",
    "select (select max(v) from snap), count(*) from l",
    "select case when count(*) < 0 then (select max(v) from snap) end from l",
    "select 1 / (s.v - 20) from l join snap s using (id) order by l.id",
    "select id from far where t = 'nobody'",
    "copy (select id, v from snap order by 1, 2) to stdout",
];

/// What touches no source.
const NEAR: &[&str] = &[
    "select count(*), max(id) from l",
    "insert into plain (id, l_id) values (1, 1)",
    "update plain set n = n + 1",
    "delete from plain where id = 1",
    "insert into calls values (7)",
    "select count(*) from calls",
    "insert into moody (id) values (1)",
    "select m, count(*) from moody group by m order by m",
    "set timezone = 'Asia/Tokyo'",
    "set local work_mem = '8MB'",
    "reset work_mem",
    "show work_mem",
    "select now() = transaction_timestamp()",
    "select pg_advisory_xact_lock(42)",
    "update l set t = t where id = 2",
    "delete from l where id = 20",
    "select 1 / 0",
    "select nothing",
    "selec",
    "",
    "notify news",
    "select id from v_near order by id limit 2",
    "declare k cursor for select id from l order by id; fetch 2 from k",
    "fetch 1 from k",
    "lock table l in share mode",
    "explain (costs off) select * from l",
    "values (1), (2)",
    "select 'é'",
    "savepoint s; insert into calls values (3); release s",
    "lock table l",
    "set transaction isolation level repeatable read",
    "set transaction isolation level serializable, read only",
    "show transaction_isolation",
    "select abs(-3)",
    "select max(lower(t::varchar)) from l",
    "insert into defaulted (id, n) values (1, 1)",
    "deallocate all",
];

/// What touches one, by whatever way.
const FAR: &[&str] = &[
    "insert into snap values (7, 70)",
    "update snap set v = v + 1 where id = 1",
    "delete from snap where id = 2",
    "insert into log values (1)",
    "select put(8)",
    "select peek()",
    "select near(1)",
    "select quietly(9)",
    "select l.put_of from l where id = 3",
    "select public.abs('14')",
    "select 1 @+@ 2",
    "select 1 operator(public.@+@) 2 from l where id = 1",
    "insert into checked values (1)",
    "insert into defaulted (id) values (1)",
    "insert into fired values (1)",
    "insert into ruled values (1)",
    "select mode_of(id) from l",
    "select count(*) from v_far",
    "set local search_path = hidden, public; select count(*) from v_near",
    "set local search_path = hidden, public",
    "do $$ begin perform put(11); end $$",
    "call twice(12)",
    "declare c cursor for select id from snap order by id; fetch 1 from c",
    "fetch 1 from c",
    "insert into calls select id from snap",
    "select id from snap order by id for update",
    "with w as (update snap set v = v + 1 returning id) select id from w order by id",
    "create temp table made as select id from snap; select count(*) from made; drop table made",
    "truncate log",
    "select count(*) from snap where (id) in (select id from l) and v is not null and put(300) = 1",
    "select query_to_xml('select count(*) from snap', true, true, '')::text",
    "select length(table_to_xml_and_xmlschema('snap', true, true, '')::text) > 0",
    "prepare p as select count(*) from snap; execute p; deallocate p",
    "set role none",
    "set constraints all immediate",
];

/// Who reads, under a mapping that says what the other one's says.
const ROLES: &[&str] = &[
    "set role sequences_other",
    "set local role sequences_other",
    "set session authorization sequences_other",
    "set local session authorization sequences_other",
    "reset role",
    "set role none",
    "reset session authorization",
    "select set_config('role', 'sequences_other', true)",
    "set local role sequences_other; select id, v from snap order by id, v; reset role",
];

const OWN_DDL: &[&str] = &[
    "alter foreign table snap options (add fetch_size '50')",
    "alter foreign table snap options (drop fetch_size)",
    "alter foreign table snap rename v to u; alter foreign table snap rename u to v",
];

const AT_SOURCE: &[&str] = &[
    "insert into snap values (3, 30)",
    "insert into snap values (4, 40), (5, null)",
    "update snap set v = v + 100",
    "delete from snap where id = 1",
    "insert into renamed values (2, 'new')",
    "truncate renamed; insert into renamed values (1, 'one')",
    "create table other (id int); drop table other",
    "analyze snap",
];

const AT_HOME: &[&str] = &[
    "insert into l values (21, 'new')",
    "delete from l where id = 21",
    "update l set t = 'changed' where id = 3",
    "truncate calls",
    "drop function if exists public.abs(text)",
    "create or replace view v_far as select id from l",
    "create or replace view v_far as select id from snap",
    "alter view v_far rename to v_away",
    "alter table defaulted alter n drop default",
    "drop trigger if exists t on fired",
    "create or replace trigger t before insert on fired for each row execute function fires()",
    "alter table checked drop constraint if exists checked_id_check",
    "create or replace function public.lower(varchar) returns text language sql volatile as 'select public.peek()::text'",
    "drop function if exists public.lower(varchar)",
    "create or replace trigger t before update on plain for each row execute function fires()",
    "drop trigger if exists t on plain",
    "create or replace function near(int) returns int language sql volatile as 'insert into public.calls values ($1 + 1) returning 1'",
    "alter system set work_mem = '5MB'",
    "alter system reset work_mem",
    "select pg_reload_conf()",
    "alter foreign table far options (add fetch_size '20')",
    "alter foreign table far options (drop fetch_size)",
];

/// A sequence of 5 to 40 steps.
pub fn sequence(dice: &mut Dice) -> Vec<Step> {
    let length = 5 + dice.skewed(36);
    let sessions = if dice.one_in(3) { 2 } else { 1 };
    let mut steps = Vec::new();
    let mut prepared: Vec<Vec<String>> = vec![Vec::new(); 2];
    let mut in_block = [false; 2];
    if dice.one_in(8) {
        in_block[0] = true;
        steps.extend(match dice.below(4) {
            0 => left_waiting(dice),
            1 => chained(dice),
            _ => undone(dice),
        });
    }
    while steps.len() < length {
        let session = dice.below(sessions);
        if !in_block[session] && !dice.one_in(4) {
            in_block[session] = true;
            steps.push(one_of(dice, session, BEGINS));
            continue;
        }
        match dice.below(30) {
            0 | 1 => {
                let text = *dice.pick(ENDS);
                in_block[session] =
                    text.contains("chain") || text.to_lowercase().contains("; begin");
                steps.push(statement(dice, session, text.to_owned()));
            }
            2 | 3 => steps.push(one_of(dice, session, POINTS)),
            4..=6 => steps.push(Step::Direct(Beside::Source, (*dice.pick(AT_SOURCE)).to_owned())),
            7 => steps.push(Step::Direct(Beside::Home, (*dice.pick(AT_HOME)).to_owned())),
            8..=13 => steps.push(one_of(dice, session, READS)),
            14..=16 => steps.push(one_of(dice, session, NEAR)),
            // DDL of the session's own, where nobody else waits for its lock.
            17 if sessions == 1 && dice.one_in(4) => steps.push(one_of(dice, session, OWN_DDL)),
            17 | 18 => steps.push(one_of(dice, session, FAR)),
            19 => {
                let name = format!("n{}", prepared[session].len());
                steps.push(Step::Prepare(session, name.clone(), single(dice)));
                prepared[session].push(name);
            }
            20 if !prepared[session].is_empty() => {
                steps.push(Step::Execute(session, dice.pick(&prepared[session]).clone()));
            }
            21 | 25 | 26 => steps.push(several(dice, session)),
            22 => {
                let rows = 1 + i32::try_from(dice.below(3)).unwrap_or(0);
                let read = (*dice.pick(&READS[..5])).to_owned();
                let more = [Step::Portal(session, read, rows), Step::More(session, rows)];
                steps.push(more[dice.below(2)].clone());
            }
            23 => {
                let name = (*dice.pick(&["put", "peek", "near"])).to_owned();
                steps.push(Step::Call(session, name, 50));
            }
            24 => steps.push(one_of(dice, session, ROLES)),
            27 => steps.push(bound(dice, session)),
            28 => steps.push(Step::Later(session, dice.below(BOUND_MAX))),
            29 => steps.push(copied(dice, session)),
            _ => {}
        }
    }
    // What is committed, and what was not, as everybody sees it.
    for session in 0..sessions {
        steps.push(Step::Query(session, (*dice.pick(&["commit", "rollback"])).to_owned()));
        steps.push(Step::Query(session, READS[4].to_owned()));
    }
    steps
}

/// A block in which the gateway reads, that home may take over behind a savepoint, and that goes
/// back in one way or another while somebody writes at the source.
fn undone(dice: &mut Dice) -> Vec<Step> {
    let point = *dice.pick(&["s", "t", "U&\"\\0073\""]);
    let mut steps = vec![
        one_of(dice, 0, &["begin"]),
        one_of(dice, 0, &READS[..5]),
        Step::Query(0, format!("savepoint {point}")),
    ];
    let first =
        &["select near(1)", "select near(1)", "select peek()", "select near()", "release t"];
    for chance in [&first[..], &["select 1 / 0", "select 1"]] {
        if !dice.one_in(3) {
            steps.push(one_of(dice, 0, chance));
        }
    }
    steps.push(Step::Direct(Beside::Source, (*dice.pick(AT_SOURCE)).to_owned()));
    let back = format!("rollback to {point}");
    let mut texts = vec![back, (*dice.pick(&READS[3..5])).to_owned(), single(dice)];
    if dice.one_in(3) {
        texts.swap(0, 1);
    }
    steps.push(together(dice, 0, texts));
    steps.push(Step::Query(0, READS[4].to_owned()));
    steps
}

/// A block in which the gateway reads, and then what would end it or go back in it is not executed
/// as it is bound, while somebody writes at the source.
fn left_waiting(dice: &mut Dice) -> Vec<Step> {
    vec![
        one_of(dice, 0, &["begin"]),
        one_of(dice, 0, &["savepoint s", "select 1"]),
        one_of(dice, 0, &READS[..5]),
        bound(dice, 0),
        Step::Direct(Beside::Source, (*dice.pick(AT_SOURCE)).to_owned()),
        one_of(dice, 0, &READS[..5]),
        Step::Later(0, dice.below(BOUND_MAX)),
        Step::Query(0, READS[4].to_owned()),
    ]
}

/// A block in which the gateway reads, and that ends together with what may read or write in the
/// next one, while somebody writes at the source.
fn chained(dice: &mut Dice) -> Vec<Step> {
    let end = *dice.pick(&["commit and chain", "rollback and chain", "commit", "rollback"]);
    let texts = vec![end.to_owned(), single(dice), single_of(dice, FAR)];
    vec![
        one_of(dice, 0, &["begin"]),
        one_of(dice, 0, &READS[..5]),
        together(dice, 0, texts),
        Step::Direct(Beside::Source, (*dice.pick(AT_SOURCE)).to_owned()),
        one_of(dice, 0, &READS[..5]),
    ]
}

fn one_of(dice: &mut Dice, session: usize, texts: &[&str]) -> Step {
    let text = (*dice.pick(texts)).to_owned();
    statement(dice, session, text)
}

/// Where a text names a foreign table that it does not read.
fn commented(dice: &mut Dice, text: String) -> String {
    match dice.below(16) {
        0 if !text.is_empty() => format!("{text} /* snap */"),
        1 => format!("-- far\n{text}"),
        _ => text,
    }
}

/// In a protocol.
fn statement(dice: &mut Dice, session: usize, text: String) -> Step {
    let text = commented(dice, text);
    let single = !text.contains(';') && !text.contains("copy (");
    if single && dice.one_in(3) {
        Step::Extended(session, text)
    } else {
        Step::Query(session, text)
    }
}

/// A text of one statement.
fn single(dice: &mut Dice) -> String {
    loop {
        let from = *dice.pick(&[READS, NEAR, FAR, READS]);
        let text = single_of(dice, from);
        if !text.is_empty() && !text.starts_with("copy") {
            return text;
        }
    }
}

/// One of these that is one statement.
fn single_of(dice: &mut Dice, texts: &[&str]) -> String {
    loop {
        let text = *dice.pick(texts);
        if !text.contains(';') {
            return text.to_owned();
        }
    }
}

/// Several statements before one answer is read.
fn several(dice: &mut Dice, session: usize) -> Step {
    let count = 2 + dice.below(3);
    let mut texts: Vec<String> = (0..count).map(|_| single(dice)).collect();
    if dice.one_in(2) {
        texts[0] = (*dice.pick(&["begin", "commit", "rollback", "savepoint s"])).to_owned();
    }
    if dice.one_in(2) {
        let at = dice.below(count);
        texts[at] = (*dice.pick(&["rollback to s", "rollback to t", "savepoint t"])).to_owned();
    }
    together(dice, session, texts)
}

/// Portals at most that are bound together.
const BOUND_MAX: usize = 3;

/// Statements that are not executed as they are bound.
fn bound(dice: &mut Dice, session: usize) -> Step {
    let texts: Vec<String> = (0..1 + dice.below(BOUND_MAX))
        .map(|_| match dice.below(3) {
            0 => single(dice),
            at => single_of(dice, [POINTS, ENDS][at - 1]),
        })
        .collect();
    let order = (0..dice.below(BOUND_MAX)).map(|_| dice.below(texts.len())).collect();
    Step::Bound(session, texts, order)
}

/// A row that goes in, is refused, or is not sent, and what follows.
fn copied(dice: &mut Dice, session: usize) -> Step {
    let row = (*dice.pick(&["5\n", "6\n", "no number\n", ""])).to_owned();
    let behind = match dice.one_in(2) {
        true => {
            let from = *dice.pick(&[READS, NEAR, FAR, POINTS, ENDS]);
            Behind::Query((*dice.pick(from)).to_owned())
        }
        false => Behind::Batch((0..1 + dice.below(2)).map(|_| single(dice)).collect()),
    };
    Step::Copied(session, row, behind)
}

/// Texts that go out in one write.
fn together(dice: &mut Dice, session: usize, mut texts: Vec<String>) -> Step {
    if dice.one_in(4) {
        return Step::Query(session, texts.join("; "));
    }
    texts = texts.into_iter().map(|text| commented(dice, text)).collect();
    match dice.below(4) {
        0 => Step::Batch(session, texts),
        1 => Step::Flushed(session, texts),
        _ => Step::Pipeline(session, texts),
    }
}
