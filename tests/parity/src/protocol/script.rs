//! The format of the scripts: lines to steps.

use bytes::BytesMut;
use pgspan_wire::frontend;

/// One script.
#[derive(Debug, Clone)]
pub struct Script {
    /// FILE/LABEL.
    pub name: String,
    /// Line of the file.
    pub line: usize,
    /// SQL for home, before each play.
    pub setup_home: String,
    /// SQL for the source.
    pub setup_source: String,
    /// In order.
    pub steps: Vec<Step>,
    /// Texts that PostgreSQL's transcript must contain.
    pub demands: Vec<String>,
    /// A RowDescription in front of an error is not compared.
    pub loose_description: bool,
    /// Why the players differ: a divergence that was reviewed.
    pub known: Option<String>,
    /// It only differs with some servers, by how they were built or by their version.
    pub depends: bool,
}

/// One line of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// A session sends bytes: together with what follows, up to the next step of
    /// another kind.
    Send(String, Vec<u8>),
    /// A session reads up to so many messages of a type.
    Read(String, u8, usize),
    /// A session reads to the end of its connection.
    End(String),
    /// For this long nothing comes.
    Quiet(String),
    /// One byte, without a frame.
    Byte(String),
    /// A connection on which nothing is said at first.
    Silent(String),
    /// The session's connection is closed by the client without a word.
    HangUp(String),
    /// A cancel request for what the session runs.
    Cancel(String),
    /// SQL at home or at the source, past the gateway.
    Sql(Place, String),
    /// Waits until somebody waits for a lock at the source, or home sleeps.
    Busy(Place),
    /// A moment.
    Pause(u64),
}

/// Where SQL is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Home.
    Home,
    /// The source.
    Source,
}

/// Reads a file of scripts.
///
/// # Errors
/// The line that is not understood.
pub fn parse(file: &str, text: &str) -> Result<Vec<Script>, String> {
    let mut scripts: Vec<Script> = Vec::new();
    let (mut home, mut source) = (String::new(), String::new());
    let mut setup: Option<Place> = None;
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        let fail = |why: String| format!("{file}.script:{number}: {why}");
        if line.trim() == "----" {
            setup = None;
            continue;
        }
        match setup {
            Some(place) => {
                let sql = if place == Place::Home { &mut home } else { &mut source };
                sql.push_str(line);
                sql.push('\n');
                continue;
            }
            None if line.trim().is_empty() || line.starts_with('#') => continue,
            None => {}
        }
        let (word, rest) = cut(line);
        match word {
            "setup" => setup = Some(place(rest).map_err(fail)?),
            "script" => scripts.push(Script {
                name: format!("{file}/{rest}"),
                line: number,
                setup_home: home.clone(),
                setup_source: source.clone(),
                steps: Vec::new(),
                demands: Vec::new(),
                loose_description: false,
                known: None,
                depends: false,
            }),
            _ => {
                let script =
                    scripts.last_mut().ok_or_else(|| fail("no `script` before it".to_owned()))?;
                match (word, rest) {
                    ("demand", _) => script.demands.push(rest.to_owned()),
                    ("known", _) => script.known = Some(rest.to_owned()),
                    ("depends", _) => {
                        script.known = Some(rest.to_owned());
                        script.depends = true;
                    }
                    ("loose", "description") => script.loose_description = true,
                    _ => {
                        // A text that was refused once in a block is left to home in later ones: no
                        // script's is another one's.
                        let read = rest.contains(" far")
                            && [word, cut(rest).0].iter().any(|w| ["query", "parse"].contains(w));
                        let own = read.then(|| format!("{rest} /* {} */", script.line));
                        let rest = own.as_deref().unwrap_or(rest);
                        script.steps.push(step(word, rest).map_err(fail)?);
                    }
                }
            }
        }
    }
    Ok(scripts)
}

fn place(word: &str) -> Result<Place, String> {
    match word {
        "home" => Ok(Place::Home),
        "source" => Ok(Place::Source),
        other => Err(format!("`{other}` is neither home nor source")),
    }
}

/// The first word, and the rest.
fn cut(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim()))
}

fn step(word: &str, rest: &str) -> Result<Step, String> {
    match word {
        "home>" => return Ok(Step::Sql(Place::Home, rest.to_owned())),
        "source>" => return Ok(Step::Sql(Place::Source, rest.to_owned())),
        "busy" => return Ok(Step::Busy(place(rest)?)),
        "pause" => return rest.parse().map(Step::Pause).map_err(|e| format!("{rest}: {e}")),
        _ => {}
    }
    // A letter in front names another session than `a`.
    let (session, word, rest) = match word.as_bytes() {
        [b'a'..=b'c'] => {
            let (next, rest) = cut(rest);
            (word.to_owned(), next, rest)
        }
        _ => ("a".to_owned(), word, rest),
    };
    match word {
        "<" => read(session, rest),
        "silent" => Ok(Step::Silent(session)),
        "hangup" => Ok(Step::HangUp(session)),
        "cancel" => Ok(Step::Cancel(session)),
        _ => Ok(Step::Send(session, message(word, rest)?)),
    }
}

