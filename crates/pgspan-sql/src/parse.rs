//! Text → tree and tokens, by PostgreSQL's own grammar (libpg_query).
//!
//! [`read`] gives the tree by type, which [`crate::nodes`] walks; [`parse`] gives it as
//! JSON, which the engine's questions about a statement are asked of.

pub use crate::grammar::Lexeme;
use crate::grammar::{Written, scan};
pub use crate::tree::{SystemUser, Unread, read};
use pg_query::protobuf::Token;
use serde_json::Value;

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
    let mut tokens = scan(text);
    tokens.retain(|t| !t.is_comment());
    tokens
}

/// Whether PostgreSQL's grammar knows a text.
pub fn is_sql(text: &str) -> bool {
    Written::parse(text).is_some()
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

/// Operators that compare two values. With a literal on one side they do not fail.
pub const COMPARISONS: &[&str] = &["=", "<>", "<", "<=", ">", ">="];

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
