//! PostgreSQL's types as the engine holds them.

use crate::GiveUp;
use arrow::datatypes::DataType;
use pgspan_sql::cause::Cause;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// A type as RowDescription names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnType {
    /// Type OID.
    pub oid: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
}

/// The display scale of all values of a numeric column: declared, or that of the first
/// value that a run sees, which all others must have.
#[derive(Debug, Clone)]
pub(crate) struct Scale(Arc<AtomicI32>);

const UNSEEN: i32 = i32::MIN;

/// The scales of one run, by those of the program that it runs.
#[derive(Default)]
pub(crate) struct OfRun(HashMap<*const AtomicI32, Scale>);

impl OfRun {
    /// Gives a column a scale of the run's own, the same as all that shared one.
    pub fn renew(&mut self, column: &mut Column) {
        if let Repr::Number { scale, declared: false } = &mut column.repr {
            let own = self.0.entry(Arc::as_ptr(&scale.0)).or_insert_with(Scale::unseen);
            *scale = own.clone();
        }
    }
}

impl Scale {
    pub fn fixed(scale: i32) -> Scale {
        Scale(Arc::new(AtomicI32::new(scale)))
    }

    pub fn unseen() -> Scale {
        Scale::fixed(UNSEEN)
    }

    /// Notes the scale of a value; false when another was noted before.
    pub fn admits(&self, scale: i32) -> bool {
        let noted = self.0.load(Ordering::Relaxed);
        if noted == scale {
            return true;
        }
        noted == UNSEEN
            && match self.0.compare_exchange(UNSEEN, scale, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => true,
                Err(now) => now == scale,
            }
    }

    /// The scale, if it is known already.
    pub fn known(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|s| *s != UNSEEN)
    }

    /// The scale; 0 when there was no value.
    pub fn get(&self) -> i32 {
        match self.0.load(Ordering::Relaxed) {
            UNSEEN => 0,
            scale => scale,
        }
    }
}

/// How a column's values are held.
#[derive(Debug, Clone)]
pub(crate) enum Repr {
    /// Integers, dates and times of any width: PostgreSQL compares all of them as the
    /// integers that they are on the wire, infinities included.
    Int,
    /// Booleans.
    Bool,
    /// Numerics without their decimal point.
    Number {
        scale: Scale,
        /// The scale is declared, so that equal values have equal integers.
        declared: bool,
    },
    /// Numerics of which only the value is known, not the display scale: they are compared,
    /// and never leave the engine.
    Quotient {
        /// Digits behind the point.
        scale: i32,
    },
    /// The bytes as PostgreSQL sent them; equal values have equal bytes.
    Exact,
    /// The bytes as PostgreSQL sent them, never compared.
    Opaque,
}

/// A column of an operator's output.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub oid: u32,
    pub typmod: i32,
    pub repr: Repr,
}

/// Decimal digits that an unconstrained numeric may have, so that the sum of ten thousand
/// million of them still fits in 38.
pub(crate) const DIGITS_MAX: u32 = 28;

impl Column {
    pub fn of(t: ColumnType) -> Result<Column, GiveUp> {
        let repr = match t.oid {
            16 => Repr::Bool,
            20 | 21 | 23 | 26 | 1082 | 1083 | 1114 | 1184 => Repr::Int,
            1700 => match declared_scale(t.typmod) {
                Some(scale) => Repr::Number { scale: Scale::fixed(scale), declared: true },
                None => Repr::Number { scale: Scale::unseen(), declared: false },
            },
            // Without a length blanks at the end are kept, but do not count.
            1042 if t.typmod < 4 => Repr::Opaque,
            17 | 25 | 1042 | 1043 | 2950 => Repr::Exact,
            oid if array_type(oid).is_some() => Repr::Opaque,
            oid => {
                return Err(GiveUp::new(Cause::TypeNotCarried, oid.to_string()));
            }
        };
        Ok(Column { oid: t.oid, typmod: t.typmod, repr })
    }

    /// A column that nothing compares or computes with: numerics stay what they are.
    pub fn carried(t: ColumnType) -> Result<Column, GiveUp> {
        let column = Column::of(t)?;
        Ok(match column.repr {
            Repr::Number { .. } => Column { repr: Repr::Opaque, ..column },
            _ => column,
        })
    }

