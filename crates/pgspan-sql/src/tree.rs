//! PostgreSQL's raw parse tree as far as it is understood, read from what libpg_query
//! writes (`grammar.rs`).
//!
//! Names are libpg_query's, numbers those of its `pg_query.proto`; a test compares every
//! field with the tree of the crate `pg_query`. A node type that is not listed becomes
//! [`Node::Other`], a field that is not listed makes the text one that is not read.

use crate::grammar::{Fields, Value, Written};
use pg_query::protobuf::CoercionForm;

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// PostgreSQL's grammar does not know it; home will say so itself.
    NotSql,
    /// It nests deeper than [`LEVELS_MAX`].
    TooDeep,
    /// The tree has a field that is not listed, or a string that is not UTF-8.
    Odd,
}

/// Messages within each other at most, two for an operator: whatever walks the tree
/// calls itself at most this often.
pub const LEVELS_MAX: usize = 100;

/// What the word `system_user` is to the server that a text is for. Of the words that are
/// reserved since PostgreSQL 14 it is the only one that the grammar also reads where a column
/// may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemUser {
    /// A keyword, which calls a function: from version 16 on.
    Keyword,
    /// A name like any other.
    Name,
}

/// The statements of a text.
///
/// # Errors
/// Why it is not read.
pub fn read(text: &str, system_user: SystemUser) -> Result<Vec<Node>, Unread> {
    let within = Within { levels: LEVELS_MAX, system_user };
    let written = Written::parse(text).ok_or(Unread::NotSql)?;
    let mut statements = Vec::new();
    for field in Fields::of(written.message()) {
        match field.ok_or(Unread::Odd)? {
            (1, _) => {}
            (2, value) => {
                let raw: RawStmt = message(value, within)?;
                statements.push(raw.stmt.ok_or(Unread::NotSql)?);
            }
            _ => return Err(Unread::Odd),
        }
    }
    Ok(statements)
}

/// What consists of numbered fields.
trait Message: Default {
    /// Takes a field in; `rest` is what follows it.
    fn take(&mut self, field: Field<'_>) -> Result<(), Unread>;
}

/// What holds within a message.
#[derive(Clone, Copy)]
struct Within {
    /// How many messages may still lie within each other.
    levels: usize,
    system_user: SystemUser,
}

/// A field of a message.
struct Field<'b> {
    number: u32,
    value: Value<'b>,
    /// What follows it.
    rest: Fields<'b>,
    within: Within,
}

/// Hands the fields of a message to `take`.
fn each_field<'b>(
    value: Value<'b>,
    within: Within,
    mut take: impl FnMut(Field<'b>) -> Result<(), Unread>,
) -> Result<(), Unread> {
    let Value::Bytes(bytes) = value else { return Err(Unread::Odd) };
    let levels = within.levels.checked_sub(1).ok_or(Unread::TooDeep)?;
    let within = Within { levels, ..within };
    let mut rest = Fields::of(bytes);
    while let Some(field) = rest.next() {
        let (number, value) = field.ok_or(Unread::Odd)?;
        take(Field { number, value, rest: rest.clone(), within })?;
    }
    Ok(())
}

fn message<M: Message>(value: Value<'_>, within: Within) -> Result<M, Unread> {
    let mut message = M::default();
    each_field(value, within, |field| message.take(field))?;
    Ok(message)
}

impl<M: Message> Message for Box<M> {
    fn take(&mut self, field: Field<'_>) -> Result<(), Unread> {
        self.as_mut().take(field)
    }
}

/// What a field may hold.
trait Held: Default {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread>;
}

/// A message that nothing of is understood.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Opaque {}

impl Message for Opaque {
    fn take(&mut self, _: Field<'_>) -> Result<(), Unread> {
        Ok(())
    }
}

