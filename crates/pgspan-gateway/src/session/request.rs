//! What the client has prepared, and the shape of a batch.

use crate::budget::{Budget, Share};
use crate::sources::Fingerprint;
use bytes::Bytes;
use pgspan_sql::{ask, effect};
use pgspan_wire::WireError;
use pgspan_wire::frame::{Fields, Frame, HEADER_BYTES};
use pgspan_wire::frontend::{Bind, Execute, Parse, Target};
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A prepared statement of the client.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub sql: Bytes,
    pub param_oids: Arc<[u32]>,
    /// Its text names a foreign table.
    pub foreign: bool,
    /// What home has read it under; `None` when that is not known.
    pub reading: Option<Reading>,
    /// Of `limits.prepared_bytes_max`.
    _share: Arc<Share>,
}

impl Prepared {
    /// One of which it is not known what home reads it under.
    pub fn new(sql: Bytes, param_oids: Arc<[u32]>, foreign: bool, share: Share) -> Prepared {
        Prepared { sql, param_oids, foreign, reading: None, _share: Arc::new(share) }
    }

    pub fn text(&self) -> Text {
        (self.sql.clone(), self.param_oids.clone())
    }
}

/// What decides how a text is read at Parse: settings, what names mean, and what the server
/// reports of its settings by itself. Home reads a prepared statement once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading([Bytes; 3]);

impl Reading {
    /// The part of a fingerprint that decides it.
    pub fn of(fingerprint: &Fingerprint) -> Reading {
        let [settings, names, _, _, reported] = fingerprint;
        let settings = settings.slice_ref(ask::without_role(settings));
        // Home reads a text anew whose tables' columns change: the last item.
        let columns = names.iter().rposition(|byte| *byte == b'|').unwrap_or(names.len());
        Reading([settings, names.slice(..columns), reported.clone()])
    }

    /// Whether these are its settings: column 1 of a fingerprint, and the reported ones.
    pub fn has_settings(&self, settings: &Bytes, reported: &Bytes) -> bool {
        self.0[0][..] == *ask::without_role(settings) && self.0[2] == *reported
    }

    /// Whether a text is read the same under both.
    pub fn same(&self, other: &Reading, has_literals: bool) -> bool {
        if has_literals { self == other } else { self.0[1] == other.0[1] }
    }
}

/// Statements by name; the empty name is the unnamed statement.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    by_name: HashMap<String, Prepared>,
    foreign: usize,
}

impl Statements {
    pub fn insert(&mut self, name: &str, prepared: Prepared) {
        self.remove(name);
        self.foreign += usize::from(prepared.foreign);
        self.by_name.insert(name.to_owned(), prepared);
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(old) = self.by_name.remove(name) {
            self.foreign -= usize::from(old.foreign);
        }
    }

    /// What a batch would have prepared that home does not get.
    pub fn forget(&mut self, frames: &[Frame]) {
        for frame in frames {
            if let Some(name) = parsed_name(frame.tag, &frame.raw) {
                self.remove(&name);
            }
        }
    }

    /// Drops those whose names are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.by_name.retain(|name, _| keep(name));
        self.foreign = self.by_name.values().filter(|p| p.foreign).count();
    }

    /// Home was given a statement under settings that nobody knows; `None`: one of them.
    pub fn read_unseen(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.read(name, None),
            None => self.by_name.values_mut().for_each(|p| p.reading = None),
        }
    }

    /// Notes what home has read a statement under.
    pub fn read(&mut self, name: &str, reading: Option<Reading>) {
        if let Some(prepared) = self.by_name.get_mut(name) {
            prepared.reading = reading;
        }
    }

    pub fn get(&self, name: &str) -> Option<&Prepared> {
        self.by_name.get(name)
    }

    /// Whether any of them names a foreign table.
    pub fn any_foreign(&self) -> bool {
        self.foreign > 0
    }
}

