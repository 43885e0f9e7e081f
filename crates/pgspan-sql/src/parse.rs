//! Text → tree and tokens, by PostgreSQL's own grammar (libpg_query).
//!
//! [`read`] gives the tree by type, which [`crate::nodes`] walks; [`parse`] gives it as
//! JSON, which the engine's questions about a statement are asked of.

use pg_query::NodeEnum;
use pg_query::protobuf::{KeywordKind, Token};
use serde_json::Value;

/// One token with its place in the text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lexeme {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// libpg_query's token code.
    pub token: i32,
    /// Whether it is a reserved or unreserved keyword.
    pub keyword: bool,
}

impl Lexeme {
    /// Whether it is the given single ASCII character.
    pub fn is_char(&self, c: u8) -> bool {
        self.token == i32::from(c)
    }

    /// Whether it is a comment.
    pub fn is_comment(&self) -> bool {
        self.token == Token::SqlComment as i32 || self.token == Token::CComment as i32
    }
}

/// Tokens of a text without its comments; empty when it cannot be scanned.
pub fn lex(text: &str) -> Vec<Lexeme> {
    let Ok(scanned) = pg_query::scan(text) else {
        return Vec::new();
    };
    scanned
        .tokens
        .iter()
        .map(|t| Lexeme {
            start: usize::try_from(t.start).unwrap_or(0),
            end: usize::try_from(t.end).unwrap_or(0),
            token: t.token,
            keyword: t.keyword_kind != KeywordKind::NoKeyword as i32,
        })
        .filter(|t| !t.is_comment())
        .collect()
}

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// PostgreSQL's grammar does not know it; home will say so itself.
    NotSql,
    /// It nests deeper than the tree's decoder goes (prost: 100 levels, two for an operator).
    TooDeep,
}

/// The statements of a text.
///
/// # Errors
/// Why it is not read.
pub fn read(text: &str) -> Result<Vec<NodeEnum>, Unread> {
    let parsed = pg_query::parse(text, pg_query::ParserOptions::DEFAULT).map_err(|e| match e {
        pg_query::Error::Decode(_) => Unread::TooDeep,
        _ => Unread::NotSql,
    })?;
    let statements = parsed.protobuf.stmts.into_iter().map(|s| s.stmt?.node);
    statements.collect::<Option<_>>().ok_or(Unread::NotSql)
}

/// A parsed text.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The text as the client sent it.
    pub text: String,
    /// The statements' nodes: `{"SelectStmt": {…}}` and the like.
    pub nodes: Vec<Value>,
}

/// Parses, or `None` when the text is not PostgreSQL's SQL (home will say so itself).
pub fn parse(text: &str) -> Option<Statement> {
    let parsed = pg_query::parse(text, pg_query::ParserOptions::DEFAULT).ok()?;
    let tree = serde_json::to_value(&parsed.protobuf).ok()?;
    let nodes = tree
        .get("stmts")?
        .as_array()?
        .iter()
        .map(|s| s.pointer("/stmt/node").cloned())
        .collect::<Option<Vec<_>>>()?;
    Some(Statement { text: text.to_owned(), nodes })
}

/// The tree of the only statement's SELECT as JSON, whatever carries it.
pub fn select_value(text: &str) -> Option<Value> {
    let parsed = parse(text)?;
    let [only] = parsed.nodes.as_slice() else { return None };
    let carried = ["/CopyStmt/query/node", "/ExplainStmt/query/node"];
    let carried = carried.iter().find_map(|p| only.pointer(p));
    carried.unwrap_or(only).get("SelectStmt").cloned()
}

/// The type name and body of a node given as `{"node": {T: body}}`.
pub fn node(value: &Value) -> Option<(&str, &Value)> {
    let inner = value.get("node")?.as_object()?;
    let (name, body) = inner.iter().next()?;
    Some((name, body))
}

/// The parenthesis that closes the one at a place.
pub fn closing(tokens: &[Lexeme], open: usize) -> Option<usize> {
    let own = tokens.get(open..)?;
    let mut depth = 0i32;
    let close = own.iter().position(|t| {
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        depth == 0
    })?;
    Some(open + close)
}

/// The first token of a kind outside parentheses.
pub fn top_level(tokens: &[Lexeme], token: pg_query::protobuf::Token) -> Option<usize> {
    let mut depth = 0i32;
    tokens.iter().position(|t| {
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        depth == 0 && t.token == token as i32
    })
}

/// Calls `f` for every typed node below `value`, parents first.
pub fn visit<'a>(value: &'a Value, f: &mut dyn FnMut(&'a str, &'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|v| visit(v, f)),
        Value::Object(map) => {
            if map.len() == 1
                && let Some((name, body)) = node(value)
            {
                f(name, body);
                visit(body, f);
                return;
            }
            map.values().for_each(|v| visit(v, f));
        }
        _ => {}
    }
}

/// The strings of a list of `String` nodes, e.g. a function's qualified name.
/// `None` when the list holds anything else (`*`, a subscript).
pub fn strings(list: &Value) -> Option<Vec<&str>> {
    list.as_array()?
        .iter()
        .map(|v| match node(v)? {
            ("String", body) => body.get("sval")?.as_str(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_whole() {
        let s = parse("SELECT a.b, count(*) FROM t a WHERE EXISTS (SELECT 1 FROM u)").unwrap();
        let mut tables = Vec::new();
        let tree = serde_json::json!({"node": s.nodes[0]});
        visit(&tree, &mut |name, body| {
            if name == "RangeVar" {
                tables.push(body["relname"].as_str().unwrap());
            }
        });
        assert_eq!(tables, ["t", "u"]);
        assert!(parse("SELEC 1").is_none());
    }
}
