//! PostgreSQL's binary form of a value → its text form, for the types whose text is decided
//! by the value alone, or by `DateStyle = ISO` (the types' `…_send` and `…_out` functions).

use std::io::Write as _;

/// Whether [`text`] knows the type.
pub(crate) fn known(oid: u32) -> bool {
    is_date(oid)
        || matches!(oid, 16 | 20 | 21 | 23 | 25 | 26 | 114 | 1042 | 1043 | 1083 | 1700)
        || matches!(oid, 2950 | 3802)
}

/// Whether a type's text depends on `DateStyle`.
pub(crate) fn is_date(oid: u32) -> bool {
    matches!(oid, 1082 | 1114)
}

/// Appends the text form of a value. `None`: not a value of that type, which would be a
/// defect.
pub(crate) fn text(out: &mut Vec<u8>, oid: u32, value: &[u8]) -> Option<()> {
    match oid {
        16 => out.push(if value == [1] { b't' } else { b'f' }),
        21 => write!(out, "{}", i16::from_be_bytes(value.try_into().ok()?)).ok()?,
        23 => write!(out, "{}", i32::from_be_bytes(value.try_into().ok()?)).ok()?,
        26 => write!(out, "{}", u32::from_be_bytes(value.try_into().ok()?)).ok()?,
        20 => write!(out, "{}", i64::from_be_bytes(value.try_into().ok()?)).ok()?,
        25 | 114 | 1042 | 1043 => out.extend_from_slice(value),
        // A version in front of the text (jsonb.c: `jsonb_send`).
        3802 => out.extend_from_slice(value.strip_prefix(&[1])?),
        1082 => date(out, i32::from_be_bytes(value.try_into().ok()?))?,
        1083 => time(out, i64::from_be_bytes(value.try_into().ok()?))?,
        1114 => timestamp(out, i64::from_be_bytes(value.try_into().ok()?))?,
        1700 => numeric(out, value)?,
        2950 => {
            for (i, byte) in <[u8; 16]>::try_from(value).ok()?.iter().enumerate() {
                out.extend_from_slice(if matches!(i, 4 | 6 | 8 | 10) { b"-" } else { b"" });
                write!(out, "{byte:02x}").ok()?;
            }
        }
        _ => return None,
    }
    Some(())
}

/// numeric.c: `get_str_from_var`, from the form of `numeric_send`.
fn numeric(out: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    let (head, rest) = value.split_first_chunk::<8>()?;
    let weight = i32::from(i16::from_be_bytes([head[2], head[3]]));
    match u16::from_be_bytes([head[4], head[5]]) {
        0 => {}
        0x4000 => out.push(b'-'),
        0xC000 => return word(out, "NaN"),
        0xD000 => return word(out, "Infinity"),
        0xF000 => return word(out, "-Infinity"),
        _ => return None,
    }
    let scale = i32::from(u16::from_be_bytes([head[6], head[7]]));
    let digit = |place: i32| -> u16 {
        let at = usize::try_from(place).ok().and_then(|p| rest.get(2 * p..2 * p + 2));
        at.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
    };
    if weight < 0 {
        out.push(b'0');
    } else {
        write!(out, "{}", digit(0)).ok()?;
        (1..=weight).try_for_each(|place| write!(out, "{:04}", digit(place)).ok())?;
    }
    if scale > 0 {
        out.push(b'.');
        let whole = out.len();
        let places = (scale + 3) / 4;
        (0..places).try_for_each(|p| write!(out, "{:04}", digit(weight + 1 + p)).ok())?;
        out.truncate(whole + usize::try_from(scale).ok()?);
    }
    Some(())
}

