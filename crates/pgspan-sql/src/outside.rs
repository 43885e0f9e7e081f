//! What a kept plan rests on outside of the statement's tables: functions, operators and types
//! that a name of it may mean, operators that are meant and not written, casts, operator
//! classes, and the types of the tables' columns.
//!
//! Some of it can be told from its rows in the catalog: when they are what they were, so is
//! what was computed with it. What runs SQL, or rests on rows elsewhere (a domain's checks, a
//! row type's attributes), cannot: then no plan is kept.

use crate::analyze::SharedNames;
use crate::effect::MEANT;
use crate::fragment::NAMING;
use crate::quote::name_array;

/// The first number of an object that is not PostgreSQL's own (`FirstNormalObjectId`).
const FIRST: &str = "16384::pg_catalog.oid";

/// Functions of these languages (internal, C) change with their rows only.
const COMPILED: &str = "'{12,13}'::pg_catalog.oid[]";

/// aclitem, and arrays of it and of [`NAMING`]: their values name objects too.
const NAMING_TOO: &[u32] =
    &[1033, 1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192, 1034];

/// Users' operator classes, for B-trees and hash tables, by which values are compared where
/// nobody says how.
pub(crate) const DEFAULT_CLASSES: &str = "pg_catalog.pg_opclass x WHERE x.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
AND x.opcdefault AND x.opcmethod OPERATOR(pg_catalog.=) ANY('{403,405}'::pg_catalog.oid[])";

/// What one question about objects outside `pg_catalog` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// There are none.
    None,
    /// There are some, and their rows tell whether they are what they were.
    Tracked,
    /// The same, and a name of the statement may mean one of them.
    Meant,
    /// What they do can change without their rows.
    Moving,
}

impl Said {
    /// Reads an item of a fingerprint's second column.
    pub fn read(item: &[u8]) -> Said {
        match item.first() {
            Some(b'0') if item.len() == 1 => Said::None,
            Some(b'~') => Said::Tracked,
            Some(digit) if digit.is_ascii_digit() => Said::Meant,
            _ => Said::Moving,
        }
    }
}

/// The sum of what identifies rows: `0` if there are none; in front of it `!` where one of them
/// is `moving`, `~` where none of them is `meant`.
fn told(from: &str, sum: &str, moving: &str, meant: &str) -> String {
    format!(
        "(SELECT CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 THEN '0' ELSE pg_catalog.concat(\
         CASE WHEN pg_catalog.bool_or({moving}) THEN '!' WHEN pg_catalog.bool_or({meant}) THEN '' ELSE '~' END, \
         pg_catalog.sum({sum})) END FROM {from})"
    )
}

/// A row's version as a number. By functions: what casts a number to text and back may be a
/// user's.
pub(crate) fn xmin(row: &str) -> String {
    format!("pg_catalog.int8in(pg_catalog.xidout({row}.xmin))")
}

/// A row's number and version.
fn version(row: &str) -> String {
    format!("{row}.oid::pg_catalog.int8 OPERATOR(pg_catalog.+) {}", xmin(row))
}

/// The versions of an enum's labels.
fn labels(types: &str) -> String {
    format!(
        "COALESCE((SELECT pg_catalog.sum({}) FROM pg_catalog.pg_enum n \
         WHERE n.enumtypid OPERATOR(pg_catalog.=) ANY(ARRAY[{types}])), 0)",
        xmin("n")
    )
}

/// Whether a function is not known to change with its row only; `otherwise`: there is none.
fn not_compiled(row: &str, otherwise: bool) -> String {
    format!("COALESCE({row}.prolang OPERATOR(pg_catalog.<>) ALL({COMPILED}), {otherwise})")
}

/// Whether a type `t`, with elements of type `e`, is more than its row and labels.
const IS_COMPOUND: &str = "COALESCE(NOT (t.typtype OPERATOR(pg_catalog.=) 'e' OR (t.typtype OPERATOR(pg_catalog.=) 'b' \
AND (t.typelem OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR e.typtype OPERATOR(pg_catalog.=) ANY('{b,e}'::pg_catalog.\"char\"[])))), true)";

