//! Whether a statement that home runs by itself may touch a source: in a transaction block
//! that decides whether the gateway's snapshot of the source and home's own could differ.
//!
//! What is not proven is unknown. The proof is by words, not by structure: a text is cut
//! into tokens (which has no depth and no scopes), and nothing at home that any of its
//! words could name, in whatever schema, may lead further than local tables and built-in
//! functions ([`question`]).

use crate::parse::{Lexeme, lex};
use crate::savepoint::NAME_BYTES_MAX;
use pg_query::protobuf::Token;
use std::collections::BTreeSet;

/// What one statement of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It touches no relation and calls nothing: SAVEPOINT, SET, FETCH of a cursor whose
    /// query is judged where it was declared.
    Control,
    /// It ends the transaction, in a form that cannot be refused. `AND CHAIN` or not.
    End {
        /// Another transaction begins at once.
        chain: bool,
    },
    /// It goes back to a savepoint: of what was done behind it home keeps no lock.
    Back,
    /// It reads or writes what its words name.
    Named,
}

/// A text whose effects depend on nothing but its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// Its statements in order.
    pub parts: Vec<Part>,
    /// Every word that may name something, as PostgreSQL folds it.
    pub names: BTreeSet<String>,
    /// Every operator.
    pub operators: BTreeSet<String>,
    /// Words that call a function or name a type. What is not there when home is asked may have
    /// been there when the text ran.
    pub called: BTreeSet<String>,
}

impl Effect {
    /// Whether home must be asked about the words.
    pub fn is_named(&self) -> bool {
        self.parts.contains(&Part::Named)
    }

    /// Whether something was done, and undone.
    pub fn goes_back(&self) -> bool {
        let first = self.parts.iter().position(|part| *part == Part::Named);
        first.is_some_and(|at| self.parts[at..].contains(&Part::Back))
    }

    /// Whether a transaction ends in it.
    pub fn ends(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::End { .. }))
    }

    /// Both, one after the other.
    pub fn then(&mut self, other: Effect) {
        self.parts.extend(other.parts);
        self.names.extend(other.names);
        self.operators.extend(other.operators);
        self.called.extend(other.called);
    }
}

/// Statements without relations and calls, by their first word.
const CONTROL: &[&str] = &[
    "begin",
    "start",
    "savepoint",
    "release",
    "show",
    "set",
    "reset",
    "listen",
    "unlisten",
    "notify",
    "fetch",
    "move",
    "close",
];

/// Statements that end the transaction or go back in it, by their first word.
const ENDS: &[&str] = &["commit", "end", "rollback", "abort"];

/// Statements that do what their words say.
const NAMED: &[&str] = &[
    "select", "values", "with", "table", "(", "insert", "update", "delete", "merge", "lock",
    "declare", "explain", "copy",
];

/// Words that bring texts from elsewhere into a statement of [`NAMED`].
const ELSEWHERE: &[&str] = &["execute", "prepare", "refresh", "call", "do"];

/// Operators that are meant by words: LIKE, IN, BETWEEN, USING, IS DISTINCT and the like.
pub(crate) const MEANT: &[&str] =
    &["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*"];

/// Reads a text. `None`: what it may do is unknown.
///
/// A text is read as by a server whose `standard_conforming_strings` is on; where that is in
/// doubt, or where a word could be another one in the client's encoding, the answer is `None`.
pub fn effect(text: &[u8], utf8: bool) -> Option<Effect> {
    let text = std::str::from_utf8(text).ok()?;
    if !utf8 && !text.is_ascii() {
        return None;
    }
    if text.trim().is_empty() {
        return Some(Effect::default());
    }
    if text.to_ascii_lowercase().contains("standard_conforming_strings") {
        return None;
    }
    let tokens = lex(text);
    // Nothing at all: only comments, or what cannot be cut into tokens.
    if tokens.is_empty() {
        return None;
    }
    let mut effect = Effect::default();
    for statement in tokens.split(|t| t.is_char(b';')).filter(|s| !s.is_empty()) {
        let words = words(text, statement)?;
        let part = part(&words)?;
        effect.parts.push(part);
        if part == Part::Named {
            effect.called.extend(called(statement, &words));
            for word in words {
                match word {
                    Word::Name(name) => effect.names.insert(name),
                    Word::Operator(name) => effect.operators.insert(name),
                    Word::Other => false,
                };
            }
        }
    }
    if effect.is_named() {
        effect.operators.extend(MEANT.iter().map(|&o| o.to_owned()));
    }
    Some(effect)
}