macro_rules! messages {
    ($($name:ident {
        $($number:literal $field:ident: $kind:ty,)*
        $(unused $($unused:literal $of_it:ident),*,)?
    })*) => { $(
        #[doc = concat!("PostgreSQL's `", stringify!($name), "`.")]
        #[derive(Debug, Default)]
        #[cfg_attr(test, derive(serde::Serialize))]
        pub struct $name {
            $(
                #[doc = concat!("Its `", stringify!($field), "`.")]
                pub $field: $kind,
            )*
        }

        impl Message for $name {
            fn take(&mut self, field: Field<'_>) -> Result<(), Unread> {
                match field.number {
                    $($number => self.$field.hold(field),)*
                    $($($unused => Ok(()),)*)?
                    _ => Err(Unread::Odd),
                }
            }
        }
    )* };
}

macro_rules! nodes {
    ($($number:literal $name:ident: $kind:ty,)*) => {
        /// A node of the tree.
        #[derive(Debug)]
        #[cfg_attr(test, derive(serde::Serialize))]
        pub enum Node {
            $(#[doc = concat!("`", stringify!($name), "`.")] $name($kind),)*
            /// One of a type that is not listed, by its number.
            Other(u32),
            /// An element of a list that is NULL.
            Empty,
        }

        fn node(value: Value<'_>, within: Within) -> Result<Node, Unread> {
            let mut node = Node::Empty;
            each_field(value, within, |field| {
                node = match field.number {
                    $($number => Node::$name(message(field.value, field.within)?),)*
                    other => Node::Other(other),
                };
                Ok(())
            })?;
            Ok(match within.system_user {
                SystemUser::Keyword => node,
                SystemUser::Name => column_of_keyword(node),
            })
        }
    };
}

/// The column that the keyword `system_user` names; any other node as it is.
fn column_of_keyword(node: Node) -> Node {
    match node {
        Node::FuncCall(mut call) if call.is_system_user() => {
            let fields = call.funcname.pop().into_iter().collect();
            Node::ColumnRef(Box::new(ColumnRef { fields, location: call.location }))
        }
        other => other,
    }
}

impl FuncCall {
    /// Whether it is no more than the keyword: `system_user()` and the like are something else.
    fn is_system_user(&self) -> bool {
        self.funcformat == CoercionForm::CoerceSqlSyntax as i32
            && matches!(self.funcname.last(), Some(Node::String(s)) if &*s.sval == "system_user")
    }
}

nodes! {
    2 RangeVar: Box<RangeVar>,
    8 GroupingFunc: Box<GroupingFunc>,
    14 NamedArgExpr: Box<NamedArgExpr>,
    19 BoolExpr: Box<BoolExpr>,
    20 SubLink: Box<SubLink>,
    30 CaseExpr: Box<CaseExpr>,
    31 CaseWhen: Box<CaseWhen>,
    34 RowExpr: Box<RowExpr>,
    36 CoalesceExpr: Box<CoalesceExpr>,
    37 MinMaxExpr: Box<MinMaxExpr>,
    38 SqlvalueFunction: Box<SqlvalueFunction>,
    50 NullTest: Box<NullTest>,
    51 BooleanTest: Box<BooleanTest>,
    62 JoinExpr: Box<JoinExpr>,
    66 TypeName: Box<TypeName>,
    67 ColumnRef: Box<ColumnRef>,
    68 ParamRef: Box<ParamRef>,
    69 AExpr: Box<AExpr>,
    70 TypeCast: Box<TypeCast>,
    71 CollateClause: Box<CollateClause>,
    73 FuncCall: Box<FuncCall>,
    74 AStar: AStar,
    75 AIndices: Box<AIndices>,
    76 AIndirection: Box<AIndirection>,
    77 AArrayExpr: Box<AArrayExpr>,
    78 ResTarget: Box<ResTarget>,
    80 SortBy: Box<SortBy>,
    81 WindowDef: Box<WindowDef>,
    82 RangeSubselect: Box<RangeSubselect>,
    83 RangeFunction: Box<RangeFunction>,
    90 DefElem: Box<DefElem>,
    104 GroupingSet: Box<GroupingSet>,
    112 CommonTableExpr: Box<CommonTableExpr>,
    138 SelectStmt: Box<SelectStmt>,
    154 CopyStmt: Box<CopyStmt>,
    238 ExplainStmt: Box<ExplainStmt>,
    263 Integer: Integer,
    264 Float: Float,
    265 Boolean: Boolean,
    266 String: Str,
    267 BitString: BitString,
    268 List: Box<List>,
    271 AConst: Box<AConst>,
}

messages! {
    SelectStmt {
        1 distinct_clause: Vec<Node>,
        2 into_clause: Option<Box<Opaque>>,
        3 target_list: Vec<Node>,
        4 from_clause: Vec<Node>,
        5 where_clause: Option<Node>,
        6 group_clause: Vec<Node>,
        8 having_clause: Option<Node>,
        9 window_clause: Vec<Node>,
        10 values_lists: Vec<Node>,
        11 sort_clause: Vec<Node>,
        12 limit_offset: Option<Node>,
        13 limit_count: Option<Node>,
        15 locking_clause: Vec<Node>,
        16 with_clause: Option<Box<WithClause>>,
        17 op: i32,
        19 larg: Option<Box<SelectStmt>>,
        20 rarg: Option<Box<SelectStmt>>,
        unused 7 group_distinct, 14 limit_option, 18 all,
    }
    WithClause {
        1 ctes: Vec<Node>,
        2 recursive: bool,
        unused 3 location,
    }
    CommonTableExpr {
        1 ctename: Box<str>,
        4 ctequery: Option<Node>,
        5 search_clause: Option<Box<CteSearchClause>>,
        6 cycle_clause: Option<Box<CteCycleClause>>,
        7 location: i32,
        unused 2 aliascolnames, 3 ctematerialized,
    }
    CteSearchClause {
        1 search_col_list: Vec<Node>,
        unused 2 search_breadth_first, 3 search_seq_column, 4 location,
    }
    CteCycleClause {
        1 cycle_col_list: Vec<Node>,
        3 cycle_mark_value: Option<Node>,
        4 cycle_mark_default: Option<Node>,
        unused 2 cycle_mark_column, 5 cycle_path_column, 6 location,
    }
    RangeVar {
        1 catalogname: Box<str>,
        2 schemaname: Box<str>,
        3 relname: Box<str>,
        4 inh: bool,
        6 alias: Option<Box<Alias>>,
        7 location: i32,
        unused 5 relpersistence,
    }
    Alias {
        1 aliasname: Box<str>,
        2 colnames: Vec<Node>,
    }
    RangeSubselect {
        1 lateral: bool,
        2 subquery: Option<Node>,
        3 alias: Option<Box<Alias>>,
    }
    RangeFunction {
        4 functions: Vec<Node>,
        5 alias: Option<Box<Alias>>,
        6 coldeflist: Vec<Node>,
        unused 1 lateral, 2 ordinality, 3 is_rowsfrom,
    }
    JoinExpr {
        1 jointype: i32,
        2 is_natural: bool,
        3 larg: Option<Node>,
        4 rarg: Option<Node>,
        5 using_clause: Vec<Node>,
        6 join_using_alias: Option<Box<Alias>>,
        7 quals: Option<Node>,
        8 alias: Option<Box<Alias>>,
    }
    ResTarget {
        2 indirection: Vec<Node>,
        3 val: Option<Node>,
        unused 1 name, 4 location,
    }
    SortBy {
        1 node: Option<Node>,
        4 use_op: Vec<Node>,
        unused 2 sortby_dir, 3 sortby_nulls, 5 location,
    }
    WindowDef {
        3 partition_clause: Vec<Node>,
        4 order_clause: Vec<Node>,
        6 start_offset: Option<Node>,
        7 end_offset: Option<Node>,
        unused 1 name, 2 refname, 5 frame_options, 8 location,
    }
    GroupingSet {
        2 content: Vec<Node>,
        unused 1 kind, 3 location,
    }
    GroupingFunc {
        2 args: Vec<Node>,
        unused 5 location,
    }
    ColumnRef {
        1 fields: Vec<Node>,
        2 location: i32,
    }
    ParamRef {
        1 number: i32,
        unused 2 location,
    }
    AExpr {
        1 kind: i32,
        2 name: Vec<Node>,
        3 lexpr: Option<Node>,
        4 rexpr: Option<Node>,
        unused 5 rexpr_list_start, 6 rexpr_list_end, 7 location,
    }
    BoolExpr {
        2 boolop: i32,
        3 args: Vec<Node>,
        unused 4 location,
    }
    SubLink {
        4 testexpr: Option<Node>,
        5 oper_name: Vec<Node>,
        6 subselect: Option<Node>,
        unused 2 sub_link_type, 7 location,
    }
    FuncCall {
        1 funcname: Vec<Node>,
        2 args: Vec<Node>,
        3 agg_order: Vec<Node>,
        4 agg_filter: Option<Node>,
        5 over: Option<Box<WindowDef>>,
        10 funcformat: i32,
        11 location: i32,
        unused 6 agg_within_group, 7 agg_star, 8 agg_distinct, 9 func_variadic,
    }
    NamedArgExpr {
        2 arg: Option<Node>,
        unused 3 name, 4 argnumber, 5 location,
    }
    TypeCast {
        1 arg: Option<Node>,
        2 type_name: Option<Box<TypeName>>,
        unused 3 location,
    }
    TypeName {
        1 names: Vec<Node>,
        5 typmods: Vec<Node>,
        unused 3 setof, 4 pct_type, 6 typemod, 7 array_bounds, 8 location,
    }
    CollateClause {
        1 arg: Option<Node>,
        unused 2 collname, 3 location,
    }
    CaseExpr {
        4 arg: Option<Node>,
        5 args: Vec<Node>,
        6 defresult: Option<Node>,
        unused 7 location,
    }
    CaseWhen {
        2 expr: Option<Node>,
        3 result: Option<Node>,
        unused 4 location,
    }
    CoalesceExpr {
        4 args: Vec<Node>,
        unused 5 location,
    }
    MinMaxExpr {
        6 args: Vec<Node>,
        unused 5 op, 7 location,
    }
    NullTest {
        2 arg: Option<Node>,
        unused 3 nulltesttype, 5 location,
    }
    BooleanTest {
        2 arg: Option<Node>,
        unused 3 booltesttype, 4 location,
    }
    RowExpr {
        2 args: Vec<Node>,
        unused 4 row_format, 6 location,
    }
    AArrayExpr {
        1 elements: Vec<Node>,
        unused 2 list_start, 3 list_end, 4 location,
    }
    AIndirection {
        1 arg: Option<Node>,
        2 indirection: Vec<Node>,
    }
    AIndices {
        2 lidx: Option<Node>,
        3 uidx: Option<Node>,
        unused 1 is_slice,
    }
    SqlvalueFunction {
        2 op: i32,
        unused 4 typmod, 5 location,
    }
    List {
        1 items: Vec<Node>,
    }
    Str {
        1 sval: Box<str>,
    }
    Integer {
        1 ival: i32,
    }
    Float {
        unused 1 fval,
    }
    Boolean {
        1 boolval: bool,
    }
    BitString {
        unused 1 bsval,
    }
    AStar {
    }
    CopyStmt {
        1 relation: Option<Box<RangeVar>>,
        2 query: Option<Node>,
        4 is_from: bool,
        5 is_program: bool,
        6 filename: Box<str>,
        unused 3 attlist, 7 options, 8 where_clause,
    }
    ExplainStmt {
        1 query: Option<Node>,
        2 options: Vec<Node>,
    }
    DefElem {
        2 defname: Box<str>,
        3 arg: Option<Node>,
        unused 1 defnamespace, 4 defaction, 5 location, 6 arg_location,
    }
    RawStmt {
        1 stmt: Option<Node>,
        unused 2 stmt_location, 3 stmt_len,
    }
}

/// A constant.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct AConst {
    /// Its value as a node of its own; `None` for NULL.
    pub val: Option<Node>,
}

