//! Message decoders: whatever the bytes are, no decoder panics, framing makes
//! progress, and what was decoded and is encoded again is decoded to the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend::{Bind, Execute, Parse, Target};
use pgspan_wire::{frame, frontend, scram, startup};

fuzz_target!(|data: &[u8]| {
    let mut packet = BytesMut::from(data);
    let _ = startup::take(&mut packet);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = scram::Secret::parse(text);
    }
    let mut stream = BytesMut::from(data);
    while let Ok(Some(frame)) = frame::take(&mut stream) {
        assert_eq!(frame.raw.len(), frame.body().len() + frame::HEADER_BYTES);
        one(frame.tag, frame.body());
    }
});

fn one(tag: u8, body: Bytes) {
    let mut again = BytesMut::new();
    match tag {
        b'P' => {
            if let Ok(parse) = Parse::decode(body)
                && let Ok(sql) = std::str::from_utf8(&parse.sql)
            {
                let oids: Vec<u32> = parse.param_oids.clone();
                frontend::parse(&mut again, &parse.name, sql, &oids);
                let read = Parse::decode(whole(again)).expect("what was encoded is decoded");
                assert_eq!((read.name, read.sql, read.param_oids), (parse.name, parse.sql, oids));
            }
        }
        b'B' => drop(Bind::decode(body)),
        b'D' | b'C' => drop(Target::decode(tag, body)),
        b'E' => {
            let _ = Execute::decode(body.clone());
            error(body);
        }
        b'N' => error(body),
        b'T' => {
            if let Ok(columns) = backend::row_description(body) {
                backend::put_row_description(&mut again, &columns);
                let read = backend::row_description(whole(again)).expect("decoded again");
                assert_eq!(format!("{read:?}"), format!("{columns:?}"));
            }
        }
        b'd' => {
            if let Ok(row) = backend::data_row(body) {
                backend::put_data_row(&mut again, &row);
                assert_eq!(backend::data_row(whole(again)).expect("decoded again"), row);
            }
        }
        b't' => drop(backend::parameter_description(body)),
        _ => {}
    }
}

/// The body of the only message in a buffer.
fn whole(mut buffer: BytesMut) -> Bytes {
    let frame = frame::take(&mut buffer).expect("a frame").expect("a whole one");
    assert!(buffer.is_empty());
    frame.body()
}

fn error(body: Bytes) {
    if let Ok(fields) = ErrorFields::decode(body) {
        let (_, _) = (fields.sqlstate(), fields.message());
        let mut again = BytesMut::new();
        fields.put(&mut again);
        let read = ErrorFields::decode(whole(again)).expect("what was encoded is decoded");
        assert_eq!(read.sqlstate(), fields.sqlstate());
    }
}
