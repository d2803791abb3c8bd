//! From text to `sqlparser`'s tree, within limits that keep every later walk over the tree on the stack.

use sqlparser::ast::{Expr, Spanned};
use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::{FilterError, Position};

/// Room for `IN` lists of tens of thousands of ids.
const MAX_BYTES: usize = 1 << 20;

/// Keywords, operators and parentheses: what trees grow deep by. Constants, names and commas do not count.
const MAX_OPERATORS: usize = 2000;

/// Levels of parentheses and `NOT`.
const MAX_DEPTH: usize = 50;

pub(super) fn parse(text: &str) -> Result<Expr, FilterError> {
    if text.len() > MAX_BYTES {
        return Err(FilterError::Long { expected: MAX_BYTES, got: text.len() });
    }
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| FilterError::Syntax(error.to_string()))?;
    if let Some(token) = tokens.iter().filter(|token| is_operator(token)).nth(MAX_OPERATORS) {
        return Err(FilterError::Complex { at: token.span.start.into(), limit: MAX_OPERATORS });
    }
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_DEPTH).with_tokens_with_locations(tokens);
    let expr = parser.parse_expr().map_err(|error| FilterError::Syntax(error.to_string()))?;
    let rest = parser.next_token();
    match rest.token {
        Token::EOF => Ok(expr),
        token => Err(FilterError::Syntax(format!(
            "`{token}` {} follows a whole condition",
            Position::from(rest.span.start)
        ))),
    }
}

fn is_operator(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(word) => word.keyword != Keyword::NoKeyword,
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Comma | Token::Whitespace(_) => false,
        _ => true,
    }
}

/// Where an expression begins. Not by `Spanned`, which visits all of it and needs kilobytes of stack for each level of a
/// long chain.
pub(super) fn position(expr: &Expr) -> Position {
    let mut first = expr;
    loop {
        first = match first {
            Expr::BinaryOp { left, .. } | Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => left,
            Expr::Nested(inner)
            | Expr::UnaryOp { expr: inner, .. }
            | Expr::Cast { expr: inner, .. }
            | Expr::Between { expr: inner, .. }
            | Expr::InList { expr: inner, .. }
            | Expr::InSubquery { expr: inner, .. }
            | Expr::Like { expr: inner, .. }
            | Expr::ILike { expr: inner, .. }
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => inner,
            Expr::Identifier(name) => return name.span.start.into(),
            Expr::CompoundIdentifier(names) => return names[0].span.start.into(),
            Expr::Value(value) => return value.span.start.into(),
            Expr::TypedString(typed) => return typed.value.span.start.into(),
            Expr::Function(function) => return function.name.span().start.into(),
            _ => return Position { line: 0, character: 0 },
        };
    }
}

/// What an expression is, in a word or two: all of it may be very long.
pub(super) fn describe(expr: &Expr) -> String {
    match expr {
        Expr::BinaryOp { op, .. } => format!("operator `{op}`"),
        Expr::AnyOp { compare_op, .. } => format!("operator `{compare_op} ANY`"),
        Expr::AllOp { compare_op, .. } => format!("operator `{compare_op} ALL`"),
        Expr::UnaryOp { op, .. } => format!("operator `{op}` before what is no number"),
        Expr::Function(function) => format!("function `{}` with these arguments", function.name),
        Expr::Identifier(name) => format!("column `{name}` in this place"),
        Expr::Value(value) => format!("constant `{}` in this place", value.value),
        Expr::TypedString(typed) => format!("a constant of type {}", typed.data_type),
        Expr::Like { .. } | Expr::ILike { .. } => "`LIKE` with ANY or ESCAPE".into(),
        Expr::Cast { .. } => "a cast".into(),
        Expr::Case { .. } => "`CASE`".into(),
        Expr::Exists { .. } | Expr::Subquery(_) | Expr::InSubquery { .. } => "a subquery".into(),
        Expr::Array(_) => "an array in this place".into(),
        _ => "this expression".into(),
    }
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self { line: location.line, character: location.column }
    }
}
