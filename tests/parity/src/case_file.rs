//! The data files: what a line means. `README.md` describes the format for people.

use crate::expand;

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The database that clients connect to.
    Home,
    /// The database behind the foreign server.
    Source,
    /// A second source.
    Other,
}

/// Which endpoint of home a session uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Endpoint {
    /// The primary.
    #[default]
    Writer,
    /// A replica.
    Reader,
}

/// The protocol variants that a case is played in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Simple Query.
    Simple,
    /// Extended, one trip, text.
    Text,
    /// Extended, prepared, binary parameters and results.
    Binary,
    /// The first variant once more, when every cache is warm.
    Again,
}

impl Variant {
    /// All of them, in the order they are played.
    pub const ALL: [Variant; 4] = [Variant::Simple, Variant::Text, Variant::Binary, Variant::Again];

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Simple => "simple",
            Variant::Text => "text",
            Variant::Binary => "binary",
            Variant::Again => "again",
        }
    }
}

/// A deliberate defect, see [`crate::mutant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// WHERE conditions hold always.
    DropFilter,
    /// JOIN conditions hold always.
    DropJoin,
    /// The first parameter is NULL.
    DropParam,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 3] = [Mutation::DropFilter, Mutation::DropJoin, Mutation::DropParam];

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Mutation::DropFilter => "drop_filter",
            Mutation::DropJoin => "drop_join",
            Mutation::DropParam => "drop_param",
        }
    }
}

/// What PostgreSQL must say, so that a case which tests nothing is red.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Success, with so many rows if given.
    Ok(Option<usize>),
    /// An error with this SQLSTATE.
    Error(String),
}

/// What options a query or step line can carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Rows come in no promised order.
    pub rowsort: bool,
    /// Strategies that the gateway may choose; empty: any.
    pub strategies: Vec<String>,
    /// Variants to play; empty: the default.
    pub variants: Vec<Variant>,
    /// Endpoint of home.
    pub endpoint: Endpoint,
    /// Mutations that this case is known to catch.
    pub catches: Vec<Mutation>,
    /// PostgreSQL's major version must be at least this.
    pub version_min: u32,
    /// And at most this.
    pub version_max: Option<u32>,
    /// The error's CONTEXT is not compared.
    pub loose_context: bool,
    /// Whether an error comes before or after RowDescription is not compared.
    pub loose_description: bool,
    /// Simple protocol whatever the variant.
    pub simple: bool,
}

/// A typed parameter: the type's name and the value as text (`None`: NULL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Type name, or `unknown` to leave it to the server.
    pub type_name: String,
    /// Value.
    pub value: Option<String>,
}

/// One statement in its variants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Line of the file.
    pub line: usize,
    /// What it is about.
    pub label: String,
    /// Options.
    pub marks: Marks,
    /// Statements sent before it on the same, fresh connection.
    pub before: Vec<String>,
    /// Parameters.
    pub params: Vec<Param>,
    /// Data for COPY FROM STDIN.
    pub stdin: String,
    /// The statement.
    pub sql: String,
    /// What PostgreSQL must say.
    pub expect: Expect,
}

/// What a step of a scenario does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs SQL directly before each play.
    Reset(Side),
    /// Runs SQL directly.
    Direct(Side),
    /// Repeats `side: SQL ;; side: SQL` directly in the background until the end;
    /// `%n` counts the rounds.
    Churn,
    /// Waits so many milliseconds.
    Pause,
    /// Waits until the replica has caught up.
    CatchUp,
    /// Opens a session with startup parameters.
    Connect(String),
    /// Runs SQL in a session, so many times.
    Run(String, usize),
    /// Sends a simple Query without waiting.
    Start(String),
    /// Waits for what was started.
    Finish(String),
    /// Cancels what the session runs.
    Cancel(String),
    /// Prepares a statement: session, name, parameter types.
    Prepare(String, String, Vec<String>),
    /// Executes it: session, name, rows at a time (0: all), pieces.
    Execute(String, String, i32, usize),
    /// Closes it.
    Close(String, String),
    /// Closes the session.
    Disconnect(String),
}