/// Whether a text could be without any statement that reads or writes, by its first word.
pub fn may_be_control(text: &[u8]) -> bool {
    let word = leading_letters(text);
    let words = CONTROL.iter().chain(ENDS);
    // A comment may stand before it.
    word.is_empty() || words.into_iter().any(|w| w.as_bytes().eq_ignore_ascii_case(word))
}

/// Whether a text could do anything in a block that has failed: home refuses whatever does
/// not end it or return to a savepoint.
pub fn may_leave_failure(text: &[u8]) -> bool {
    first_word(text).is_none_or(|word| word == "prepare" || ENDS.contains(&word.as_str()))
}

/// Whether a statement could end the transaction, or do something with a savepoint.
pub fn may_step(statement: &[u8]) -> bool {
    let steps = |word: &[u8]| {
        let mut words = ENDS.iter().chain(&["prepare", "savepoint", "release"]);
        words.any(|w| w.as_bytes().eq_ignore_ascii_case(word))
    };
    // Each Bind that is relayed is looked at: a text is cut into tokens only where a comment may
    // stand before the word.
    match leading_letters(statement) {
        b"" => first_word(statement).is_none_or(|word| steps(word.as_bytes())),
        word => steps(word),
    }
}

/// The letters that a text begins with.
fn leading_letters(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    &text[..text.iter().take_while(|b| b.is_ascii_alphabetic()).count()]
}

/// Whether a statement may ask the client for rows.
pub fn may_copy(statement: &[u8]) -> bool {
    first_word(statement).is_none_or(|word| word == "copy")
}

/// The first word of a text, in lower case.
fn first_word(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let tokens = lex(text);
    // A statement may be empty.
    let first = tokens.iter().find(|t| !t.is_char(b';'))?;
    Some(text[first.start..first.end].to_ascii_lowercase())
}

/// Keywords that stand there for the grammar itself, or for types that are PostgreSQL's own.
const GRAMMAR: &[&str] = &[
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "bigint",
    "bit",
    "boolean",
    "by",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "columns",
    "conflict",
    "copy",
    "cross",
    "cube",
    "current_time",
    "current_timestamp",
    "dec",
    "decimal",
    "default",
    "distinct",
    "double",
    "else",
    "end",
    "except",
    "exists",
    "explain",
    "extract",
    "filter",
    "float",
    "for",
    "from",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "join",
    "key",
    "lateral",
    "least",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "materialized",
    "national",
    "nchar",
    "not",
    "nullif",
    "of",
    "offset",
    "on",
    "only",
    "operator",
    "or",
    "order",
    "over",
    "overlay",
    "partition",
    "position",
    "range",
    "real",
    "references",
    "returning",
    "rollup",
    "row",
    "rows",
    "select",
    "set",
    "sets",
    "similar",
    "smallint",
    "some",
    "substring",
    "table",
    "then",
    "time",
    "timestamp",
    "to",
    "trim",
    "union",
    "using",
    "values",
    "varchar",
    "when",
    "where",
    "with",
    "within",
];

