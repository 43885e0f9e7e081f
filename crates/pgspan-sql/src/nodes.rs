//! The nodes of PostgreSQL's raw parse tree that an expression or a query may consist of,
//! walked by type. A node type that is not listed is unknown, and a field that is added to a
//! listed one ([`crate::tree`]) does not compile until somebody has thought about it.

use crate::tree::{self, Node, other_name};
use pg_query::protobuf::SetOperation;
use std::fmt::Write;

/// What a node consists of.
pub type Children<'a> = Vec<&'a Node>;

/// A node type that is not listed, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

/// The value of a `String` node.
pub fn string(node: &Node) -> Option<&str> {
    match node {
        Node::String(s) => Some(&s.sval),
        _ => None,
    }
}

/// The strings of a list of `String` nodes, e.g. a function's qualified name.
/// `None` when the list holds anything else (`*`, a subscript).
pub fn strings(list: &[Node]) -> Option<Vec<&str>> {
    list.iter().map(string).collect()
}

/// A place in the text, or `None` where the grammar gives none.
pub fn place(location: i32) -> Option<usize> {
    usize::try_from(location).ok()
}

/// The name of a node's type.
pub fn type_name(node: &Node) -> String {
    /// Takes what `Debug` prints up to the first bracket, and then no more of it.
    struct Head(String);
    impl Write for Head {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = text.find(['(', ' ', '{']);
            self.0.push_str(&text[..end.unwrap_or(text.len())]);
            if end.is_some() { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    if let Node::Other(number) = node {
        return other_name(*number);
    }
    let mut head = Head(String::new());
    let _ = write!(head, "{node:?}");
    head.0
}

struct Found<'a>(Children<'a>);

impl<'a> Found<'a> {
    fn list(mut self, nodes: &'a [Node]) -> Self {
        self.0.reserve(nodes.len());
        self.0.extend(nodes.iter().filter(|n| !matches!(n, Node::Empty)));
        self
    }

    fn one(mut self, node: &'a Option<Node>) -> Self {
        self.0.extend(node);
        self
    }
}

/// The nodes right below one, in the order of the tree. A [`tree::SelectStmt`] has
/// [`select_children`]; a type name's modifiers are among its children.
///
/// # Errors
/// The node's type is not listed.
pub fn children(node: &Node) -> Result<Children<'_>, Unknown> {
    let none = Found(Vec::new());
    let found = match node {
        Node::SelectStmt(s) => return select_children(s),
        Node::ColumnRef(_)
        | Node::ParamRef(_)
        | Node::AStar(_)
        | Node::String(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::Boolean(_)
        | Node::BitString(_)
        | Node::AConst(_)
        | Node::Empty
        | Node::SqlvalueFunction(_)
        | Node::RangeVar(_) => none,
        Node::List(l) => none.list(&l.items),
        Node::ResTarget(r) => {
            let tree::ResTarget { indirection, val } = r.as_ref();
            none.list(indirection).one(val)
        }
        Node::JoinExpr(j) => return Ok(join_children(j)),
        Node::RangeSubselect(r) => {
            let tree::RangeSubselect { lateral: _, subquery, alias: _ } = r.as_ref();
            none.one(subquery)
        }
        Node::RangeFunction(f) => {
            let tree::RangeFunction { functions, alias: _, coldeflist } = f.as_ref();
            none.list(functions).list(coldeflist)
        }
        Node::CommonTableExpr(c) => {
            let tree::CommonTableExpr {
                ctename: _,
                ctequery,
                search_clause,
                cycle_clause,
                location: _,
            } = c.as_ref();
            // Their columns are the WITH query's own.
            if let Some(search) = search_clause {
                let tree::CteSearchClause { search_col_list: _ } = search.as_ref();
            }
            let marks = cycle_clause.as_ref().map(|cycle| {
                let tree::CteCycleClause {
                    cycle_col_list: _,
                    cycle_mark_value,
                    cycle_mark_default,
                } = cycle.as_ref();
                [cycle_mark_value, cycle_mark_default]
            });
            let found = none.one(ctequery);
            match marks {
                Some([value, default]) => found.one(value).one(default),
                None => found,
            }
        }
        other => return expression_children(other),
    };
    Ok(found.0)
}

/// The same of what stands in expressions.
fn expression_children(node: &Node) -> Result<Children<'_>, Unknown> {
    let none = Found(Vec::new());
    let found = match node {
        Node::AExpr(e) => {
            let tree::AExpr { kind: _, name, lexpr, rexpr } = e.as_ref();
            none.list(name).one(lexpr).one(rexpr)
        }
        Node::BoolExpr(b) => {
            let tree::BoolExpr { boolop: _, args } = b.as_ref();
            none.list(args)
        }
        Node::FuncCall(f) => return Ok(call_children(f)),
        Node::TypeCast(t) => {
            let tree::TypeCast { arg, type_name } = t.as_ref();
            let typmods = type_name.as_ref().map_or(&[][..], |t| &t.typmods);
            none.one(arg).list(typmods)
        }
        Node::TypeName(t) => none.list(&t.typmods),
        Node::CaseExpr(c) => {
            let tree::CaseExpr { arg, args, defresult } = c.as_ref();
            none.one(arg).list(args).one(defresult)
        }
        Node::CaseWhen(w) => {
            let tree::CaseWhen { expr, result } = w.as_ref();
            none.one(expr).one(result)
        }
        Node::CoalesceExpr(c) => none.list(&c.args),
        Node::MinMaxExpr(m) => none.list(&m.args),
        Node::NullTest(n) => none.one(&n.arg),
        Node::BooleanTest(b) => none.one(&b.arg),
        Node::SubLink(s) => {
            let tree::SubLink { testexpr, oper_name, subselect } = s.as_ref();
            none.one(testexpr).list(oper_name).one(subselect)
        }
        Node::SortBy(s) => {
            let tree::SortBy { node, use_op } = s.as_ref();
            none.one(node).list(use_op)
        }
        Node::WindowDef(w) => return Ok(window_children(w)),
        Node::GroupingSet(g) => none.list(&g.content),
        Node::GroupingFunc(g) => none.list(&g.args),
        Node::AArrayExpr(a) => none.list(&a.elements),
        Node::AIndirection(i) => {
            let tree::AIndirection { arg, indirection } = i.as_ref();
            none.one(arg).list(indirection)
        }
        Node::AIndices(i) => {
            let tree::AIndices { lidx, uidx } = i.as_ref();
            none.one(lidx).one(uidx)
        }
        Node::RowExpr(r) => none.list(&r.args),
        Node::CollateClause(c) => none.one(&c.arg),
        Node::NamedArgExpr(n) => none.one(&n.arg),
        other => return Err(Unknown(type_name(other))),
    };
    Ok(found.0)
}

