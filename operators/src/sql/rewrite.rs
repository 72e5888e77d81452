//! Expressions of a query in the words of the node that computes them: names
//! without qualifiers, columns as the stream calls them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArguments, Ident, Subscript, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{
    ALL_KEYWORDS, ALL_KEYWORDS_INDEX, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER,
    RESERVED_FOR_TABLE_ALIAS,
};
use datafusion::sql::sqlparser::parser::Parser;
use tidegate_engine::diagnostic::Diagnostic;

use super::place::{Places, parts};
use super::refuse;
use super::relation::{Found, Scope};
use super::window;

/// How a column of a relation is named in what is printed.
pub(super) type Refer<'a> = &'a dyn Fn(&Found<'_>) -> Vec<Ident>;

/// The expression with every column named as its stream does.
pub(super) fn resolve(expr: &Expr, scope: &Scope<'_>, places: &Places) -> Result<Expr, Diagnostic> {
    resolve_as(expr, scope, places, &|found| vec![ident(found.relation.field(found.column))])
}

/// The same with other names.
pub(super) fn resolve_as(
    expr: &Expr,
    scope: &Scope<'_>,
    places: &Places,
    refer: Refer<'_>,
) -> Result<Expr, Diagnostic> {
    each(expr, |expr| {
        match expr {
            Expr::Identifier(name) => *expr = column(std::slice::from_ref(name), scope, places, refer)?,
            Expr::CompoundIdentifier(names) => *expr = column(names, scope, places, refer)?,
            Expr::CompoundFieldAccess { root, access_chain } => join_names(root, access_chain),
            Expr::Function(call) => check_call(call, places)?,
            Expr::Subquery(query) => return Err(refuse::subquery(query, places)),
            Expr::Exists { subquery, .. } | Expr::InSubquery { subquery, .. } => {
                return Err(refuse::subquery(subquery, places));
            }
            _ => {}
        }
        Ok(())
    })
}

/// Every part of an expression, from outside; what is put in place of one is not
/// looked at again unless it has parts.
pub(super) fn each(
    expr: &Expr,
    work: impl FnMut(&mut Expr) -> Result<(), Diagnostic>,
) -> Result<Expr, Diagnostic> {
    let mut expr = expr.clone();
    match expr.visit(&mut Each(work)) {
        ControlFlow::Continue(()) => Ok(expr),
        ControlFlow::Break(diagnostic) => Err(*diagnostic),
    }
}

/// Every part of an expression, from outside, to look at it.
pub(super) fn walk(expr: &Expr, mut work: impl FnMut(&mut Expr)) {
    let looked = each(expr, |expr| {
        work(expr);
        Ok(())
    });
    debug_assert!(looked.is_ok(), "nothing is refused");
}

struct Each<F>(F);

impl<F: FnMut(&mut Expr) -> Result<(), Diagnostic>> VisitorMut for Each<F> {
    type Break = Box<Diagnostic>;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Diagnostic>> {
        match (self.0)(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(diagnostic) => ControlFlow::Break(Box::new(diagnostic)),
        }
    }
}

fn column(names: &[Ident], scope: &Scope<'_>, places: &Places, refer: Refer<'_>) -> Result<Expr, Diagnostic> {
    let found = one(names, scope, places)?;
    let mut named = refer(&found);
    // At the place of the name that meant it, as it was written.
    if let (Some(last), Some(name)) = (named.last_mut(), names.get(found.names - 1)) {
        last.span = name.span;
        // A keyword may stand behind a dot, but not alone.
        if last.value == name.value
            && (name.quote_style.is_some() || found.names == 1 || is_bare(&name.value))
        {
            last.quote_style = name.quote_style;
        }
    }
    named.extend(names.iter().skip(found.names).cloned());
    Ok(match named.as_slice() {
        [name] => Expr::Identifier(name.clone()),
        _ => Expr::CompoundIdentifier(named),
    })
}

/// The one column that these names mean.
pub(super) fn one<'a>(names: &[Ident], scope: &Scope<'a>, places: &Places) -> Result<Found<'a>, Diagnostic> {
    let written = names.iter().map(|name| name.value.as_str()).collect::<Vec<_>>().join(".");
    let place = match (names.first(), names.last()) {
        (Some(first), Some(last)) => places.of_name(first).start..places.of_name(last).end,
        _ => places.all(),
    };
    match scope.find(names).as_slice() {
        [found] => Ok(*found),
        [] => {
            let listed = scope.listed();
            let last = names.last().map_or("", |name| name.value.as_str());
            let known = scope.columns().map(|(_, _, column)| column.name.as_str());
            Err(Diagnostic::error("TG-X002", format!("there is no column `{written}`"))
                .at(places.in_file(place))
                .label("not a column here")
                .help(format!("the columns are {}", listed.join(", ")))
                .suggest(last, known.filter(|known| *known != last)))
        }
        several => {
            let all = several.iter().map(|found| {
                format!("`{}.{}`", found.column.qualifier.as_deref().unwrap_or(""), found.column.name)
            });
            let all = all.collect::<Vec<_>>().join(" or ");
            Err(Diagnostic::error("TG-X002", format!("`{written}` may be one of several columns"))
                .at(places.in_file(place))
                .help(format!("write {all}")))
        }
    }
}