/// What may be meant, as items of text, each for [`Said::read`]; the last one is of the columns
/// of `tables`, an SQL expression: an array of numbers.
pub(crate) fn meanings(names: &SharedNames, tables: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !names.functions.is_empty() {
        let from = format!(
            "pg_catalog.pg_proc x WHERE x.proname OPERATOR(pg_catalog.=) ANY({}) \
             AND x.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid",
            name_array(names.functions.iter())
        );
        found.push(told(&from, &version("x"), &not_compiled("x", true), "true"));
    }
    if !names.types.is_empty() {
        let from = format!(
            "pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem \
             WHERE t.typname OPERATOR(pg_catalog.=) ANY({}) AND t.typnamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid",
            name_array(names.types.iter())
        );
        let sum = format!("{} OPERATOR(pg_catalog.+) {}", version("t"), labels("t.oid, t.typelem"));
        found.push(told(&from, &sum, IS_COMPOUND, "true"));
    }
    found.push(users_objects(names));
    let is_compound = format!(
        "(SELECT {IS_COMPOUND} FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem \
         WHERE t.oid OPERATOR(pg_catalog.=) a.atttypid)"
    );
    let naming: Vec<String> = NAMING.iter().chain(NAMING_TOO).map(u32::to_string).collect();
    let moving = format!(
        "NOT a.attisdropped AND (a.atttypid OPERATOR(pg_catalog.=) ANY('{{{naming}}}'::pg_catalog.oid[]) \
         OR (a.atttypid OPERATOR(pg_catalog.>=) {FIRST} AND {is_compound}))",
        naming = naming.join(",")
    );
    let sum = format!(
        "{of_column} OPERATOR(pg_catalog.+) CASE WHEN a.atttypid OPERATOR(pg_catalog.>=) {FIRST} \
         THEN (SELECT {of_type} OPERATOR(pg_catalog.+) {labels} \
         FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) a.atttypid) ELSE 0 END",
        of_column = xmin("a"),
        of_type = xmin("t"),
        labels = labels("t.oid, t.typelem")
    );
    let from = format!(
        "pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) ANY({tables}) AND a.attnum OPERATOR(pg_catalog.>) 0"
    );
    found.push(told(&from, &sum, &moving, "false"));
    found
}

/// Operators by name, casts, and default operator classes, as one item.
fn users_objects(names: &SharedNames) -> String {
    let mut operators: Vec<&str> = names.operators.iter().map(String::as_str).collect();
    operators.extend(MEANT.iter().filter(|meant| !names.operators.contains(**meant)));
    let function = |of: &str| {
        format!(
            "LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) x.{of}::pg_catalog.oid \
             WHERE x.oid OPERATOR(pg_catalog.>=) {FIRST}"
        )
    };
    let with_function =
        format!("{} OPERATOR(pg_catalog.+) COALESCE({}, 0)", version("x"), xmin("p"));
    // An operator of a user's type is meant where such a type is, which is seen by itself; a
    // cast between types of PostgreSQL's applies where no name of a user's stands.
    let from = format!(
        "(SELECT {with_function}, {}, x.oprleft OPERATOR(pg_catalog.<) {FIRST} AND x.oprright OPERATOR(pg_catalog.<) {FIRST} \
         FROM pg_catalog.pg_operator x {} AND x.oprname OPERATOR(pg_catalog.=) ANY({}) \
         UNION ALL SELECT {with_function}, {} OR (x.castsource OPERATOR(pg_catalog.<) {FIRST} AND x.casttarget OPERATOR(pg_catalog.<) {FIRST}), false \
         FROM pg_catalog.pg_cast x {} \
         UNION ALL SELECT {}, false, false FROM {DEFAULT_CLASSES}) AS u(version, moving, meant)",
        not_compiled("p", true),
        function("oprcode"),
        name_array(operators.iter()),
        not_compiled("p", false),
        function("castfunc"),
        version("x"),
    );
    told(&from, "u.version", "u.moving", "u.meant")
}

/// How it is defined: items of text.
pub(crate) fn definitions(names: &SharedNames) -> Vec<String> {
    if names.functions.is_empty() {
        return Vec::new();
    }
    // Who may call PostgreSQL's own.
    vec![format!(
        "(SELECT pg_catalog.sum({}) FROM pg_catalog.pg_proc x \
         WHERE x.proname OPERATOR(pg_catalog.=) ANY({}) AND x.pronamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid)",
        xmin("x"),
        name_array(names.functions.iter())
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_item_says() {
        for (item, said) in [
            ("0", Said::None),
            ("~123", Said::Tracked),
            ("16385", Said::Meant),
            ("!16385", Said::Moving),
            ("", Said::Moving),
            ("-", Said::Moving),
        ] {
            assert_eq!(Said::read(item.as_bytes()), said, "{item}");
        }
    }
}