fn join_children(join: &tree::JoinExpr) -> Children<'_> {
    let tree::JoinExpr {
        jointype: _,
        is_natural: _,
        larg,
        rarg,
        using_clause: _,
        join_using_alias: _,
        quals,
        alias: _,
    } = join;
    Found(Vec::new()).one(larg).one(rarg).one(quals).0
}

fn call_children(call: &tree::FuncCall) -> Children<'_> {
    let tree::FuncCall {
        funcname: _,
        args,
        agg_order,
        agg_filter,
        over,
        funcformat: _,
        location: _,
    } = call;
    let mut found = Found(Vec::new()).list(args).list(agg_order).one(agg_filter).0;
    found.extend(over.iter().flat_map(|w| window_children(w)));
    found
}

fn window_children(window: &tree::WindowDef) -> Children<'_> {
    let tree::WindowDef { partition_clause, order_clause, start_offset, end_offset } = window;
    Found(Vec::new()).list(partition_clause).list(order_clause).one(start_offset).one(end_offset).0
}

/// The nodes right below a query, WITH first. Both sides of a set operation are queries
/// and no nodes: they are not among them.
///
/// # Errors
/// INTO and row locks are not listed.
pub fn select_children(select: &tree::SelectStmt) -> Result<Children<'_>, Unknown> {
    let tree::SelectStmt {
        distinct_clause,
        into_clause,
        target_list,
        from_clause,
        where_clause,
        group_clause,
        having_clause,
        window_clause,
        values_lists,
        sort_clause,
        limit_offset,
        limit_count,
        locking_clause,
        with_clause,
        op: _,
        larg: _,
        rarg: _,
    } = select;
    if into_clause.is_some() {
        return Err(Unknown("IntoClause".to_owned()));
    }
    if !locking_clause.is_empty() {
        return Err(Unknown("LockingClause".to_owned()));
    }
    let ctes = with_clause.as_ref().map_or(&[][..], |w| &w.ctes);
    Ok(Found(Vec::new())
        .list(ctes)
        .list(from_clause)
        .list(target_list)
        .one(where_clause)
        .list(group_clause)
        .one(having_clause)
        .list(window_clause)
        .list(distinct_clause)
        .list(values_lists)
        .list(sort_clause)
        .one(limit_offset)
        .one(limit_count)
        .0)
}

/// Whether a query is no set operation.
pub fn is_leaf(select: &tree::SelectStmt) -> bool {
    select.op == SetOperation::SetopNone as i32
}

/// Calls `f` for every node below a query, parents first, sides of set operations included.
///
/// # Errors
/// A node of a type that is not listed, or `f`'s own.
pub fn visit<'a, E: From<Unknown>>(
    select: &'a tree::SelectStmt,
    f: &mut dyn FnMut(&'a Node) -> Result<(), E>,
) -> Result<(), E> {
    for side in [&select.larg, &select.rarg].into_iter().flatten() {
        visit(side, f)?;
    }
    select_children(select)?.into_iter().try_for_each(|n| visit_node(n, f))
}

/// The same for a node and all below it.
///
/// # Errors
/// As [`visit`].
pub fn visit_node<'a, E: From<Unknown>>(
    node: &'a Node,
    f: &mut dyn FnMut(&'a Node) -> Result<(), E>,
) -> Result<(), E> {
    f(node)?;
    match node {
        Node::SelectStmt(s) => visit(s, f),
        other => children(other)?.into_iter().try_for_each(|n| visit_node(n, f)),
    }
}

/// Calls `f` for each expression that a query in FROM or in WITH, or a function in FROM, gives as
/// a column: PostgreSQL may put it in the column's place.
///
/// # Errors
/// As [`visit`].
pub fn visit_derived(select: &tree::SelectStmt, f: &mut dyn FnMut(&Node)) -> Result<(), Unknown> {
    fn outputs(select: &tree::SelectStmt, f: &mut dyn FnMut(&Node)) {
        for side in [&select.larg, &select.rarg].into_iter().flatten() {
            outputs(side, f);
        }
        select.target_list.iter().chain(&select.values_lists).for_each(|n| output(n, f));
    }
    fn output(node: &Node, f: &mut dyn FnMut(&Node)) {
        match node {
            Node::ResTarget(_) | Node::List(_) => {
                children(node).unwrap_or_default().into_iter().for_each(|n| output(n, f));
            }
            other => f(other),
        }
    }
    visit(select, &mut |node| {
        let query = match node {
            Node::RangeSubselect(r) => &r.subquery,
            Node::CommonTableExpr(c) => &c.ctequery,
            Node::RangeFunction(call) => {
                call.functions.iter().for_each(&mut *f);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(Node::SelectStmt(query)) = query {
            outputs(query, f);
        }
        Ok(())
    })
}