/// One step of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line of the file.
    pub line: usize,
    /// What to do.
    pub action: Action,
    /// With which text.
    pub text: String,
    /// Options.
    pub marks: Marks,
    /// What PostgreSQL must say.
    pub expect: Expect,
}

/// Several sessions in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Line of the file.
    pub line: usize,
    /// What it is about.
    pub label: String,
    /// Options.
    pub marks: Marks,
    /// Steps.
    pub steps: Vec<Step>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Case {
    /// A statement.
    Query(Query),
    /// Sessions.
    Scenario(Scenario),
}

impl Case {
    /// What it is about.
    pub fn label(&self) -> &str {
        match self {
            Case::Query(query) => &query.label,
            Case::Scenario(scenario) => &scenario.label,
        }
    }

    /// Its options.
    pub fn marks(&self) -> &Marks {
        match self {
            Case::Query(query) => &query.marks,
            Case::Scenario(scenario) => &scenario.marks,
        }
    }

    /// Line of the file.
    pub fn line(&self) -> usize {
        match self {
            Case::Query(query) => query.line,
            Case::Scenario(scenario) => scenario.line,
        }
    }
}

/// A data file.
#[derive(Debug, Clone, Default)]
pub struct CaseFile {
    /// Its name without extension.
    pub name: String,
    /// Oracle and gateway play in databases of their own.
    pub separate: bool,
    /// Conditions: `icu`, `replica`.
    pub needs: Vec<String>,
    /// Roles to create on both clusters; `${name}` in the text.
    pub roles: Vec<String>,
    /// Other files (`NAME.inc`) whose setups come first.
    pub includes: Vec<String>,
    /// SQL that makes the databases.
    pub setups: Vec<(Side, String)>,
    /// Cases in order.
    pub cases: Vec<Case>,
}

/// Reads a file.
///
/// # Errors
/// What is wrong, with the line.
pub fn parse(name: &str, text: &str) -> Result<CaseFile, String> {
    let mut reader = Reader { lines: text.lines().collect(), at: 0 };
    let mut file = CaseFile { name: name.to_owned(), ..CaseFile::default() };
    let mut lets: Vec<(String, String)> = Vec::new();
    let mut each: Vec<(String, Vec<String>)> = Vec::new();
    while let Some((line, head)) = reader.next() {
        let fail = |what: &str| format!("{name}:{line}: {what}");
        if head.trim().is_empty() || head.starts_with('#') {
            continue;
        }
        let (word, rest) = head.split_once(' ').unwrap_or((head, ""));
        let rest = rest.trim();
        match word {
            "isolation:" => file.separate = rest == "separate",
            "include:" => file.includes = split_list(rest, ','),
            "needs:" => file.needs = split_list(rest, ','),
            "roles:" => file.roles = split_list(rest, ','),
            "let" => {
                let (key, value) = rest.split_once(':').ok_or_else(|| fail("let NAME: text"))?;
                let mut value = value.trim().to_owned();
                while let Some(more) = reader.indented() {
                    value.push(' ');
                    value.push_str(more.trim());
                }
                let value = expand::substitute(&value, &lets);
                lets.push((key.trim().to_owned(), value));
            }
            "foreach" => {
                let (key, values) =
                    rest.split_once(':').ok_or_else(|| fail("foreach NAME: a | b"))?;
                let mut values = values.trim().to_owned();
                while let Some(more) = reader.indented() {
                    values.push(' ');
                    values.push_str(more.trim());
                }
                let values = values
                    .split(" | ")
                    .map(|value| expand::substitute(value.trim(), &lets))
                    .collect();
                each.push((key.trim().to_owned(), values));
            }
            "setup" => {
                let side = side(rest).ok_or_else(|| fail("setup home|source|other"))?;
                let sql = reader.block().map_err(|what| fail(&what))?;
                file.setups.push((side, expand::substitute(&sql, &lets)));
            }
            "query" | "statement" => {
                let query = read_query(&mut reader, line, word, rest).map_err(|e| fail(&e))?;
                for bindings in expand::product(&lets, &std::mem::take(&mut each)) {
                    file.cases.push(Case::Query(query.expanded(&bindings)));
                }
            }
            "scenario" => {
                let scenario = read_scenario(&mut reader, line, rest).map_err(|e| fail(&e))?;
                for bindings in expand::product(&lets, &std::mem::take(&mut each)) {
                    file.cases.push(Case::Scenario(scenario.expanded(&bindings)));
                }
            }
            _ => return Err(fail(&format!("`{word}` is not understood"))),
        }
    }
    Ok(file)
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next line and its number.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let line = self.lines.get(self.at)?;
        self.at += 1;
        Some((self.at, line.trim_end()))
    }

    /// The next line if it continues the one before.
    fn indented(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at)?;
        if line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            self.at += 1;
            return Some(line.trim_end());
        }
        None
    }

    /// Lines up to `----`.
    fn block(&mut self) -> Result<String, String> {
        let mut block = Vec::new();
        while let Some((_, line)) = self.next() {
            if line == "----" {
                return Ok(block.join("\n"));
            }
            block.push(line);
        }
        Err("the block is not closed by ----".to_owned())
    }
}