impl Message for AConst {
    fn take(&mut self, field: Field<'_>) -> Result<(), Unread> {
        let Field { number, value, within, .. } = field;
        self.val = Some(match number {
            1 => Node::Integer(message(value, within)?),
            2 => Node::Float(message(value, within)?),
            3 => Node::Boolean(message(value, within)?),
            4 => Node::String(message(value, within)?),
            5 => Node::BitString(message(value, within)?),
            // That it is NULL, and where it is.
            10 | 11 => return Ok(()),
            _ => return Err(Unread::Odd),
        });
        Ok(())
    }
}

/// Names of node types that are not listed and may stand in a query.
const OTHERS: &[(u32, &str)] = &[
    (3, "TableFunc"),
    (11, "MergeSupportFunc"),
    (39, "XmlExpr"),
    (42, "JsonValueExpr"),
    (44, "JsonIsPredicate"),
    (45, "JsonBehavior"),
    (55, "SetToDefault"),
    (56, "CurrentOfExpr"),
    (79, "MultiAssignRef"),
    (84, "RangeTableFunc"),
    (85, "RangeTableFuncCol"),
    (86, "RangeTableSample"),
    (87, "ColumnDef"),
    (92, "XmlSerialize"),
    (117, "JsonOutput"),
    (118, "JsonArgument"),
    (119, "JsonFuncExpr"),
    (120, "JsonTablePathSpec"),
    (121, "JsonTable"),
    (122, "JsonTableColumn"),
    (123, "JsonKeyValue"),
    (124, "JsonParseExpr"),
    (125, "JsonScalarExpr"),
    (126, "JsonSerializeExpr"),
    (127, "JsonObjectConstructor"),
    (128, "JsonArrayConstructor"),
    (129, "JsonArrayQueryConstructor"),
    (131, "JsonObjectAgg"),
    (132, "JsonArrayAgg"),
];

