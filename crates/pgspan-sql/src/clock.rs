//! Whether a statement's answer can depend on when it begins. PostgreSQL's `now()` is the
//! beginning of the transaction; so are the words `now` or `today` wherever text is read
//! as a date, and that can be hidden in a function or a cast. What is listed here cannot.

use crate::analyze::SharedNames;

/// Functions of which every overload of that name in `pg_catalog` computes its result
/// from its arguments alone, and reads no text as a date.
const FUNCTIONS: &[&str] = &[
    "abs",
    "array_agg",
    "array_length",
    "array_to_string",
    "avg",
    "bit_and",
    "bit_or",
    "bool_and",
    "bool_or",
    "btrim",
    "cardinality",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "corr",
    "count",
    "cume_dist",
    "date_part",
    "date_trunc",
    "dense_rank",
    "div",
    "every",
    "exp",
    "extract",
    "first_value",
    "floor",
    "initcap",
    "jsonb_agg",
    "json_agg",
    "lag",
    "last_value",
    "lead",
    "left",
    "length",
    "like_escape",
    "ln",
    "log",
    "lower",
    "lpad",
    "ltrim",
    "max",
    "md5",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "position",
    "power",
    "rank",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "row_number",
    "rpad",
    "rtrim",
    "sign",
    "split_part",
    "sqrt",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "strpos",
    "substr",
    "substring",
    "sum",
    "to_char",
    "translate",
    "trunc",
    "upper",
    "var_pop",
    "var_samp",
    "variance",
];

/// Types whose input does not look at the clock.
const TYPES: &[&str] = &[
    "bool", "bpchar", "bytea", "char", "float4", "float8", "int2", "int4", "int8", "interval",
    "name", "numeric", "oid", "text", "uuid", "varchar",
];

/// The same as OIDs, for parameters.
const TYPE_OIDS: &[u32] =
    &[16, 1042, 17, 18, 700, 701, 21, 23, 20, 1186, 19, 1700, 26, 25, 2950, 1043];

/// Whether nothing that a statement calls or casts to looks at the clock.
pub(crate) fn are_timeless(names: &SharedNames) -> bool {
    names.functions.iter().all(|f| FUNCTIONS.contains(&f.as_str()))
        && names.types.iter().all(|t| TYPES.contains(&t.as_str()))
}

/// Whether parameters of these types are read without looking at the clock.
pub fn are_timeless_types(oids: &[u32]) -> bool {
    oids.iter().all(|oid| TYPE_OIDS.contains(oid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(functions: &[&str], types: &[&str]) -> SharedNames {
        let set = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        SharedNames { functions: set(functions), types: set(types), ..SharedNames::default() }
    }

    #[test]
    fn what_may_look_at_the_clock_is_not_timeless() {
        assert!(are_timeless(&names(&["count", "sum"], &["int4", "text"])));
        for f in
            ["now", "age", "date", "timestamptz", "json_populate_record", "to_date", "tstzrange"]
        {
            assert!(!are_timeless(&names(&[f], &[])), "{f}");
        }
        for t in ["timestamptz", "date", "time", "mine", "tstzrange"] {
            assert!(!are_timeless(&names(&[], &[t])), "{t}");
        }
        assert!(are_timeless_types(&[23, 25]) && !are_timeless_types(&[1184]));
    }
}