fn read(session: String, rest: &str) -> Result<Step, String> {
    let (what, count) = cut(rest);
    match (what, what.as_bytes()) {
        ("end", _) => Ok(Step::End(session)),
        ("quiet", _) => Ok(Step::Quiet(session)),
        ("byte", _) => Ok(Step::Byte(session)),
        (_, [tag]) => {
            let count = if count.is_empty() { Ok(1) } else { count.parse() };
            Ok(Step::Read(session, *tag, count.map_err(|e| format!("{rest}: {e}"))?))
        }
        _ => Err(format!("read until `{what}`?")),
    }
}

/// `-` is the empty name.
fn name(word: &str) -> &str {
    if word == "-" { "" } else { word }
}

/// The bytes of a message.
fn message(word: &str, rest: &str) -> Result<Vec<u8>, String> {
    let mut buf = BytesMut::new();
    let (first, more) = cut(rest);
    match word {
        "query" => frontend::query(&mut buf, rest),
        "parse" => {
            // parse NAME [OID,OID]: SQL
            let (head, sql) = rest.split_once(':').ok_or("parse NAME: SQL")?;
            let (statement, oids) = cut(head);
            let oids: Result<Vec<u32>, _> =
                oids.split(',').filter(|oid| !oid.is_empty()).map(str::parse).collect();
            frontend::parse(
                &mut buf,
                name(statement),
                sql.trim(),
                &oids.map_err(|e| e.to_string())?,
            );
        }
        "bind" => {
            // bind PORTAL STATEMENT [binary] [: VALUE | VALUE]
            let (head, values) = rest.split_once(':').unwrap_or((rest, ""));
            let words: Vec<&str> = head.split_whitespace().collect();
            let [portal, statement, format @ ..] = words.as_slice() else {
                return Err("bind PORTAL STATEMENT".to_owned());
            };
            let values: Vec<Option<&str>> = values
                .split('|')
                .map(str::trim)
                .filter(|value| !value.is_empty())
                .map(|value| (value != "NULL").then_some(value))
                .collect();
            let formats: &[i16] = if format.contains(&"binary") { &[1] } else { &[] };
            frontend::bind(&mut buf, name(portal), name(statement), &[], &values, formats);
        }
        "describe" if first == "S" => frontend::describe_statement(&mut buf, name(more)),
        "describe" => frontend::describe_portal(&mut buf, name(more)),
        "close" if first == "S" => frontend::close_statement(&mut buf, name(more)),
        "close" => frontend::close_portal(&mut buf, name(more)),
        "execute" => {
            let rows = if more.is_empty() { Ok(0) } else { more.parse() };
            frontend::execute(&mut buf, name(first), rows.map_err(|e| format!("{more}: {e}"))?);
        }
        "sync" => frontend::sync(&mut buf),
        "flush" => frontend::flush(&mut buf),
        "terminate" => frontend::terminate(&mut buf),
        "copydata" => frontend::copy_data(&mut buf, unescape(rest).as_bytes()),
        "copydone" => frontend::copy_done(&mut buf),
        "copyfail" => frontend::copy_fail(&mut buf, rest),
        "startup" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let pairs: Vec<(&str, &str)> =
                words.iter().filter_map(|word| word.split_once('=')).collect();
            frontend::startup(&mut buf, &pairs);
        }
        "raw" => buf.extend_from_slice(&hex(rest)?),
        // message T TEXT: any type with any body; `repeat N TEXT` makes a long one.
        "message" => {
            let tag = *first.as_bytes().first().ok_or("message TYPE BODY")?;
            let body = match cut(more) {
                ("repeat", long) => {
                    let (count, text) = cut(long);
                    text.repeat(count.parse().map_err(|e| format!("{count}: {e}"))?).into_bytes()
                }
                ("hex", digits) => hex(digits)?,
                _ => unescape(more).into_bytes(),
            };
            frontend::message(&mut buf, tag, |buf| buf.extend_from_slice(&body));
        }
        // longquery N SQL: a comment of N bytes behind the text.
        "longquery" => {
            let count = first.parse().map_err(|e| format!("{first}: {e}"))?;
            frontend::query(&mut buf, &format!("{more} /*{}*/", "x".repeat(count)));
        }
        other => return Err(format!("`{other}` is not understood")),
    }
    Ok(buf.to_vec())
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t").replace("\\0", "\0")
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| {
            let pair = digits.get(at..at + 2).ok_or("an odd number of digits")?;
            u8::from_str_radix(pair, 16).map_err(|e| format!("{pair}: {e}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read() {
        let text = "setup home\ncreate table t (a int);\n----\n# why\nscript one\nparse s 23: select $1\nb query select 1\n< Z 2\ndemand 42P01\n";
        let scripts = parse("x", text).unwrap();
        assert_eq!(scripts.len(), 1);
        assert_eq!(scripts[0].name, "x/one");
        assert_eq!(scripts[0].demands, ["42P01"]);
        assert!(matches!(&scripts[0].steps[1], Step::Send(session, _) if session == "b"));
        assert!(matches!(scripts[0].steps[2], Step::Read(_, b'Z', 2)));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(parse("x", "script a\nfly away").is_err());
        assert!(parse("x", "query select 1").is_err());
    }
}