/// The name of a node type that is not listed.
pub fn other_name(number: u32) -> String {
    let own = OTHERS.iter().find(|(n, _)| *n == number);
    own.map_or_else(|| format!("node type {number}"), |(_, name)| (*name).to_owned())
}

impl Held for i32 {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        let Value::Number(number) = field.value else { return Err(Unread::Odd) };
        // A negative number has been widened with its sign.
        *self = number as i32;
        Ok(())
    }
}

impl Held for bool {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        let Value::Number(number) = field.value else { return Err(Unread::Odd) };
        *self = number != 0;
        Ok(())
    }
}

impl Held for Box<str> {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        let Value::Bytes(bytes) = field.value else { return Err(Unread::Odd) };
        *self = std::str::from_utf8(bytes).map_err(|_| Unread::Odd)?.into();
        Ok(())
    }
}

impl Held for Option<Node> {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        *self = Some(node(field.value, field.within)?);
        Ok(())
    }
}

impl Held for Vec<Node> {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        if self.is_empty() {
            // Exactly as many as there are, since a text may have a million.
            let same = |f: &Option<(u32, _)>| matches!(f, Some((n, _)) if *n == field.number);
            self.reserve_exact(1 + field.rest.take_while(same).count());
        }
        self.push(node(field.value, field.within)?);
        Ok(())
    }
}

