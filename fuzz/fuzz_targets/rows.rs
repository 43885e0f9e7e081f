//! Rows of COPY's binary format and of DataRow: whatever the bytes are, the engine's
//! decoder ends without a panic, and the rows that it accepts are encoded to the bytes
//! that came, wherever PostgreSQL itself could have sent them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgspan_engine::{ColumnType, round_trip};

/// Every type that the engine holds, by how it holds it; numerics with and without a
/// declared scale.
const TYPES: [(u32, i32); 14] = [
    (16, -1),
    (20, -1),
    (21, -1),
    (23, -1),
    (26, -1),
    (1082, -1),
    (1184, -1),
    (25, -1),
    (17, -1),
    (2950, -1),
    (1007, -1),
    (1042, 9),
    (1700, -1),
    (1700, ((10 << 16) | 2) + 4),
];

fuzz_target!(|data: &[u8]| {
    // How many columns, their types, and how long each row is; the rest is rows.
    let Some((&count, rest)) = data.split_first() else { return };
    let count = usize::from(count % 6);
    let Some((types, mut rest)) = rest.split_at_checked(count) else { return };
    let types: Vec<ColumnType> = types
        .iter()
        .map(|t| TYPES[usize::from(*t) % TYPES.len()])
        .map(|(oid, typmod)| ColumnType { oid, typmod })
        .collect();
    let mut rows: Vec<&[u8]> = Vec::new();
    while let Some((&length, more)) = rest.split_first() {
        let (row, more) = more.split_at(more.len().min(usize::from(length)));
        rows.push(row);
        rest = more;
    }
    let Ok(arrays) = round_trip(&types, &rows) else { return };
    assert_eq!(arrays.len(), types.len());
    for (at, (array, t)) in arrays.iter().zip(&types).enumerate() {
        let fields: Vec<Option<&[u8]>> = rows.iter().map(|row| field(row, at)).collect();
        let sent = fields.iter().flatten().all(|field| canonical(field, t.oid));
        if sent && !rows.is_empty() {
            assert_eq!(values(array), fields, "{t:?}");
        }
    }
});

/// A field of a row that was accepted; `None` is NULL.
fn field(row: &[u8], at: usize) -> Option<&[u8]> {
    let mut rest = &row[2..];
    for place in 0..=at {
        let (length, after) = rest.split_first_chunk::<4>().expect("an accepted row");
        let value = usize::try_from(i32::from_be_bytes(*length)).ok().map(|n| &after[..n]);
        if place == at {
            return value;
        }
        rest = &after[value.map_or(0, <[u8]>::len)..];
    }
    None
}

/// The values of an array in the form of `array_send`.
fn values(array: &[u8]) -> Vec<Option<&[u8]>> {
    let mut rest = &array[20..];
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let value = usize::try_from(i32::from_be_bytes(*length)).ok().map(|n| &after[..n]);
        rest = &after[value.map_or(0, <[u8]>::len)..];
        out.push(value);
    }
    out
}

/// Whether PostgreSQL sends a value in this form: booleans are 0 or 1; numerics have no
/// zero digits at either end, digits below 10,000, none behind the display scale, no
/// negative zero, and a display scale of at most 16,383.
fn canonical(value: &[u8], oid: u32) -> bool {
    if oid == 16 {
        return matches!(value, [0 | 1]);
    }
    if oid != 1700 {
        return true;
    }
    let word = |at: usize| u16::from_be_bytes([value[at], value[at + 1]]);
    let (count, weight, sign, scale) = (usize::from(word(0)), word(2) as i16, word(4), word(6));
    let digits: Vec<u16> = (8..value.len().saturating_sub(1)).step_by(2).map(word).collect();
    if value.len() != 8 + 2 * count || scale > 16_383 {
        return false;
    }
    let (Some(first), Some(last)) = (digits.first(), digits.last()) else {
        return weight == 0 && sign == 0;
    };
    // Decimal places of the last digit, the zeros at its end not counted.
    let mut zeros = 0;
    while last / 10u16.pow(zeros) % 10 == 0 && zeros < 4 {
        zeros += 1;
    }
    let places = 4 * (count as i32 - 1 - i32::from(weight)) - zeros as i32;
    *first != 0 && *last != 0 && digits.iter().all(|d| *d < 10_000) && places <= i32::from(scale)
}
