//! The types that the generator plays with, and values at their extremes.

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// bool
    Bool,
    /// int2
    Int2,
    /// int4
    Int4,
    /// int8
    Int8,
    /// oid
    Oid,
    /// uuid
    Uuid,
    /// date
    Date,
    /// timestamp
    Timestamp,
    /// timestamptz
    Timestamptz,
    /// bytea
    Bytea,
    /// text
    Text,
    /// varchar(20)
    Varchar,
    /// char(6)
    Char,
    /// numeric(12,2)
    Scaled,
    /// numeric
    Numeric,
    /// float4
    Float4,
    /// float8
    Float8,
    /// interval
    Interval,
    /// time
    Time,
    /// jsonb
    Jsonb,
    /// int4[]
    Ints,
    /// text[]
    Texts,
    /// inet
    Inet,
    /// bit(5)
    Bits,
    /// An enum of the schema's own.
    Mood,
}

/// What the enum has, in home's order.
pub const MOODS: [&str; 3] = ["'sad'", "'ok'", "'happy'"];

/// The first so many of [`TYPES`] are those that the engine knows.
pub const ENGINES: usize = 17;

/// All of them.
pub const TYPES: [Type; 25] = [
    Type::Bool,
    Type::Int2,
    Type::Int4,
    Type::Int8,
    Type::Oid,
    Type::Uuid,
    Type::Date,
    Type::Timestamp,
    Type::Timestamptz,
    Type::Bytea,
    Type::Text,
    Type::Varchar,
    Type::Char,
    Type::Scaled,
    Type::Numeric,
    Type::Float4,
    Type::Float8,
    Type::Interval,
    Type::Time,
    Type::Jsonb,
    Type::Ints,
    Type::Texts,
    Type::Inet,
    Type::Bits,
    Type::Mood,
];

/// Types that PostgreSQL compares with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Numbers.
    Number,
    /// Texts.
    Text,
    /// Points in time.
    Time,
    /// Comparable only with itself.
    Alone(Type),
}