impl<M: Message> Held for Option<Box<M>> {
    fn hold(&mut self, field: Field<'_>) -> Result<(), Unread> {
        *self = Some(message(field.value, field.within)?);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    /// Whether the crate's tree has what ours has. What ours leaves out is either listed as
    /// unused, or not there at all: else the text is not read.
    fn agree(own: &Json, theirs: &Json) -> bool {
        let theirs = match theirs.as_object() {
            Some(map) if map.len() == 1 => map.get("node").unwrap_or(theirs),
            _ => theirs,
        };
        match own {
            Json::Object(fields) => fields.iter().all(|(name, value)| match name.as_str() {
                "Other" => {
                    let name = other_name(u32::try_from(value.as_u64().unwrap()).unwrap());
                    theirs.get(&name).is_some() || name.starts_with("node type")
                }
                // A constant's value is a node in ours only.
                "val" if theirs.get("isnull").is_some() => constant(value, &theirs["val"]),
                _ => theirs.get(name).is_some_and(|t| agree(value, t)),
            }),
            Json::Array(list) => {
                let theirs = theirs.as_array().unwrap();
                list.len() == theirs.len() && list.iter().zip(theirs).all(|(o, t)| agree(o, t))
            }
            Json::String(s) if s == "Empty" => theirs.is_null(),
            _ => own == theirs,
        }
    }

    fn constant(own: &Json, theirs: &Json) -> bool {
        let pairs = [
            ("Integer", "Ival"),
            ("Float", "Fval"),
            ("Boolean", "Boolval"),
            ("String", "Sval"),
            ("BitString", "Bsval"),
        ];
        let same = |(o, t): (&str, &str)| match (own.get(o), theirs.get(t)) {
            (None, None) => true,
            (Some(own), Some(theirs)) => agree(own, theirs),
            _ => false,
        };
        pairs.into_iter().all(same) && own.is_null() == theirs.is_null()
    }

    fn compare(text: &str) {
        let theirs = pg_query::parse(text, pg_query::ParserOptions::DEFAULT);
        let own = read(text, SystemUser::Keyword);
        match (&own, theirs) {
            (Ok(own), Ok(theirs)) => {
                let own = serde_json::to_value(own).unwrap();
                let theirs = serde_json::to_value(&theirs.protobuf.stmts).unwrap();
                let theirs: Vec<&Json> =
                    theirs.as_array().unwrap().iter().map(|s| &s["stmt"]).collect();
                let own = own.as_array().unwrap();
                assert_eq!(own.len(), theirs.len(), "{text}");
                for (own, theirs) in own.iter().zip(theirs) {
                    assert!(agree(own, theirs), "{text}\n{own}\n{theirs}");
                }
            }
            (Err(Unread::TooDeep), Err(pg_query::Error::Decode(_))) => {}
            (
                Err(Unread::NotSql),
                Err(pg_query::Error::Parse(_) | pg_query::Error::Conversion(_)),
            ) => {}
            (own, theirs) => panic!("{text}: {own:?}, {:?}", theirs.err()),
        }
    }

    #[test]
    fn the_tree_is_that_of_the_crate() {
        for text in TEXTS {
            compare(text);
        }
    }

    #[test]
    fn the_cases_of_parity_are_read_alike() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/cases");
        for entry in std::fs::read_dir(folder).unwrap() {
            let cases = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for paragraph in cases.split("\n\n") {
                for text in paragraph.split_inclusive('\n').chain([paragraph]) {
                    compare(text);
                }
                let whole =
                    paragraph.split_once('\n').and_then(|(_, rest)| rest.split_once("\n----"));
                if let Some((text, _)) = whole {
                    compare(text);
                }
            }
        }
    }