/// The words of a statement that stand where a function or a type does: before a parenthesis,
/// unless they name columns anew; before a literal; behind `::` or the AS of a CAST.
fn called(statement: &[Lexeme], words: &[Word]) -> BTreeSet<String> {
    let is = |at: usize, kind: Token| statement.get(at).is_some_and(|t| t.token == kind as i32);
    let keyword = |at: usize| statement.get(at).is_some_and(|t| t.keyword);
    let name = |at: usize| match words.get(at) {
        Some(Word::Name(name)) if name != "(" => Some(name.clone()),
        _ => None,
    };
    let meant = |at: usize| name(at).filter(|n| !(keyword(at) && GRAMMAR.contains(&n.as_str())));
    let before_as = before_as(statement);
    // `with x (a) as`, `from t v (a)`, `(values (1)) v (a)`.
    let renames = |at: usize| {
        let alias = at > 0
            && (is(at - 1, Token::As)
                || (!keyword(at - 1) && name(at - 1).is_some())
                || statement.get(at - 1).is_some_and(|t| t.is_char(b')')));
        alias || before_as.get(at + 1) == Some(&true)
    };
    let casts = (0..statement.len()).any(|at| is(at, Token::Cast));
    let mut found = BTreeSet::new();
    for at in 0..statement.len() {
        let opens = statement.get(at + 1).is_some_and(|t| t.is_char(b'('));
        if opens && !renames(at) {
            found.extend(meant(at));
        }
        if is(at, Token::Ident) && is(at + 1, Token::Sconst) {
            found.extend(name(at));
        }
        if is(at, Token::Typecast) || (casts && is(at, Token::As)) {
            let mut last = at + 1;
            while statement.get(last + 1).is_some_and(|t| t.is_char(b'.')) {
                last += 2;
            }
            found.extend(meant(last));
        }
    }
    found
}