    pub fn int8() -> Column {
        Column { oid: 20, typmod: -1, repr: Repr::Int }
    }

    /// Arrow's type for what is held.
    pub fn data_type(&self) -> DataType {
        match self.repr {
            Repr::Int => DataType::Int64,
            Repr::Bool => DataType::Boolean,
            Repr::Number { .. } | Repr::Quotient { .. } => DataType::Decimal128(38, 0),
            Repr::Exact | Repr::Opaque => DataType::Binary,
        }
    }

    /// Whether rows may be matched or grouped by it.
    pub fn is_key(&self) -> bool {
        match self.repr {
            // All numbers of a column have one scale, or the statement is given up.
            Repr::Int | Repr::Bool | Repr::Exact | Repr::Number { .. } => true,
            Repr::Opaque | Repr::Quotient { .. } => false,
        }
    }

    /// The column of the rows of both.
    ///
    /// # Errors
    /// What is held would not say the same of both: numerics of different scales, texts of
    /// different lengths where blanks count.
    pub fn united(&self, other: &Column) -> Result<Column, GiveUp> {
        let same = match (&self.repr, &other.repr) {
            (
                Repr::Number { scale: a, declared: true },
                Repr::Number { scale: b, declared: true },
            ) => a.known().is_some() && a.known() == b.known(),
            (Repr::Int, Repr::Int) | (Repr::Bool, Repr::Bool) => true,
            (Repr::Exact, Repr::Exact) | (Repr::Opaque, Repr::Opaque) => {
                self.oid != 1042 || self.typmod == other.typmod
            }
            _ => false,
        };
        if !same || self.oid != other.oid {
            return Err(GiveUp::new(Cause::UnionDiffers, self.oid.to_string()));
        }
        let typmod = if self.typmod == other.typmod { self.typmod } else { -1 };
        Ok(Column { typmod, ..self.clone() })
    }

    /// Whether equality with another column is equality of what is held.
    pub fn joins(&self, other: &Column) -> bool {
        let integer = |c: &Column| matches!(c.oid, 20 | 21 | 23);
        let text = |c: &Column| matches!(c.oid, 25 | 1043);
        match (&self.repr, &other.repr) {
            (
                Repr::Number { scale: a, declared: true },
                Repr::Number { scale: b, declared: true },
            ) => a.get() == b.get(),
            (Repr::Number { .. } | Repr::Quotient { .. } | Repr::Opaque, _) => false,
            // Blanks at the end count only between different lengths.
            _ if self.oid == 1042 => other.oid == 1042 && self.typmod == other.typmod,
            _ => {
                self.oid == other.oid
                    || (integer(self) && integer(other))
                    || (text(self) && text(other))
            }
        }
    }
}

/// The scale in a numeric's modifier (numeric.c: `numeric_typmod_scale`), if it is one that
/// the engine holds.
fn declared_scale(typmod: i32) -> Option<i32> {
    if typmod < 4 {
        return None;
    }
    let value = typmod - 4;
    let precision = (value >> 16) & 0xffff;
    let scale = ((value & 0x7ff) ^ 1024) - 1024;
    let held =
        u32::try_from(precision).is_ok_and(|p| p <= DIGITS_MAX) && (0..=precision).contains(&scale);
    held.then_some(scale)
}

/// Built-in types whose binary form carries over between databases (pg_type.dat): OID, OID
/// of the array type, name.
const CARRIED: &[(u32, u32, &str)] = &[
    (16, 1000, "bool"),
    (17, 1001, "bytea"),
    (20, 1016, "int8"),
    (21, 1005, "int2"),
    (23, 1007, "int4"),
    (25, 1009, "text"),
    (26, 1028, "oid"),
    (114, 199, "json"),
    (700, 1021, "float4"),
    (701, 1022, "float8"),
    (829, 1040, "macaddr"),
    (869, 1041, "inet"),
    (650, 651, "cidr"),
    (1042, 1014, "bpchar"),
    (1043, 1015, "varchar"),
    (1082, 1182, "date"),
    (1083, 1183, "time"),
    (1114, 1115, "timestamp"),
    (1184, 1185, "timestamptz"),
    (1186, 1187, "interval"),
    (1266, 1270, "timetz"),
    (1560, 1561, "bit"),
    (1562, 1563, "varbit"),
    (1700, 1231, "numeric"),
    (2950, 2951, "uuid"),
    (3802, 3807, "jsonb"),
];