fn read_query(
    reader: &mut Reader<'_>,
    line: usize,
    word: &str,
    rest: &str,
) -> Result<Query, String> {
    let (mut marks, label) = read_marks(rest)?;
    if word == "statement" && marks.variants.is_empty() {
        marks.variants = vec![Variant::Simple];
    }
    let block = reader.block()?;
    let (mut before, mut params, mut stdin, mut sql) = (vec![], vec![], String::new(), vec![]);
    for text in block.lines() {
        if let Some(text) = text.strip_prefix("before:") {
            before.push(text.trim().to_owned());
        } else if let Some(text) = text.strip_prefix("param:") {
            params.push(read_param(text)?);
        } else if let Some(text) = text.strip_prefix("stdin:") {
            stdin.push_str(text.strip_prefix(' ').unwrap_or(text));
            stdin.push('\n');
        } else {
            sql.push(text);
        }
    }
    let (_, expectation) = reader.next().ok_or("an expectation is missing")?;
    Ok(Query {
        line,
        label,
        marks,
        before,
        params,
        stdin,
        sql: sql.join("\n"),
        expect: read_expect(expectation)?,
    })
}

fn read_scenario(reader: &mut Reader<'_>, line: usize, rest: &str) -> Result<Scenario, String> {
    let (marks, label) = read_marks(rest)?;
    let mut steps: Vec<Step> = Vec::new();
    loop {
        let (number, text) = reader.next().ok_or("the scenario is not closed by ----")?;
        if text == "----" {
            break;
        }
        let fail = |what: &str| format!("line {number}: {what}");
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        if text.starts_with([' ', '\t']) {
            let step = steps.last_mut().ok_or_else(|| fail("continues nothing"))?;
            step.text.push('\n');
            step.text.push_str(text.trim());
        } else if let Some(expectation) = text.strip_prefix("= ") {
            let step = steps.last_mut().ok_or_else(|| fail("expects nothing"))?;
            step.expect = read_expect(expectation)?;
        } else {
            let (head, text) = text.split_once('>').ok_or_else(|| fail("actor> text"))?;
            let (action, marks) = read_action(head).map_err(|what| fail(&what))?;
            steps.push(Step {
                line: number,
                action,
                text: text.trim().to_owned(),
                marks,
                expect: Expect::Ok(None),
            });
        }
    }
    Ok(Scenario { line, label, marks, steps })
}