/// The statement that a whole Parse message names.
pub(super) fn parsed_name(tag: u8, raw: &[u8]) -> Option<String> {
    let name = first_text(raw).filter(|_| tag == b'P')?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The statement that a message closes.
pub(super) fn closed_name(frame: &Frame) -> Option<String> {
    let target = (frame.tag == b'C').then(|| Target::decode(frame.tag, frame.body()));
    match target {
        Some(Ok(Target::Statement(name))) => Some(name),
        _ => None,
    }
}

/// What a message runs: the text, and the types that were named for its parameters.
pub(crate) type Text = (Bytes, Arc<[u32]>);

/// The texts of a batch, of what it parses and of what it runs, in order; `None`: not known.
pub(super) fn texts(frames: &[Frame], bound: &[Option<Text>]) -> Vec<Option<Bytes>> {
    let mut portals = HashSet::new();
    let text = |(frame, bound): (&Frame, &Option<Text>)| {
        let name = || Fields::new(frame.tag, frame.body()).text().ok();
        match frame.tag {
            b'P' => Some(Parse::decode(frame.body()).ok().map(|p| p.sql)),
            b'B' => {
                portals.extend(name());
                Some(bound.as_ref().map(|(sql, _)| sql.clone()))
            }
            // Of a portal that was there before.
            b'E' => name().is_none_or(|name| !portals.contains(&name)).then_some(None),
            _ => None,
        }
    };
    frames.iter().zip(bound).filter_map(text).collect()
}

/// Whether what messages bind is executed at once, where it may end the transaction or do
/// something with a savepoint: a portal that waits may be executed in another order, later, or
/// never.
#[derive(Debug, Default)]
pub(crate) struct Executed {
    /// The portal that waits for its Execute.
    waiting: Option<Vec<u8>>,
}

impl Executed {
    /// The next message, and what it runs, if it binds a statement that is known. `false`: the
    /// Bind before it left a portal waiting, and this message does not execute it.
    pub fn follows(&mut self, tag: u8, raw: &[u8], bound: Option<&Text>) -> bool {
        match tag {
            b'B' => {
                let steps = bound.is_none_or(|(sql, _)| effect::may_step(sql));
                let portal = first_text(raw).filter(|_| steps).map(<[u8]>::to_vec);
                std::mem::replace(&mut self.waiting, portal).is_none()
            }
            b'E' => self.waiting.take().is_none_or(|waiting| Some(&waiting[..]) == first_text(raw)),
            b'S' | b'Q' => self.waiting.take().is_none(),
            _ => true,
        }
    }
}

/// Whether nothing is left waiting in a batch, or in a piece of one.
pub(super) fn executes(frames: &[Frame], bound: &[Option<Text>]) -> bool {
    let mut executed = Executed::default();
    let mut follows =
        |(f, bound): (&Frame, &Option<Text>)| executed.follows(f.tag, &f.raw, bound.as_ref());
    frames.iter().zip(bound).all(&mut follows) && executed.waiting.is_none()
}

/// The text that a whole message begins with.
pub(super) fn first_text(raw: &[u8]) -> Option<&[u8]> {
    nth_text(raw.get(HEADER_BYTES..)?, 0)
}

/// The text of this number among those that the body of a message begins with.
pub(super) fn nth_text(body: &[u8], n: usize) -> Option<&[u8]> {
    let mut texts = body.split(|byte| *byte == 0);
    let text = texts.nth(n)?;
    // The last is not ended by a zero.
    texts.next().map(|_| text)
}

/// Whether a statement is bound in a batch.
pub(super) fn binds(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| frame.tag == b'B')
}

/// What each message of a batch runs that binds a statement: what the last Parse of the name
/// in front of it prepares, else what is `known` of what was prepared before the batch.
/// `None`: nothing, as where the name is parsed or closed behind it, which who knows has noted
/// already; and for every other message.
pub(crate) fn bound(frames: &[Frame], known: impl Fn(&str) -> Option<Text>) -> Vec<Option<Text>> {
    let parsed = |f: &Frame| Parse::decode(f.body()).ok();
    let mut touched = HashSet::new();
    for f in frames {
        match f.tag {
            b'P' => touched.extend(parsed(f).map(|p| p.name)),
            _ => touched.extend(closed_name(f)),
        }
    }
    let mut now: HashMap<String, Option<Text>> = HashMap::new();
    let run = |f: &Frame, now: &HashMap<String, Option<Text>>| {
        let mut fields = Fields::new(b'B', f.body());
        let _portal = fields.cstr().ok()?;
        let name = fields.text().ok()?;
        match now.get(&name) {
            Some(text) => text.clone(),
            None if touched.contains(&name) => None,
            None => known(&name),
        }
    };
    let mut found = Vec::with_capacity(frames.len());
    for f in frames {
        let mut text = None;
        match f.tag {
            b'P' => drop(parsed(f).map(|p| now.insert(p.name, Some((p.sql, p.param_oids.into()))))),
            b'B' => text = run(f, &now),
            _ => drop(closed_name(f).map(|name| now.insert(name, None))),
        }
        found.push(text);
    }
    found
}