    #[test]
    fn the_same_depth_is_read() {
        let forms: [&dyn Fn(usize) -> String; 5] = [
            &|n| format!("select a{}", " || a".repeat(n)),
            &|n| format!("select a{}", " union select a".repeat(n)),
            &|n| format!("select {}a{}", "f(".repeat(n), ")".repeat(n)),
            &|n| format!("select {}1{}", "(select ".repeat(n), ")".repeat(n)),
            &|n| format!("select 1 from a{} where 'a'::t = b", " join a on true".repeat(n)),
        ];
        for form in forms {
            for n in 0..110 {
                compare(&form(n));
            }
            assert_eq!(read(&form(110), SystemUser::Keyword).err(), Some(Unread::TooDeep));
        }
    }

    #[test]
    fn a_keyword_of_later_servers_is_a_column() {
        let first = |text: &str, system_user| {
            let Node::SelectStmt(select) = read(text, system_user).unwrap().remove(0) else {
                panic!("{text}")
            };
            let Node::ResTarget(target) = &select.target_list[0] else { panic!("{text}") };
            serde_json::to_value(&target.val).unwrap()
        };
        let (word, quoted) = ("select system_user", "select \"system_user\"");
        let column = first(quoted, SystemUser::Name);
        assert!(column["ColumnRef"]["fields"].is_array());
        assert_eq!(first(word, SystemUser::Name), column);
        assert_eq!(first(quoted, SystemUser::Keyword), column);
        assert!(first(word, SystemUser::Keyword)["FuncCall"].is_object());
        let call = first("select pg_catalog.system_user()", SystemUser::Name);
        assert!(call["FuncCall"].is_object());
    }