fn read_action(head: &str) -> Result<(Action, Marks), String> {
    let words: Vec<&str> = head.split_whitespace().collect();
    let side_of = |word: &str| side(word).ok_or_else(|| format!("`{word}` is not a side"));
    let action = match words.as_slice() {
        ["reset", place] => Action::Reset(side_of(place)?),
        ["churn"] => Action::Churn,
        ["pause"] => Action::Pause,
        ["catchup"] => Action::CatchUp,
        [place] if side(place).is_some() => Action::Direct(side_of(place)?),
        ["repeat", times, actor, rest @ ..] => {
            let times = times.parse().map_err(|_| "repeat N actor".to_owned())?;
            let (marks, _) = read_marks(&rest.join(" "))?;
            return Ok((Action::Run((*actor).to_owned(), times), marks));
        }
        [actor, "connect", ..] => Action::Connect((*actor).to_owned()),
        [actor, "start"] => Action::Start((*actor).to_owned()),
        [actor, "finish", rest @ ..] => {
            let (marks, _) = read_marks(&rest.join(" "))?;
            return Ok((Action::Finish((*actor).to_owned()), marks));
        }
        [actor, "cancel"] => Action::Cancel((*actor).to_owned()),
        [actor, "disconnect"] => Action::Disconnect((*actor).to_owned()),
        [actor, "prepare", name, types @ ..] => Action::Prepare(
            (*actor).to_owned(),
            (*name).to_owned(),
            split_list(&types.join(""), ','),
        ),
        [actor, "execute", name, rest @ ..] => {
            let (marks, _) = read_marks(&rest.join(" "))?;
            return Ok((Action::Execute((*actor).to_owned(), (*name).to_owned(), 0, 1), marks));
        }
        [actor, "portal", name, rows, pieces] => Action::Execute(
            (*actor).to_owned(),
            (*name).to_owned(),
            rows.parse().map_err(|_| "portal NAME ROWS PIECES".to_owned())?,
            pieces.parse().map_err(|_| "portal NAME ROWS PIECES".to_owned())?,
        ),
        [actor, "close", name] => Action::Close((*actor).to_owned(), (*name).to_owned()),
        [actor, rest @ ..] => {
            let (marks, left) = read_marks(&rest.join(" "))?;
            if !left.is_empty() {
                return Err(format!("`{left}` is not understood"));
            }
            return Ok((Action::Run((*actor).to_owned(), 1), marks));
        }
        [] => return Err("who does it?".to_owned()),
    };
    Ok((action, Marks::default()))
}

/// Options at the start of a line; what follows them is the label.
fn read_marks(text: &str) -> Result<(Marks, String), String> {
    let mut marks = Marks::default();
    let mut words = text.split_whitespace();
    let mut label: Vec<&str> = Vec::new();
    for word in words.by_ref() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "rowsort" => marks.rowsort = true,
            "simple" if value.is_empty() => marks.simple = true,
            "strategy" => marks.strategies = split_list(value, '|'),
            "protocol" => {
                marks.variants = split_list(value, ',')
                    .iter()
                    .map(|name| {
                        Variant::ALL
                            .into_iter()
                            .find(|variant| variant.name() == name)
                            .ok_or_else(|| format!("`{name}` is not a protocol"))
                    })
                    .collect::<Result<_, _>>()?;
            }
            "endpoint" if value == "reader" => marks.endpoint = Endpoint::Reader,
            "endpoint" if value == "writer" => marks.endpoint = Endpoint::Writer,
            "catches" => {
                marks.catches = split_list(value, ',')
                    .iter()
                    .map(|name| {
                        Mutation::ALL
                            .into_iter()
                            .find(|mutation| mutation.name() == name)
                            .ok_or_else(|| format!("`{name}` is not a mutation"))
                    })
                    .collect::<Result<_, _>>()?;
            }
            "version_min" => {
                marks.version_min =
                    value.parse().map_err(|_| format!("`{value}` is not a version"))?;
            }
            "version_max" => {
                let version = value.parse().map_err(|_| format!("`{value}` is not a version"))?;
                marks.version_max = Some(version);
            }
            "loose" if value == "context" => marks.loose_context = true,
            "loose" if value == "description" => marks.loose_description = true,
            _ => {
                label.push(word);
                break;
            }
        }
    }
    label.extend(words);
    Ok((marks, label.join(" ")))
}

