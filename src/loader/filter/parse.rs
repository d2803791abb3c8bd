//! From text to `sqlparser`'s tree, within limits that keep every later walk over the tree on the stack.

use sqlparser::ast::{Expr, Spanned};
use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

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
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(MAX_DEPTH).with_tokens_with_locations(tokens);
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

pub(super) fn position(expr: &Expr) -> Position {
    let Span { start, .. } = expr.span();
    start.into()
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self { line: location.line, character: location.column }
    }
}
