//! The nodes of PostgreSQL's raw parse tree that an expression or a query may consist of,
//! walked by type. A node type that is not listed is unknown, and a field that libpg_query
//! adds to a listed one does not compile until somebody has thought about it.

use pg_query::NodeEnum;
use pg_query::protobuf::{self, Node, a_const};
use std::fmt::Write;

/// What a node consists of.
pub type Children<'a> = Vec<&'a NodeEnum>;

/// A node type that is not listed, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

/// The value of a `String` node.
pub fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(s) => Some(&s.sval),
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
pub fn type_name(node: &NodeEnum) -> String {
    /// Takes what `Debug` prints up to the first bracket, and then no more of it.
    struct Head(String);
    impl Write for Head {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = text.find(['(', ' ', '{']);
            self.0.push_str(&text[..end.unwrap_or(text.len())]);
            if end.is_some() { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut head = Head(String::new());
    let _ = write!(head, "{node:?}");
    head.0
}

struct Found<'a>(Children<'a>);

impl<'a> Found<'a> {
    fn list(mut self, nodes: &'a [Node]) -> Self {
        self.0.extend(nodes.iter().filter_map(|n| n.node.as_ref()));
        self
    }

    fn one(mut self, node: &'a Option<Box<Node>>) -> Self {
        self.0.extend(node.as_ref().and_then(|n| n.node.as_ref()));
        self
    }
}

/// The nodes right below one, in the order of the tree. A [`protobuf::SelectStmt`] has
/// [`select_children`]; a type name's modifiers are among its children.
///
/// # Errors
/// The node's type is not listed.
pub fn children(node: &NodeEnum) -> Result<Children<'_>, Unknown> {
    let none = Found(Vec::new());
    let found = match node {
        NodeEnum::SelectStmt(s) => return select_children(s),
        NodeEnum::ColumnRef(_)
        | NodeEnum::ParamRef(_)
        | NodeEnum::AStar(_)
        | NodeEnum::String(_)
        | NodeEnum::Integer(_)
        | NodeEnum::Float(_)
        | NodeEnum::Boolean(_)
        | NodeEnum::BitString(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::RangeVar(_) => none,
        NodeEnum::AConst(c) => match &c.val {
            None
            | Some(
                a_const::Val::Ival(_)
                | a_const::Val::Fval(_)
                | a_const::Val::Boolval(_)
                | a_const::Val::Sval(_)
                | a_const::Val::Bsval(_),
            ) => none,
        },
        NodeEnum::List(protobuf::List { items }) => none.list(items),
        NodeEnum::ResTarget(r) => {
            let protobuf::ResTarget { name: _, indirection, val, location: _ } = r.as_ref();
            none.list(indirection).one(val)
        }
        NodeEnum::JoinExpr(j) => return Ok(join_children(j)),
        NodeEnum::RangeSubselect(r) => {
            let protobuf::RangeSubselect { lateral: _, subquery, alias: _ } = r.as_ref();
            none.one(subquery)
        }
        NodeEnum::RangeFunction(protobuf::RangeFunction {
            lateral: _,
            ordinality: _,
            is_rowsfrom: _,
            functions,
            alias: _,
            coldeflist,
        }) => none.list(functions).list(coldeflist),
        NodeEnum::CommonTableExpr(c) => {
            let protobuf::CommonTableExpr {
                ctename: _,
                aliascolnames: _,
                ctematerialized: _,
                ctequery,
                search_clause,
                cycle_clause,
                location: _,
                cterecursive: _,
                cterefcount: _,
                ctecolnames: _,
                ctecoltypes: _,
                ctecoltypmods: _,
                ctecolcollations: _,
            } = c.as_ref();
            // Their columns are the WITH query's own.
            if let Some(search) = search_clause {
                let protobuf::CteSearchClause {
                    search_col_list: _,
                    search_breadth_first: _,
                    search_seq_column: _,
                    location: _,
                } = search;
            }
            let marks = cycle_clause.as_ref().map(|cycle| {
                let protobuf::CteCycleClause {
                    cycle_col_list: _,
                    cycle_mark_column: _,
                    cycle_mark_value,
                    cycle_mark_default,
                    cycle_path_column: _,
                    location: _,
                    cycle_mark_type: _,
                    cycle_mark_typmod: _,
                    cycle_mark_collation: _,
                    cycle_mark_neop: _,
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
fn expression_children(node: &NodeEnum) -> Result<Children<'_>, Unknown> {
    let none = Found(Vec::new());
    let found = match node {
        NodeEnum::AExpr(e) => {
            let protobuf::AExpr {
                kind: _,
                name,
                lexpr,
                rexpr,
                rexpr_list_start: _,
                rexpr_list_end: _,
                location: _,
            } = e.as_ref();
            none.list(name).one(lexpr).one(rexpr)
        }
        NodeEnum::BoolExpr(b) => {
            let protobuf::BoolExpr { xpr: _, boolop: _, args, location: _ } = b.as_ref();
            none.list(args)
        }
        NodeEnum::FuncCall(f) => return Ok(call_children(f)),
        NodeEnum::TypeCast(t) => {
            let protobuf::TypeCast { arg, type_name, location: _ } = t.as_ref();
            let typmods = type_name.as_ref().map_or(&[][..], |t| &t.typmods);
            none.one(arg).list(typmods)
        }
        NodeEnum::TypeName(t) => none.list(&t.typmods),
        NodeEnum::CaseExpr(c) => {
            let protobuf::CaseExpr {
                xpr: _,
                casetype: _,
                casecollid: _,
                arg,
                args,
                defresult,
                location: _,
            } = c.as_ref();
            none.one(arg).list(args).one(defresult)
        }
        NodeEnum::CaseWhen(w) => {
            let protobuf::CaseWhen { xpr: _, expr, result, location: _ } = w.as_ref();
            none.one(expr).one(result)
        }
        NodeEnum::CoalesceExpr(c) => none.list(&c.args),
        NodeEnum::MinMaxExpr(m) => none.list(&m.args),
        NodeEnum::NullTest(n) => none.one(&n.arg),
        NodeEnum::BooleanTest(b) => none.one(&b.arg),
        NodeEnum::SubLink(s) => {
            let protobuf::SubLink {
                xpr: _,
                sub_link_type: _,
                sub_link_id: _,
                testexpr,
                oper_name,
                subselect,
                location: _,
            } = s.as_ref();
            none.one(testexpr).list(oper_name).one(subselect)
        }
        NodeEnum::SortBy(s) => {
            let protobuf::SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } =
                s.as_ref();
            none.one(node).list(use_op)
        }
        NodeEnum::WindowDef(w) => return Ok(window_children(w)),
        NodeEnum::GroupingSet(g) => none.list(&g.content),
        NodeEnum::GroupingFunc(g) => none.list(&g.args),
        NodeEnum::AArrayExpr(a) => none.list(&a.elements),
        NodeEnum::AIndirection(i) => {
            let protobuf::AIndirection { arg, indirection } = i.as_ref();
            none.one(arg).list(indirection)
        }
        NodeEnum::AIndices(i) => {
            let protobuf::AIndices { is_slice: _, lidx, uidx } = i.as_ref();
            none.one(lidx).one(uidx)
        }
        NodeEnum::RowExpr(r) => none.list(&r.args),
        NodeEnum::CollateClause(c) => none.one(&c.arg),
        NodeEnum::NamedArgExpr(n) => none.one(&n.arg),
        other => return Err(Unknown(type_name(other))),
    };
    Ok(found.0)
}

fn join_children(join: &protobuf::JoinExpr) -> Children<'_> {
    let protobuf::JoinExpr {
        jointype: _,
        is_natural: _,
        larg,
        rarg,
        using_clause: _,
        join_using_alias: _,
        quals,
        alias: _,
        rtindex: _,
    } = join;
    Found(Vec::new()).one(larg).one(rarg).one(quals).0
}

fn call_children(call: &protobuf::FuncCall) -> Children<'_> {
    let protobuf::FuncCall {
        funcname: _,
        args,
        agg_order,
        agg_filter,
        over,
        agg_within_group: _,
        agg_star: _,
        agg_distinct: _,
        func_variadic: _,
        funcformat: _,
        location: _,
    } = call;
    let mut found = Found(Vec::new()).list(args).list(agg_order).one(agg_filter).0;
    found.extend(over.iter().flat_map(|w| window_children(w)));
    found
}

fn window_children(window: &protobuf::WindowDef) -> Children<'_> {
    let protobuf::WindowDef {
        name: _,
        refname: _,
        partition_clause,
        order_clause,
        frame_options: _,
        start_offset,
        end_offset,
        location: _,
    } = window;
    Found(Vec::new()).list(partition_clause).list(order_clause).one(start_offset).one(end_offset).0
}

/// The nodes right below a query, WITH first. Both sides of a set operation are queries
/// and no nodes: they are not among them.
///
/// # Errors
/// INTO and row locks are not listed.
pub fn select_children(select: &protobuf::SelectStmt) -> Result<Children<'_>, Unknown> {
    let protobuf::SelectStmt {
        distinct_clause,
        into_clause,
        target_list,
        from_clause,
        where_clause,
        group_clause,
        group_distinct: _,
        having_clause,
        window_clause,
        values_lists,
        sort_clause,
        limit_offset,
        limit_count,
        limit_option: _,
        locking_clause,
        with_clause,
        op: _,
        all: _,
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
pub fn is_leaf(select: &protobuf::SelectStmt) -> bool {
    select.op == protobuf::SetOperation::SetopNone as i32
}

/// Calls `f` for every node below a query, parents first, sides of set operations included.
///
/// # Errors
/// A node of a type that is not listed, or `f`'s own.
pub fn visit<'a, E: From<Unknown>>(
    select: &'a protobuf::SelectStmt,
    f: &mut dyn FnMut(&'a NodeEnum) -> Result<(), E>,
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
    node: &'a NodeEnum,
    f: &mut dyn FnMut(&'a NodeEnum) -> Result<(), E>,
) -> Result<(), E> {
    f(node)?;
    match node {
        NodeEnum::SelectStmt(s) => visit(s, f),
        other => children(other)?.into_iter().try_for_each(|n| visit_node(n, f)),
    }
}
