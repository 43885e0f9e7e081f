//! One Rust file, read: its functions, the modules that it names, and counts of tokens.
//! What belongs to tests is left out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, FnArg, Item, ReceiverKind, Signature, Type, UseTree};

/// The name of the gateway's session.
const SESSION: &str = "Session";
/// Functions that read SQL text.
const READS_TEXT: &[&str] = &["parse", "lex", "scan"];

/// A function, without its tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
    /// Parameters, the receiver included.
    pub parameters: usize,
}

/// What was read of a file.
#[derive(Debug, Default)]
pub struct Reading {
    /// Functions and methods with a body.
    pub functions: Vec<Function>,
    /// Paths as they are written, `use` and elsewhere, from their first segment on.
    pub paths: Vec<Vec<String>>,
    /// Byte literals that are a letter: tags of messages.
    pub tags: usize,
    /// Reasons that are told apart by their text.
    pub texts_compared: usize,
    /// Calls of what reads SQL text.
    pub parses: usize,
    /// Counters of parentheses.
    pub depths: usize,
    /// Functions that may change the whole session.
    pub takes_session: usize,
    /// The `impl` that is being read is the session's.
    in_session: bool,
}

impl Reading {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is not Rust.
    pub fn of(text: &str) -> Result<Reading, String> {
        let mut file = syn::parse_file(text).map_err(|error| error.to_string())?;
        without_tests(&mut file.items);
        let mut reading = Reading::default();
        reading.visit_file(&file);
        for item in &file.items {
            reading.count(item.to_token_stream());
        }
        Ok(reading)
    }

    fn function(&mut self, signature: &Signature, end: proc_macro2::LineColumn) {
        let begin = signature.fn_token.span().start();
        self.functions.push(Function {
            name: signature.ident.to_string(),
            lines: end.line + 1 - begin.line,
            parameters: signature.inputs.len(),
        });
        self.takes_session += usize::from(signature.inputs.iter().any(|input| match input {
            FnArg::Receiver(receiver) => {
                let changes = matches!(receiver.kind, ReceiverKind::Reference(_, _, Some(_)));
                self.in_session && changes
            }
            FnArg::Typed(typed) => is_session(&typed.ty),
        }));
    }

    /// Counts in tokens, which macros' arguments are too.
    fn count(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let is = |place: Option<usize>, text: &str| {
                place.and_then(|place| tokens.get(place)).is_some_and(|t| t.to_string() == text)
            };
            match token {
                TokenTree::Group(group) => self.count(group.stream()),
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let letter = text.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\''));
                    let letter = letter.is_some_and(|l| {
                        l.len() == 1 && l.chars().all(|c| c.is_ascii_alphabetic())
                    });
                    self.tags += usize::from(letter);
                }
                TokenTree::Ident(name) if name == "what" && is(at.checked_sub(1), ".") => {
                    let compared =
                        is(Some(at + 2), "=") && (is(Some(at + 1), "=") || is(Some(at + 1), "!"));
                    self.texts_compared +=
                        usize::from(compared || is_group(tokens.get(at + 1), Delimiter::Brace));
                }
                TokenTree::Ident(name) if name == "depth" => {
                    self.depths += usize::from(is(Some(at + 1), "+") && is(Some(at + 2), "="));
                }
                TokenTree::Ident(name) if READS_TEXT.iter().any(|reads| name == reads) => {
                    let called = is_group(tokens.get(at + 1), Delimiter::Parenthesis);
                    let other = is(at.checked_sub(1), "fn") || is(at.checked_sub(1), ".");
                    self.parses += usize::from(called && !other);
                }
                _ => (),
            }
        }
    }

    fn used(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.used(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.paths.push(with(&name.ident)),
            UseTree::Rename(rename) => self.paths.push(with(&rename.ident)),
            UseTree::Glob(_) => self.paths.push(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.used(item, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, item.block.brace_token.span.close().end());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, item.block.brace_token.span.close().end());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let before =
            std::mem::replace(&mut self.in_session, last_segment(&item.self_ty) == SESSION);
        visit::visit_item_impl(self, item);
        self.in_session = before;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.used(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|s| s.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn is_group(token: Option<&TokenTree>, delimiter: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == delimiter)
}

fn is_session(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => {
            reference.mutability.is_some() && last_segment(&reference.elem) == SESSION
        }
        _ => false,
    }
}

fn last_segment(ty: &Type) -> String {
    match ty {
        Type::Path(path) => {
            path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// Leaves out what is compiled for tests alone.
fn without_tests(items: &mut Vec<Item>) {
    items.retain(|item| !attributes(item).iter().any(is_for_tests));
    for item in items {
        if let Item::Mod(module) = item
            && let Some((_, inner)) = &mut module.content
        {
            without_tests(inner);
        }
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("test")
        || attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reading {
        Reading::of(text).unwrap()
    }

    #[test]
    fn functions_are_measured_and_tests_left_out() {
        let text = "fn a(x: u8,\n y: u8) {\n}\nimpl T { fn b(&self) { fn c() {} } }\n\
            #[cfg(test)] mod tests { fn d() {} }\n#[test] fn e() {}";
        let functions = read(text).functions;
        let told: Vec<(&str, usize, usize)> =
            functions.iter().map(|f| (f.name.as_str(), f.lines, f.parameters)).collect();
        assert_eq!(told, [("a", 3, 2), ("b", 1, 1), ("c", 1, 0)]);
    }

    #[test]
    fn tokens_are_counted_in_macros_too() {
        let read = read(
            "fn f() { if matches!(x, b'Z' | b'E' if r.what == LOST) || t == b'(' || r.what != A {} \
             match r.what { _ => () } let y = r.what; depth += 1; depth = 2; lex(a); s.parse(); parse::parse(b); fn scan() {} }",
        );
        assert_eq!((read.tags, read.texts_compared, read.depths, read.parses), (2, 3, 1, 2));
    }

    #[test]
    fn who_takes_the_session() {
        let read = read(
            "fn a(s: &mut Session) {} fn b(s: &Session) {} fn c(s: &mut crate::Session, x: u8) {}\n\
             impl Session { fn d(&mut self) {} fn e(&self) {} fn f(self) {} } impl Other { fn g(&mut self) {} }",
        );
        assert_eq!(read.takes_session, 3);
    }

    #[test]
    fn paths_are_those_of_use_and_of_code() {
        let read = read("use crate::{a::b, c as d}; use super::e::*; fn f() { self::g::h(); i() }");
        let told: Vec<String> = read.paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(told, ["crate::a::b", "crate::c", "super::e", "self::g::h"]);
    }
}