fn read_param(text: &str) -> Result<Param, String> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    // A type name may have spaces: then it is quoted by a colon at its end.
    let (type_name, value) = match text.split_once("::") {
        Some((type_name, value)) => (type_name, value),
        None => text.split_once(' ').unwrap_or((text, "")),
    };
    let value = value.strip_prefix(' ').unwrap_or(value);
    Ok(Param {
        type_name: type_name.trim().to_owned(),
        value: (value != "NULL").then(|| value.to_owned()),
    })
}

fn read_expect(text: &str) -> Result<Expect, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["ok"] => Ok(Expect::Ok(None)),
        ["ok", rows, "row" | "rows"] => rows
            .parse()
            .map(|rows| Expect::Ok(Some(rows)))
            .map_err(|_| format!("`{text}`: how many rows?")),
        ["error", sqlstate] if sqlstate.len() == 5 => Ok(Expect::Error((*sqlstate).to_owned())),
        _ => Err(format!("`{text}`: expected `ok`, `ok N rows` or `error SQLSTATE`")),
    }
}

/// The side of that name.
pub fn side(word: &str) -> Option<Side> {
    match word {
        "home" => Some(Side::Home),
        "source" => Some(Side::Source),
        "other" => Some(Side::Other),
        _ => None,
    }
}

fn split_list(text: &str, separator: char) -> Vec<String> {
    text.split(separator)
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let text = "# topic\nlet t: remote\n\nforeach op: = | <\nquery rowsort strategy=direct|home_join catches=drop_filter simple filters\nbefore: set x = 1\nparam: int4 5\nselect 1 || 'a'\nfrom ${t} where a ${op} 1\n----\nok 3 rows\n";
        let file = parse("t", text).unwrap();
        assert_eq!(file.cases.len(), 2);
        let Case::Query(query) = &file.cases[1] else { panic!("a query") };
        assert_eq!(query.label, "filters [<]");
        assert_eq!(query.sql, "select 1 || 'a'\nfrom remote where a < 1");
        assert_eq!(query.before, ["set x = 1"]);
        assert_eq!(query.params[0].value.as_deref(), Some("5"));
        assert_eq!(query.marks.strategies, ["direct", "home_join"]);
        assert_eq!(query.expect, Expect::Ok(Some(3)));
    }

    #[test]
    fn a_scenario_is_read() {
        let text = "scenario two sessions\nreset source> truncate t;\n  insert into t values (1)\na> begin\na rowsort> select 1 > 2\n= ok 1 row\nb start> lock t\npause> 50\nb finish>\na prepare s int4,text> select $1\na portal s 2 3> 1 | x\n----\n";
        let file = parse("t", text).unwrap();
        let Case::Scenario(scenario) = &file.cases[0] else { panic!("a scenario") };
        assert_eq!(scenario.label, "two sessions");
        assert_eq!(scenario.steps.len(), 8);
        assert_eq!(scenario.steps[0].text, "truncate t;\ninsert into t values (1)");
        assert_eq!(scenario.steps[2].text, "select 1 > 2");
        assert_eq!(scenario.steps[2].expect, Expect::Ok(Some(1)));
        assert_eq!(scenario.steps[7].action, Action::Execute("a".into(), "s".into(), 2, 3));
    }

    #[test]
    fn an_open_block_is_an_error() {
        assert!(parse("t", "query x\nselect 1\n").is_err());
        assert!(parse("t", "query x\nselect 1\n----\nfine\n").is_err());
        assert!(parse("t", "frobnicate\n").is_err());
    }
}