/// Messages held back until their batch is whole.
#[derive(Debug, Default)]
pub(crate) struct Held {
    frames: Vec<Frame>,
    /// Of `limits.held_bytes_max`, once there is something.
    share: Option<Share>,
    bytes: usize,
    binds: usize,
}

impl Held {
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.raw.len();
        self.binds += usize::from(frame.tag == b'B');
        self.frames.push(frame);
    }

    pub fn take(&mut self) -> Taken {
        let held = std::mem::take(self);
        Taken { frames: held.frames, _share: held.share }
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether the batch is whole.
    pub fn is_whole(&self) -> bool {
        self.frames.last().is_some_and(|f| f.tag == b'S')
    }

    /// Whether there is room for what is held, and so many bytes more.
    pub fn has_room(&mut self, more: usize, budget: &Arc<Budget>) -> bool {
        self.share.get_or_insert_with(|| budget.share()).resize(self.bytes + more)
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it executes more than one statement, which makes it home's.
    pub fn is_pipeline(&self) -> bool {
        self.binds > 1
    }
}

/// Messages that were held, with their part of `limits.held_bytes_max` for as long as somebody
/// works on them.
#[derive(Debug)]
pub(crate) struct Taken {
    frames: Vec<Frame>,
    _share: Option<Share>,
}

impl Deref for Taken {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.frames
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut [Frame] {
        &mut self.frames
    }
}

/// Whether a message is part of a batch of the extended protocol, as Sync and Flush are.
pub(super) fn is_of_batch(tag: u8) -> bool {
    b"PBDECSH".contains(&tag)
}

/// A batch that executes one statement once: `[Parse] [Describe S] Bind [Describe P]
/// Execute [Close…] Sync`, or its part after an earlier Parse.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Parse and Describe of a statement, to be relayed first.
    pub head: Vec<Frame>,
    pub bind: Bind,
    pub describe: bool,
    pub max_rows: i32,
    /// Close messages after Execute.
    pub tail: Vec<Frame>,
}