/// A value in the binary form of its type as it would be after its way over text, which is
/// postgres_fdw's: of a float that is not a number nothing else is left, as `float8in` and
/// `float4in` give it. `None`: its text cannot be read (an interval of so many microseconds
/// that is not one of the infinite ones).
pub fn through_text(oid: u32, value: &[u8]) -> Option<&[u8]> {
    const NAN_8: &[u8] = &0x7ff8_0000_0000_0000_u64.to_be_bytes();
    const NAN_4: &[u8] = &0x7fc0_0000_u32.to_be_bytes();
    const INFINITE_PAST: [u8; 8] = [0x80, 0, 0, 0, 0x80, 0, 0, 0];
    match (oid, value) {
        (701, _) => match value.try_into().map(f64::from_be_bytes) {
            Ok(float) if float.is_nan() => Some(NAN_8),
            _ => Some(value),
        },
        (700, _) => match value.try_into().map(f32::from_be_bytes) {
            Ok(float) if float.is_nan() => Some(NAN_4),
            _ => Some(value),
        },
        (1186, [0x80, 0, 0, 0, 0, 0, 0, 0, rest @ ..]) => (*rest == INFINITE_PAST).then_some(value),
        _ => Some(value),
    }
}

/// The OID of the array type of a type that is carried; `None` for all others.
pub fn array_type(oid: u32) -> Option<u32> {
    CARRIED.iter().find(|(own, ..)| *own == oid).map(|(_, array, _)| *array)
}

/// Such a type's name as SQL, for a cast that no search path changes.
pub(crate) fn type_name(oid: u32) -> Option<&'static str> {
    CARRIED.iter().find(|(own, ..)| *own == oid).map(|(.., name)| *name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn what_text_gives() {
        let odd = (-f64::NAN).to_be_bytes();
        assert_eq!(through_text(701, &odd), Some(&f64::NAN.to_be_bytes()[..]));
        assert_eq!(
            through_text(700, &(-f32::NAN).to_be_bytes()),
            Some(&f32::NAN.to_be_bytes()[..])
        );
        assert_eq!(through_text(20, &odd), Some(&odd[..]));
        for number in [0.0, -0.0, 1.5, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(through_text(701, &number.to_be_bytes()), Some(&number.to_be_bytes()[..]));
        }
        let interval = |time: i64, day: i32, month: i32| {
            [&time.to_be_bytes()[..], &day.to_be_bytes(), &month.to_be_bytes()].concat()
        };
        assert_eq!(through_text(1186, &interval(i64::MIN, 0, 0)), None);
        for held in [interval(i64::MIN, i32::MIN, i32::MIN), interval(i64::MIN + 1, 0, 0)] {
            assert_eq!(through_text(1186, &held), Some(&held[..]));
        }
    }

    #[test]
    fn scales_of_modifiers() {
        // numeric(10,2), numeric(5,0), none, numeric(3,-2), numeric(38,2)
        assert_eq!(declared_scale(((10 << 16) | 2) + 4), Some(2));
        assert_eq!(declared_scale((5 << 16) + 4), Some(0));
        assert_eq!(declared_scale(-1), None);
        assert_eq!(declared_scale(((3 << 16) | (-2 & 0x7ff)) + 4), None);
        assert_eq!(declared_scale(((38 << 16) | 2) + 4), None);
    }

    #[test]
    fn one_scale_for_all() {
        let s = Scale::unseen();
        assert!(s.admits(4) && s.admits(4) && !s.admits(2));
        assert_eq!(s.get(), 4);
    }

    #[test]
    fn a_scale_is_that_of_a_run() {
        let column = Column::of(ColumnType { oid: 1700, typmod: -1 }).unwrap();
        let scale = |c: &Column| match &c.repr {
            Repr::Number { scale, .. } => scale.clone(),
            other => panic!("{other:?}"),
        };
        assert!(scale(&column).admits(4));
        let (mut input, mut output) = (column.clone(), column.clone());
        let mut of_run = OfRun::default();
        of_run.renew(&mut input);
        of_run.renew(&mut output);
        assert!(scale(&input).admits(2) && !scale(&output).admits(4));
        assert_eq!(scale(&column).get(), 4);
    }
}