    /// Every node type that is listed, in every form that has fields of its own.
    const TEXTS: &[&str] = &[
        "select",
        "select distinct on (a, b.c) a as x, b.*, c[1], d[1:2].e, $1, -5, 1.5, 'x', b'1', x'f', null, true",
        "select distinct a from s.t as x(a, b), only c.s.t, t * where not a = any($2) and b is null or c is not true",
        "select all count(*) filter (where a), sum(distinct a order by b desc nulls last using <) over w, f(variadic a), f(x => 1) within group (order by a) from t group by distinct a, (), rollup (a, b), cube (a), grouping sets ((a), b) having grouping(a, b) > 1 window w as (v partition by a order by b rows between 1 preceding and current row exclude ties) order by 1 using >, a nulls first limit 5 offset $3",
        "select 1 from (a join b using (x, y) as j) as k(m) natural left join c full join d on a.b = d.e cross join e",
        "select 1 from lateral (select 1) as s, rows from (f(1), g(2)) with ordinality as r(a), h() as x(a int, b text)",
        "with recursive a(x) as not materialized (select 1 union all select x from a) search depth first by x set o cycle x set m to 'y' default 'n' using p, b as (values (1, default), (2, 3)) select * from a intersect all (select 1 except select 2 limit all) order by 1 fetch first 3 rows with ties",
        "select case a when 1 then 2 else 3 end, case when a then b end, coalesce(a, b), greatest(a, 1), least(b, 2), nullif(a, b), row(a, b), (a, b) = (1, 2), array[a, 1], array[[1], [2]], array(select 1), exists (select 1), a in (1, 2), a not in (select 1), (a, b) < all (select 1, 2), a operator(pg_catalog.+) b, a between symmetric 1 and 2, a is distinct from b, a like 'x' escape 'y', a similar to 'z'",
        "select a::numeric(5, 2)[], cast('x' as s.t), interval '1' day(3), a collate \"C\", a at time zone 'utc', (r).x.y, (f(a)).*, current_timestamp(3), current_user, session_user, system_user, localtime",
        "select xmlelement(name a, b), json_object('a': 1), json_array(1), json_value(a, '$'), merge_action() from t tablesample system (1) repeatable (2), xmltable('a' passing b columns c int), json_table(a, '$' columns (b int))",
        "select * into x from t for update of t skip locked",
        "copy (select 1) to stdout (format csv, header); copy t from stdin; copy t to 'file'",
        "explain (analyze, verbose off, costs 1, format json, a.b 'x') select 1; explain analyze verbose select 1",
        "insert into t values (1); update t set a = 1; create table t(a int); select 1; ; set a to b",
        "selec 1",
        "select '\0'",
        "",
        "-- nothing",
    ];
}