/// For each token that opens a parenthesis, whether AS follows the one that closes it.
fn before_as(statement: &[Lexeme]) -> Vec<bool> {
    let mut found = vec![false; statement.len()];
    let mut open = Vec::new();
    for (at, token) in statement.iter().enumerate() {
        if token.is_char(b'(') {
            open.push(at);
        } else if token.is_char(b')')
            && let Some(place) = open.pop().and_then(|opened| found.get_mut(opened))
        {
            *place = statement.get(at + 1).is_some_and(|t| t.token == Token::As as i32);
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    Operator(String),
    /// Literals, commas, parentheses.
    Other,
}

fn words(text: &str, statement: &[Lexeme]) -> Option<Vec<Word>> {
    statement.iter().map(|t| word(&text[t.start..t.end], t)).collect()
}

fn word(raw: &str, token: &Lexeme) -> Option<Word> {
    let is = |kinds: &[Token]| kinds.iter().any(|k| token.token == *k as i32);
    if is(&[Token::Uident, Token::Usconst]) {
        // Escapes of their own.
        return None;
    }
    if is(&[Token::Iconst, Token::Fconst, Token::Param]) {
        // Older servers read `1_000` and `0x1F` as a number and a name.
        let plain = raw.bytes().all(|b| b.is_ascii_digit() || b".+-eE$".contains(&b));
        return plain.then_some(Word::Other);
    }
    if is(&[Token::Sconst, Token::Bconst, Token::Xconst]) {
        return Some(Word::Other);
    }
    let first = raw.bytes().next()?;
    if first == b'"' {
        let name = raw.get(1..raw.len().checked_sub(1)?)?.replace("\"\"", "\"");
        return (name.len() <= NAME_BYTES_MAX).then_some(Word::Name(name));
    }
    if first.is_ascii_alphabetic() || first == b'_' || first >= 0x80 {
        return (raw.len() <= NAME_BYTES_MAX).then(|| Word::Name(raw.to_ascii_lowercase()));
    }
    if b"+-*/<>=~!@#%^&|`?".contains(&first) {
        // The grammar's own spelling of it.
        let name = if raw == "!=" { "<>" } else { raw };
        return Some(Word::Operator(name.to_owned()));
    }
    Some(if first == b'(' { Word::Name("(".to_owned()) } else { Word::Other })
}

fn part(words: &[Word]) -> Option<Part> {
    let names: Vec<&str> = words
        .iter()
        .map(|w| match w {
            Word::Name(name) => name.as_str(),
            _ => "",
        })
        .collect();
    match *names.first()? {
        "commit" | "end" | "rollback" | "abort" => ending(&names),
        first if CONTROL.contains(&first) => Some(Part::Control),
        first if NAMED.contains(&first) => {
            (!names.iter().any(|n| ELSEWHERE.contains(n))).then_some(Part::Named)
        }
        _ => None,
    }
}

/// COMMIT, END, ROLLBACK and ABORT in all their forms; PREPARED ones are not among them.
fn ending(names: &[&str]) -> Option<Part> {
    let mut rest = &names[1..];
    if let ["work" | "transaction", more @ ..] = rest {
        rest = more;
    }
    match rest {
        [] | ["and", "no", "chain"] => Some(Part::End { chain: false }),
        ["and", "chain"] => Some(Part::End { chain: true }),
        ["to", ..] if names[0] == "rollback" => Some(Part::Back),
        _ => None,
    }
}

/// Built-in functions that are volatile but reach no table and no other database.
const HARMLESS: &str = "{nextval,setval,currval,lastval,random,random_normal,setseed,gen_random_uuid,uuidv4,uuidv7,\
clock_timestamp,timeofday,statement_timestamp,pg_sleep,pg_sleep_for,pg_sleep_until,set_config,current_setting,\
pg_advisory_lock,pg_advisory_lock_shared,pg_advisory_unlock,pg_advisory_unlock_shared,pg_advisory_unlock_all,\
pg_advisory_xact_lock,pg_advisory_xact_lock_shared,pg_try_advisory_lock,pg_try_advisory_lock_shared,\
pg_try_advisory_xact_lock,pg_try_advisory_xact_lock_shared,txid_current,pg_current_xact_id,pg_notify,\
pg_cancel_backend,pg_terminate_backend,pg_stat_clear_snapshot,pg_lock_status,pg_is_in_recovery,\
lo_creat,lo_create,lo_open,lo_close,lo_get,lo_put,lo_unlink,loread,lowrite}";

/// Built-in functions that run what their arguments name: texts, the input of a type, a hash
/// function.
const RUNS: &str = "{query_to_xml,query_to_xmlschema,query_to_xml_and_xmlschema,table_to_xml,table_to_xmlschema,\
table_to_xml_and_xmlschema,schema_to_xml,schema_to_xmlschema,schema_to_xml_and_xmlschema,database_to_xml,\
database_to_xmlschema,database_to_xml_and_xmlschema,cursor_to_xml,cursor_to_xmlschema,ts_stat,ts_rewrite,\
satisfies_hash_partition,pg_input_is_valid,pg_input_error_info}";

/// Asks whether home holds locks on foreign tables in its transaction: then something has
/// opened them, whatever it was called and whether or not it is still there. Only what a
/// subtransaction opened that failed leaves none.
pub const OPENED_FOREIGN: &str = "\
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation \
WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND c.relkind OPERATOR(pg_catalog.=) 'f')";

/// Asks whether nothing that these words (`$1`) and operators (`$2`) could name leads to a
/// source, and whether what is called (`$3`) and each operator is there at all. One row of one
/// boolean; NULL never. The planner does not see how many words there are: so it finds no better
/// plan for them than the one for any, which it then keeps.
///
/// Looked at, each by name alone, in every schema:
/// - relations, with the tables that inherit from them and those that reference them (which
///   a cascade changes): kinds that are local, without triggers, rules, row security; columns
///   of built-in types and enums; defaults, checks, indexes and partition keys that call
///   nothing but built-in functions (from their stored trees: built-in ones leave no
///   dependency), none of them volatile or among those that run texts;
/// - functions: none of a user's, none of the built-in ones that are volatile or run texts;
/// - types: no domain, no base type or range of a user's; nowhere a domain whose checks call
///   more than built-in functions, since literals of its arrays are read by whoever parses;
/// - operators that values of such types could meet, casts and operator classes that are
///   used without being named: none of a user's.
pub fn question() -> String {
    let own = "16384::pg_catalog.oid";
    // Looked up one by one: a scan of all functions costs ten times as much as all else.
    let is_bad = |row: &str| {
        format!(
            "({row}.proname OPERATOR(pg_catalog.=) ANY('{RUNS}'::pg_catalog.name[]) \
             OR ({row}.provolatile OPERATOR(pg_catalog.=) 'v' AND {row}.proname OPERATOR(pg_catalog.<>) ALL('{HARMLESS}'::pg_catalog.name[])))"
        )
    };
    let reject_tree = |tree: &str| {
        format!(
            "EXISTS (SELECT 1 FROM pg_catalog.regexp_matches({tree}::pg_catalog.text, ':([a-z_]+) ([0-9]{{1,10}})', 'g') AS m(a) \
             WHERE (pg_catalog.int8in(pg_catalog.textout(m.a[2])) OPERATOR(pg_catalog.>=) 16384 AND m.a[1] OPERATOR(pg_catalog.<>) 'location' \
             AND m.a[1] OPERATOR(pg_catalog.!~) '(typmod|location|len)$') \
             OR (m.a[1] OPERATOR(pg_catalog.~) 'funcid$' AND EXISTS (SELECT 1 FROM pg_catalog.pg_proc f \
             WHERE f.oid OPERATOR(pg_catalog.=) pg_catalog.oidin(pg_catalog.textout(m.a[2])) AND {bad})))",
            bad = is_bad("f")
        )
    };
    format!(
        "WITH RECURSIVE rel(oid) AS (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname OPERATOR(pg_catalog.=) ANY((SELECT $1::pg_catalog.name[])::pg_catalog.name[]) \
         UNION SELECT e.other FROM rel r CROSS JOIN LATERAL (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) r.oid \
         UNION ALL SELECT k.conrelid FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_constraint k ON k.oid OPERATOR(pg_catalog.=) g.tgconstraint \
         WHERE g.tgrelid OPERATOR(pg_catalog.=) r.oid AND k.confrelid OPERATOR(pg_catalog.=) r.oid AND k.contype OPERATOR(pg_catalog.=) 'f' \
         AND (k.confdeltype OPERATOR(pg_catalog.=) ANY('{{c,n,d}}'::\"char\"[]) OR k.confupdtype OPERATOR(pg_catalog.=) ANY('{{c,n,d}}'::\"char\"[]))) AS e(other)), \
         plain(t) AS (SELECT t.oid FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem \
         WHERE t.oid OPERATOR(pg_catalog.>=) {own} AND (t.typtype OPERATOR(pg_catalog.=) 'e' OR e.typtype OPERATOR(pg_catalog.=) 'e')) \
         SELECT NOT EXISTS (SELECT 1 FROM rel r CROSS JOIN LATERAL (SELECT n.oid, n.relkind, n.relhasrules, n.relrowsecurity \
         FROM pg_catalog.pg_class n WHERE n.oid OPERATOR(pg_catalog.=) r.oid OFFSET 0) AS c \
         WHERE c.oid OPERATOR(pg_catalog.>=) {own} AND (c.relkind OPERATOR(pg_catalog.<>) ALL('{{r,m,S,i,I,t,p}}'::\"char\"[]) \
         OR c.relhasrules AND c.relkind OPERATOR(pg_catalog.<>) 'm' OR c.relrowsecurity \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_trigger g WHERE g.tgrelid OPERATOR(pg_catalog.=) c.oid \
         AND NOT (g.tgisinternal AND g.tgfoid OPERATOR(pg_catalog.<) {own})) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 \
         AND NOT a.attisdropped AND a.atttypid OPERATOR(pg_catalog.>=) {own} AND a.atttypid OPERATOR(pg_catalog.<>) ALL(ARRAY(SELECT p.t FROM plain p))) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_attrdef d WHERE d.adrelid OPERATOR(pg_catalog.=) c.oid AND {default}) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid AND k.conbin IS NOT NULL AND {check}) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid \
         AND (EXISTS (SELECT 1 FROM pg_catalog.unnest(i.indclass) AS o(o) WHERE o.o OPERATOR(pg_catalog.>=) {own}) \
         OR (i.indexprs IS NOT NULL AND {expressions}) OR (i.indpred IS NOT NULL AND {predicate}))) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_partitioned_table q WHERE q.partrelid OPERATOR(pg_catalog.=) c.oid \
         AND (q.partexprs IS NOT NULL OR EXISTS (SELECT 1 FROM pg_catalog.unnest(q.partclass) AS o(o) WHERE o.o OPERATOR(pg_catalog.>=) {own}))))) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=) ANY((SELECT $1::pg_catalog.name[])::pg_catalog.name[]) \
         AND (p.oid OPERATOR(pg_catalog.>=) {own} OR {bad})) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE t.typname OPERATOR(pg_catalog.=) ANY((SELECT $1::pg_catalog.name[])::pg_catalog.name[]) \
         AND t.oid OPERATOR(pg_catalog.>=) {own} AND t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND t.typcategory OPERATOR(pg_catalog.<>) 'A' \
         AND t.typtype OPERATOR(pg_catalog.<>) 'e') \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.contypid OPERATOR(pg_catalog.>) 0::pg_catalog.oid AND {demand}) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.>=) {own} \
         AND o.oprname OPERATOR(pg_catalog.=) ANY((SELECT $2::pg_catalog.name[])::pg_catalog.name[]) \
         AND (o.oprleft OPERATOR(pg_catalog.<) {own} OR o.oprleft OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT p.t FROM plain p)) OR EXISTS (SELECT 1 FROM rel r JOIN pg_catalog.pg_type t ON t.typrelid OPERATOR(pg_catalog.=) r.oid WHERE t.oid OPERATOR(pg_catalog.=) o.oprleft)) \
         AND (o.oprright OPERATOR(pg_catalog.<) {own} OR o.oprright OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT p.t FROM plain p)) OR EXISTS (SELECT 1 FROM rel r JOIN pg_catalog.pg_type t ON t.typrelid OPERATOR(pg_catalog.=) r.oid WHERE t.oid OPERATOR(pg_catalog.=) o.oprright))) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_cast k WHERE k.oid OPERATOR(pg_catalog.>=) {own} AND k.castfunc OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
         AND (k.castsource OPERATOR(pg_catalog.<) {own} OR k.castsource OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT p.t FROM plain p)) OR EXISTS (SELECT 1 FROM rel r JOIN pg_catalog.pg_type t ON t.typrelid OPERATOR(pg_catalog.=) r.oid WHERE t.oid OPERATOR(pg_catalog.=) k.castsource)) \
         AND (k.casttarget OPERATOR(pg_catalog.<) {own} OR k.casttarget OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT p.t FROM plain p)))) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_opclass o WHERE o.oid OPERATOR(pg_catalog.>=) {own} AND o.opcdefault \
         AND (o.opcintype OPERATOR(pg_catalog.<) {own} OR o.opcintype OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT p.t FROM plain p)))) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest((SELECT $2::pg_catalog.name[])) AS w(w) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oprname OPERATOR(pg_catalog.=) w.w)) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest((SELECT $3::pg_catalog.name[])) AS w(w) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=) w.w) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE t.typname OPERATOR(pg_catalog.=) w.w) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relname OPERATOR(pg_catalog.=) w.w))",
        bad = is_bad("p"),
        default = reject_tree("d.adbin"),
        check = reject_tree("k.conbin"),
        demand = reject_tree("k.conbin"),
        expressions = reject_tree("i.indexprs"),
        predicate = reject_tree("i.indpred"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<Part> {
        effect(text.as_bytes(), true).unwrap().parts
    }

    #[test]
    fn what_is_called_is_seen() {
        let called = |text: &str| {
            effect(text.as_bytes(), true).unwrap().called.into_iter().collect::<Vec<_>>().join(" ")
        };
        for (text, wanted) in [
            ("select ff(1), s.\"Gg\" (2) from t as x(a) where a in (1)", "Gg ff"),
            ("select '1'::mine, 2::s.other[], 3::int from t", "mine other"),
            ("select cast(x as s.dom) from t", "dom"),
            ("select a as b from t", ""),
            ("insert into t (a) values (lower('x'))", "lower t"),
            (
                "select search(1), \"in\"(2), count(*) over (partition by a) from t",
                "count in search",
            ),
            ("select dom '5', s.dom2 '6', 1::location from t", "dom dom2 location"),
            (
                "with x (a) as (select 1), y as (select 2) select * from x v(b), (values (1)) w(c)",
                "",
            ),
            ("select count(*) filter (where a in (1)) from t where exists (select 1)", "count"),
        ] {
            assert_eq!(called(text), wanted, "{text}");
        }
    }

    #[test]
    fn statements_are_told_by_their_first_word() {
        let end = |chain| Part::End { chain };
        assert_eq!(
            parts("BEGIN; select 1; -- x\n commit"),
            [Part::Control, Part::Named, end(false)]
        );
        assert_eq!(parts("rollback work to savepoint s"), [Part::Back]);
        let goes_back = |text: &str| effect(text.as_bytes(), true).unwrap().goes_back();
        assert!(goes_back("savepoint s; select 1; rollback to s"));
        assert!(!goes_back("savepoint s; rollback to s; select 1"));
        assert_eq!(parts("abort and chain"), [end(true)]);
        assert_eq!(parts("END TRANSACTION AND NO CHAIN;"), [end(false)]);
        for unknown in [
            "commit prepared 'x'",
            "commit and",
            "prepare transaction 'x'",
            "do $$ $$",
            "call p()",
            "execute p",
            "explain analyze execute p",
            "create table x as select 1",
            "truncate t",
            "set standard_conforming_strings = off",
            "select U&\"d!0061\" uescape '!'",
            "-- nothing",
            "select 'open",
            "select 1_000",
        ] {
            assert_eq!(effect(unknown.as_bytes(), true), None, "{unknown}");
        }
        assert!(effect(b"select 'h\xe9'", true).is_none());
        assert!(effect("select 'hé'".as_bytes(), false).is_none());
    }

    #[test]
    fn a_first_word_tells_what_is_not_control() {
        for text in ["BEGIN", " savepoint s", "/* x */ begin", "Rollback to s", "set x = 1", ""] {
            assert!(may_be_control(text.as_bytes()), "{text}");
        }
        for text in ["select 1", "INSERT into t values (1)", "settle", "call p()"] {
            assert!(!may_be_control(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn every_word_is_a_name() {
        let e = effect(
            b"SELECT r.Far, \"Q\"\"q\" FROM s.t r WHERE a != 'lit' AND $$x$$ |+| f(2)",
            true,
        );
        let e = e.unwrap();
        for name in ["far", "Q\"q", "s", "t", "r", "f", "a"] {
            assert!(e.names.contains(name), "{name}");
        }
        assert!(!e.names.contains("lit") && !e.names.contains("x"));
        assert!(e.operators.contains("|+|") && e.operators.contains("<>"));
    }

    #[test]
    fn depth_does_not_matter() {
        let deep = format!("select f(1){}", " + 1".repeat(2_000));
        assert!(effect(deep.as_bytes(), true).unwrap().names.contains("f"));
    }

    #[test]
    fn what_may_step_is_known_by_its_first_word() {
        for (text, may) in [
            (&b"COMMIT"[..], true),
            (b" release a", true),
            (b"/* x */ Rollback to s", true),
            (b";abort", true),
            (b"/* x */ select 1", false),
            (b"(select 1)", false),
            (b"committed", false),
            (b"/* \xff */ select 1", true),
        ] {
            assert_eq!(may_step(text), may, "{}", String::from_utf8_lossy(text));
        }
    }
}