/// `a.k[1]` as the names `a.k`, and what is taken of them.
pub(super) fn join_names(root: &mut Expr, access_chain: &mut Vec<AccessExpr>) {
    let names = match root {
        Expr::Identifier(name) => Some(vec![name.clone()]),
        Expr::CompoundIdentifier(names) => Some(names.clone()),
        _ => None,
    };
    if let Some(mut names) = names {
        while let Some(AccessExpr::Dot(Expr::Identifier(name))) = access_chain.first() {
            names.push(name.clone());
            access_chain.remove(0);
        }
        *root = Expr::CompoundIdentifier(names);
    }
    // A field of an item is no column: `a.ks[1].k` as `a.ks[1]['k']`.
    for access in access_chain {
        if let AccessExpr::Dot(Expr::Identifier(name)) = access {
            let field = Value::SingleQuotedString(name.value.clone()).with_span(name.span);
            *access = AccessExpr::Subscript(Subscript::Index { index: Expr::Value(field) });
        }
    }
}

/// Refuses functions that mean more than a value of a row.
fn check_call(call: &Function, places: &Places) -> Result<(), Diagnostic> {
    if call.over.is_some() {
        return Err(refuse::over(call, places));
    }
    if let FunctionArguments::Subquery(query) = &call.args {
        return Err(refuse::subquery(query, places));
    }
    let name = name_of(call);
    if window::is_window(&name) {
        return Err(refuse::misplaced_window(call, places));
    }
    if name == "unnest" {
        return Err(refuse::misplaced_unnest(call, places));
    }
    Ok(())
}

/// The function's name, in small letters.
pub(super) fn name_of(call: &Function) -> String {
    parts(&call.name).map(|part| part.value.to_lowercase()).collect::<Vec<_>>().join(".")
}

/// A name as it must be written.
pub(super) fn ident(name: &str) -> Ident {
    let mut chars = name.chars();
    let is_plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && ALL_KEYWORDS.binary_search(&name.to_ascii_uppercase().as_str()).is_err();
    if is_plain { Ident::new(name) } else { Ident::with_quote('"', name) }
}

/// Whether a name without quotes is read as one wherever a value may stand.
fn is_bare(name: &str) -> bool {
    let reserved = [RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS, RESERVED_FOR_IDENTIFIER];
    let upper = name.to_ascii_uppercase();
    let is_reserved = ALL_KEYWORDS
        .binary_search(&upper.as_str())
        .ok()
        .and_then(|at| ALL_KEYWORDS_INDEX.get(at))
        .is_some_and(|keyword| reserved.iter().any(|words| words.contains(keyword)));
    let read = Parser::new(&GenericDialect {}).try_with_sql(name).and_then(|mut parser| parser.parse_expr());
    !is_reserved && matches!(read, Ok(Expr::Identifier(read)) if read.value == name)
}

/// Every name of a column in an expression.
pub(super) fn names_in(expr: &Expr) -> Vec<Vec<Ident>> {
    let mut found = Vec::new();
    walk(expr, |expr| match expr {
        Expr::Identifier(name) => found.push(vec![name.clone()]),
        Expr::CompoundIdentifier(names) => found.push(names.clone()),
        Expr::CompoundFieldAccess { root, access_chain } => join_names(root, access_chain),
        _ => {}
    });
    found
}