/// Reads a held batch (Sync included). `None`: another shape, to be relayed.
pub(crate) fn batch(frames: &[Frame]) -> Result<Option<Batch>, WireError> {
    let mut rest = frames.iter().peekable();
    let mut head = Vec::new();
    while let Some(f) = rest.peek() {
        let keep = match f.tag {
            b'P' => head.is_empty(),
            b'D' => matches!(Target::decode(b'D', f.body())?, Target::Statement(_)),
            _ => false,
        };
        if !keep {
            break;
        }
        head.push((*f).clone());
        rest.next();
    }
    let Some(b) = rest.next().filter(|f| f.tag == b'B') else { return Ok(None) };
    let bind = Bind::decode(b.body())?;
    if let Some(p) = head.first().filter(|f| f.tag == b'P')
        && Parse::decode(p.body())?.name != bind.statement
    {
        return Ok(None);
    }
    let mut describe = false;
    if let Some(d) = rest.next_if(|f| f.tag == b'D') {
        if Target::decode(b'D', d.body())? != Target::Portal(bind.portal.clone()) {
            return Ok(None);
        }
        describe = true;
    }
    let Some(e) = rest.next().filter(|f| f.tag == b'E') else { return Ok(None) };
    let execute = Execute::decode(e.body())?;
    if execute.portal != bind.portal {
        return Ok(None);
    }
    let mut tail = Vec::new();
    while let Some(c) = rest.next_if(|f| f.tag == b'C') {
        tail.push(c.clone());
    }
    let ends = rest.next().is_some_and(|f| f.tag == b'S') && rest.next().is_none();
    Ok(ends.then_some(Batch { head, bind, describe, max_rows: execute.max_rows, tail }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgspan_wire::{frame, frontend};

    fn frames(build: impl FnOnce(&mut BytesMut)) -> Vec<Frame> {
        let mut buf = BytesMut::new();
        build(&mut buf);
        let mut out = Vec::new();
        while let Some(f) = frame::take(&mut buf).unwrap() {
            out.push(f);
        }
        out
    }

    const NONE: &[Option<&[u8]>] = &[];

    #[test]
    fn a_bind_means_the_parse_in_front_of_it() {
        let mut statements = Statements::default();
        let budget = Budget::new(1000);
        for name in ["", "s", "t"] {
            let prepared =
                Prepared::new(Bytes::from("before"), [].into(), false, budget.take(1).unwrap());
            statements.insert(name, prepared);
        }
        let runs = |build: &dyn Fn(&mut BytesMut)| -> Vec<String> {
            let frames = frames(build);
            let bound = bound(&frames, |name| statements.get(name).map(Prepared::text));
            let binds = frames.iter().zip(bound).filter(|(f, _)| f.tag == b'B');
            let text = |t: Option<Text>| t.map(|t| String::from_utf8_lossy(&t.0).into_owned());
            binds.map(|(_, t)| text(t).unwrap_or_else(|| "unknown".to_owned())).collect()
        };
        let bind = |b: &mut BytesMut, name: &str| frontend::bind(b, "", name, &[], NONE, &[]);
        let twice = runs(&|b| {
            for sql in ["insert", "select"] {
                frontend::parse(b, "", sql, &[]);
                bind(b, "");
            }
            bind(b, "");
        });
        assert_eq!(twice, ["insert", "select", "select"]);
        let later = runs(&|b| {
            bind(b, "s");
            bind(b, "t");
            frontend::parse(b, "s", "later", &[]);
            frontend::close_statement(b, "s");
            bind(b, "s");
            bind(b, "nobody");
        });
        assert_eq!(later, ["unknown", "before", "unknown", "unknown"]);
    }

    #[test]
    fn what_is_worked_on_is_still_counted() {
        let budget = Budget::new(1000);
        let mut held = Held::default();
        for frame in frames(|b| frontend::parse(b, "s", &"x".repeat(600), &[])) {
            held.push(frame);
        }
        assert!(held.has_room(0, &budget));
        let taken = held.take();
        assert!(!Held::default().has_room(600, &budget));
        assert_eq!(taken.len(), 1);
        drop(taken);
        assert!(Held::default().has_room(600, &budget));
    }

    #[test]
    fn one_execution_is_recognised() {
        let b = frames(|b| {
            frontend::parse(b, "", "select 1", &[]);
            frontend::bind(b, "", "", &[], NONE, &[1]);
            frontend::describe_portal(b, "");
            frontend::execute(b, "", 7);
            frontend::close_statement(b, "old");
            frontend::sync(b);
        });
        let b = batch(&b).unwrap().unwrap();
        assert_eq!((b.head.len(), b.describe, b.max_rows, b.tail.len()), (1, true, 7, 1));
    }

    #[test]
    fn what_steps_is_executed_at_once_or_waits() {
        for (messages, expected) in [
            (&["B", "E", "S"][..], true),
            (&["B", "E", "Bp", "Ep", "S"], true),
            (&["B", "E"], true),
            (&["E", "S"], true),
            (&["B", "S"], false),
            (&["B"], false),
            (&["B", "Ep", "S"], false),
            (&["B", "Bp", "E", "Ep", "S"], false),
        ] {
            let frames = frames(|b| {
                for message in messages {
                    let (tag, portal) = message.split_at(1);
                    match tag {
                        "B" => frontend::bind(b, portal, "", &[], NONE, &[]),
                        "E" => frontend::execute(b, portal, 0),
                        _ => frontend::sync(b),
                    }
                }
            });
            let texts = [("commit", expected), ("release a", expected), ("select 1", true)];
            for (text, expected) in texts {
                let bound = vec![Some((Bytes::from(text), [].into())); frames.len()];
                assert_eq!(executes(&frames, &bound), expected, "{messages:?}");
            }
        }
    }

    #[test]
    fn pipelines_are_not() {
        let b = frames(|b| {
            for _ in 0..2 {
                frontend::bind(b, "", "", &[], NONE, &[]);
                frontend::execute(b, "", 0);
            }
            frontend::sync(b);
        });
        assert!(batch(&b).unwrap().is_none());
    }
}