impl Type {
    /// As DDL and casts have it.
    pub fn sql(self) -> &'static str {
        match self {
            Type::Bool => "bool",
            Type::Int2 => "int2",
            Type::Int4 => "int4",
            Type::Int8 => "int8",
            Type::Oid => "oid",
            Type::Uuid => "uuid",
            Type::Date => "date",
            Type::Timestamp => "timestamp",
            Type::Timestamptz => "timestamptz",
            Type::Bytea => "bytea",
            Type::Text => "text",
            Type::Varchar => "varchar(20)",
            Type::Char => "char(6)",
            Type::Scaled => "numeric(12,2)",
            Type::Numeric => "numeric",
            Type::Float4 => "float4",
            Type::Float8 => "float8",
            Type::Interval => "interval",
            Type::Time => "time",
            Type::Jsonb => "jsonb",
            Type::Ints => "int4[]",
            Type::Texts => "text[]",
            Type::Inet => "inet",
            Type::Bits => "bit(5)",
            Type::Mood => "mood",
        }
    }

    /// What it can be compared with.
    pub fn family(self) -> Family {
        match self {
            Type::Int2
            | Type::Int4
            | Type::Int8
            | Type::Scaled
            | Type::Numeric
            | Type::Float4
            | Type::Float8 => Family::Number,
            Type::Text | Type::Varchar | Type::Char => Family::Text,
            Type::Date | Type::Timestamp | Type::Timestamptz => Family::Time,
            alone => Family::Alone(alone),
        }
    }

    /// Equal values have several spellings (1.0 and 1.00, 0 and -0): which one a group
    /// shows is anybody's choice.
    pub fn is_ambiguous(self) -> bool {
        matches!(self, Type::Numeric | Type::Float4 | Type::Float8 | Type::Interval | Type::Jsonb)
    }

    /// `min` and `max` exist (in every version) and have one spelling.
    pub fn has_extremes(self) -> bool {
        !self.is_ambiguous() && !matches!(self, Type::Bool | Type::Uuid | Type::Bytea | Type::Bits)
    }

    /// `sum` and `avg` do not depend on the order of rows.
    pub fn has_sum(self) -> bool {
        matches!(self, Type::Int2 | Type::Int4 | Type::Int8 | Type::Scaled | Type::Numeric)
    }

    /// Integers.
    pub fn is_integer(self) -> bool {
        matches!(self, Type::Int2 | Type::Int4 | Type::Int8)
    }

    /// Values as literals, common ones first.
    pub fn pool(self) -> &'static [&'static str] {
        match self {
            Type::Bool => &["true", "false"],
            Type::Int2 => &["1", "2", "3", "0", "-1", "7", "10", "32767", "-32768", "1970"],
            Type::Int4 => {
                &["1", "2", "3", "4", "0", "-1", "10", "2147483647", "-2147483648", "1970", "7"]
            }
            Type::Int8 => &[
                "1",
                "2",
                "3",
                "0",
                "-1",
                "10",
                "9223372036854775807",
                "-9223372036854775808",
                "9007199254740993",
                "9007199254740992",
                "2147483648",
            ],
            Type::Oid => &["1", "2", "0", "2147483648", "4294967295", "23"],
            Type::Uuid => &[
                "'00000000-0000-0000-0000-000000000001'",
                "'00000000-0000-0000-0000-000000000000'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'80000000-0000-0000-0000-000000000000'",
                "'12345678-9abc-def0-1234-56789abcdef0'",
            ],
            Type::Date => &[
                "'2024-02-29'",
                "'2024-01-05'",
                "'1970-01-01'",
                "'1969-12-31'",
                "'2000-01-01'",
                "'1999-12-31'",
                "'0001-01-01'",
                "'0044-03-15 BC'",
                "'2262-04-12'",
                "'9999-12-31'",
                "'5874897-12-31'",
                "'infinity'",
                "'-infinity'",
            ],
            Type::Timestamp => &[
                "'2024-02-29 12:00:00'",
                "'2024-01-05 00:00:00'",
                "'1970-01-01 00:00:00'",
                "'1969-12-31 23:59:59.999999'",
                "'2000-01-01 00:00:00'",
                "'2262-04-11 23:47:16.854776'",
                "'2262-04-12 00:00:00'",
                "'0001-01-01 00:00:00'",
                "'0044-03-15 00:00:00 BC'",
                "'9999-12-31 23:59:59.999999'",
                "'294276-12-31 23:59:59.999999'",
                "'infinity'",
                "'-infinity'",
            ],
            Type::Timestamptz => &[
                "'2024-02-29 12:00:00+00'",
                "'2024-01-05 00:00:00+00'",
                "'1970-01-01 00:00:00+00'",
                "'1969-12-31 23:59:59.999999+00'",
                "'2024-01-05 05:30:00+05:30'",
                "'2262-04-12 00:00:00+00'",
                "'0044-03-15 00:00:00+00 BC'",
                "'294276-12-31 00:00:00+00'",
                "'infinity'",
                "'-infinity'",
            ],
            Type::Bytea => {
                &["'\\x01'", "'\\x'", "'\\x00'", "'\\x0001'", "'\\xff'", "'\\xdeadbeef'", "'\\x61'"]
            }
            Type::Text => &[
                "'a'",
                "'b'",
                "'A'",
                "''",
                "'a '",
                "' a'",
                "'ab'",
                "'é'",
                "'日本'",
                "'x''y'",
                "E'x\\\\y'",
                "E'tab\\there'",
                "'%'",
                "'10'",
                "'NULL'",
                "'ß'",
                "'\u{1F600}'",
            ],
            Type::Varchar => {
                &["'a'", "'b'", "''", "'A'", "'a '", "'ab'", "'é'", "'日本'", "'10'", "E'n\\nl'"]
            }
            Type::Char => &["'a'", "'b'", "''", "'A'", "'ab'", "'é'", "'abcdef'", "' a'", "'10'"],
            Type::Scaled => &[
                "1",
                "2.50",
                "0",
                "-0.01",
                "10.00",
                "9999999999.99",
                "-9999999999.99",
                "0.1",
                "'NaN'",
                "3",
            ],
            Type::Numeric => &[
                "1",
                "1.0",
                "1.000",
                "0",
                "0.00",
                "-1",
                "10",
                "0.1",
                "123456789012345678901234567890.123456789",
                "1e-20",
                "'NaN'",
                "'infinity'",
                "'-infinity'",
            ],
            Type::Float4 => &[
                "1",
                "2",
                "0",
                "'-0'",
                "0.1",
                "'NaN'",
                "'infinity'",
                "'-infinity'",
                "3.4e38",
                "10",
            ],
            Type::Float8 => &[
                "1",
                "2",
                "0",
                "'-0'",
                "0.1",
                "'NaN'",
                "'infinity'",
                "'-infinity'",
                "1e308",
                "5e-324",
                "9007199254740993",
                "10",
            ],
            Type::Interval => &[
                "'1 day'",
                "'24:00:00'",
                "'1 mon'",
                "'30 days'",
                "'-1 day'",
                "'00:00:00'",
                "'1 year 2 mons -3 days 04:05:06.789'",
                "'178000000 years'",
            ],
            Type::Time => &[
                "'00:00:00'",
                "'12:00:00'",
                "'24:00:00'",
                "'12:34:56.789012'",
                "'23:59:59.999999'",
            ],
            Type::Jsonb => {
                &["'1'", "'1.0'", "'{}'", "'[]'", "'\"a\"'", "'null'", r#"'{"b": 2, "a": [true]}'"#]
            }
            Type::Ints => &[
                "'{1,2}'",
                "'{}'",
                "'{1,NULL}'",
                "'{{1,2},{3,4}}'",
                "'[0:1]={1,2}'",
                "'{2147483647}'",
            ],
            Type::Texts => {
                &["'{a,b}'", "'{}'", "'{\"x y\",NULL}'", "'{\"NULL\"}'", "'{é}'", "'{\"\"}'"]
            }
            Type::Inet => &[
                "'10.0.0.1'",
                "'10.0.0.0/8'",
                "'10.0.0.1/32'",
                "'::1'",
                "'2001:db8::/32'",
                "'0.0.0.0/0'",
            ],
            Type::Bits => &["'10101'", "'00000'", "'11111'", "'00001'"],
            Type::Mood => &MOODS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_several_values() {
        for kind in TYPES {
            let pool = kind.pool();
            assert!(pool.len() >= 2, "{kind:?}");
            let mut unique = pool.to_vec();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), pool.len(), "{kind:?}");
        }
    }
}