fn word(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// Days from PostgreSQL's epoch, 2000-01-01, to Julian day 0 (datetime.h).
const EPOCH_JULIAN: i64 = 2_451_545;
/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

fn date(out: &mut Vec<u8>, days: i32) -> Option<()> {
    match days {
        i32::MAX => word(out, "infinity"),
        i32::MIN => word(out, "-infinity"),
        _ => {
            let before = day(out, i64::from(days))?;
            word(out, before)
        }
    }
}

fn timestamp(out: &mut Vec<u8>, micros: i64) -> Option<()> {
    match micros {
        i64::MAX => word(out, "infinity"),
        i64::MIN => word(out, "-infinity"),
        _ => {
            let before = day(out, micros.div_euclid(DAY))?;
            out.push(b' ');
            time(out, micros.rem_euclid(DAY))?;
            word(out, before)
        }
    }
}

/// Year, month and day; gives what stands at the end of the text for years before 1.
fn day(out: &mut Vec<u8>, days: i64) -> Option<&'static str> {
    let (year, month, day) = calendar(days + EPOCH_JULIAN);
    // There is no year 0.
    let (year, before) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{year:04}-{month:02}-{day:02}").ok()?;
    Some(before)
}

/// A Julian day in the proleptic Gregorian calendar (year, month, day), by counting from
/// 0000-03-01, so that a leap day is the last of its year.
fn calendar(julian: i64) -> (i64, i64, i64) {
    /// Julian day of 0000-03-01.
    const MARCH: i64 = 1_721_120;
    const CENTURIES: i64 = 146_097;
    let days = julian - MARCH;
    let era = days.div_euclid(CENTURIES);
    let of_era = days.rem_euclid(CENTURIES);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, and so again.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// Hours, minutes, seconds, and microseconds without zeros at their end.
fn time(out: &mut Vec<u8>, micros: i64) -> Option<()> {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    write!(out, "{hours:02}:{minutes:02}:{:02}", seconds % 60).ok()?;
    if fraction > 0 {
        write!(out, ".{fraction:06}").ok()?;
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::text;
    use crate::decode::tests::numeric;

    fn of(oid: u32, value: &[u8]) -> String {
        let mut out = Vec::new();
        text(&mut out, oid, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numerics() {
        let n = |weight: i16, sign: u16, scale: u16, digits: &[u16]| {
            of(1700, &numeric(weight, sign, scale, digits))
        };
        assert_eq!(n(1, 0, 2, &[1, 2345, 6700]), "12345.67");
        assert_eq!(n(-1, 0x4000, 2, &[100]), "-0.01");
        assert_eq!(n(-2, 0, 5, &[1000]), "0.00001");
        assert_eq!(n(2, 0, 0, &[1]), "100000000");
        assert_eq!(n(0, 0, 2, &[]), "0.00");
        assert_eq!(n(0, 0, 7, &[3, 1415, 9260]), "3.1415926");
        assert_eq!(n(0, 0xC000, 0, &[]), "NaN");
        assert_eq!(n(0, 0xF000, 0, &[]), "-Infinity");
    }

    #[test]
    fn dates_and_times() {
        let d = |days: i32| of(1082, &days.to_be_bytes());
        assert_eq!([d(0), d(-1), d(59)], ["2000-01-01", "1999-12-31", "2000-02-29"]);
        assert_eq!([d(-730_119), d(-730_120)], ["0001-01-01", "0001-12-31 BC"]);
        // The first and the last (datatype-datetime).
        assert_eq!([d(-2_451_545), d(2_145_031_948)], ["4714-11-24 BC", "5874897-12-31"]);
        assert_eq!([d(i32::MAX), d(i32::MIN)], ["infinity", "-infinity"]);
        let t = |micros: i64| of(1114, &micros.to_be_bytes());
        assert_eq!(t(0), "2000-01-01 00:00:00");
        assert_eq!(t(-1), "1999-12-31 23:59:59.999999");
        assert_eq!(t(-63_082_281_600_000_000 - 500_000), "0001-12-31 23:59:59.5 BC");
        assert_eq!(of(1083, &86_400_000_000i64.to_be_bytes()), "24:00:00");
        assert_eq!(of(1083, &10i64.to_be_bytes()), "00:00:00.00001");
    }

    #[test]
    fn the_rest() {
        assert_eq!(of(16, &[1]), "t");
        assert_eq!(of(26, &[255, 255, 255, 255]), "4294967295");
        assert_eq!(of(3802, b"\x01{\"a\": 1}"), "{\"a\": 1}");
        let uuid: Vec<u8> = (0..16).collect();
        assert_eq!(of(2950, &uuid), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert!(text(&mut Vec::new(), 23, &[0]).is_none());
    }
}
