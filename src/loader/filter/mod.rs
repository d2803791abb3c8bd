//! Filters: an SQL condition over an index's attributes and ids becomes a mask of its rows.
//!
//! The text is parsed by `sqlparser`; what is understood of it is evaluated column by column over Arrow arrays, with
//! SQL's three truth values: a row passes where the condition is true, not where it is unknown.
//!
//! | | |
//! |---|---|
//! | `AND`, `OR`, `NOT`, `( )` | conditions, boolean columns, `TRUE`, `FALSE`, `NULL` |
//! | `=` `<>` `!=` `<` `<=` `>` `>=`, `BETWEEN` | a column and a constant, or two columns |
//! | `IN (…)`, `NOT IN (…)` | constants |
//! | `IS [NOT] NULL`, `IS [NOT] TRUE`, `FALSE`, `UNKNOWN` | |
//! | `LIKE`, `ILIKE`, `starts_with(x, 'a')`, `ends_with`, `contains` | strings |
//! | `'a' = ANY(tags)`, `'a' <> ALL(tags)`, `array_has(tags, 'a')`, `array_has_any(tags, ['a', 'b'])`, `array_has_all` | lists of strings |
//! | `cardinality(tags)` | the length of a list, as a number |
//!
//! `row_id` is the row's id, unless an attribute is called so. A name is first looked for as it is written; one
//! without quotes also in another case. Integers are compared exactly, also with fractions; a constant beside an f32
//! column is taken as f32; NaN equals itself and is above every number. A string beside a date or a timestamp is read
//! as one, in the column's zone (an offset or UTC) where it names none. Nulls within a list equal nothing, and a list that is null makes
//! its condition unknown.
//!
//! Refuses what would have to be guessed: arithmetic, subqueries, other functions, other types beside each other.

mod cache;
mod columns;
mod compare;
mod condition;
mod evaluate;
mod literal;
mod parse;
mod truth;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use sqlparser::ast::Expr;

pub(super) use cache::FilterCache;
pub(super) use columns::Columns;
pub use condition::{Bound, Condition, Constant, TextTest};

use super::query::StoreFailure;
use crate::index::RowMask;
use crate::vectors::RowIds;

/// The name by which a filter knows the ids.
pub const ROW_ID: &str = "row_id";

/// A condition on rows, parsed. Cheap to clone; not bound to an index.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Filters of the same text are the same.
    text: Arc<str>,
    form: Arc<Form>,
    is_passing: bool,
}

#[derive(Debug)]
enum Form {
    Sql(Box<Expr>),
    Made(Condition),
    /// Two or more, none of which is one of these.
    All(Vec<Filter>),
}

/// Begins the text of what is no SQL: no SQL has it outside of quotes.
const MADE: char = '\0';

/// Where in a filter's text. Line 0: in a part that the parser gives no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1, as `character`.
    pub line: u64,
    pub character: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str("in a part"),
            1 => write!(f, "at character {}", self.character),
            line => write!(f, "at line {line}, character {}", self.character),
        }
    }
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FilterError {
    #[error("filter: {0}")]
    Syntax(String),
    #[error("filter of {got} bytes: expected at most {expected}")]
    Long { expected: usize, got: usize },
    #[error("filter {at}: more than {limit} operators and parentheses")]
    Complex { at: Position, limit: usize },
    #[error("filter {at}: nested more than {limit} deep")]
    Deep { at: Position, limit: usize },
    #[error("filter {at}: no column is called `{column}`; there are: {known}")]
    Column { at: Position, column: String, known: String },
    #[error("filter {at}: expected {expected}, got {got}")]
    Type { at: Position, expected: String, got: String },
    #[error("filter {at}: {what} is not supported")]
    Unsupported { at: Position, what: String },
    /// Of a lazy index: a column could not be read.
    #[error(transparent)]
    Store(StoreFailure),
    #[error("a column could not be read: {0}")]
    Damaged(String),
    #[error("the time was over before the filter was evaluated")]
    TimeOut,
}

impl Filter {
    /// Parses an SQL condition, as `lang = 'en' AND year BETWEEN 2020 AND 2024`.
    ///
    /// # Errors
    /// What is no SQL, with its place. Columns and their types are looked at when the filter meets an index.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let expr = Box::new(parse::parse(text)?);
        Ok(Self { text: text.trim().into(), form: Arc::new(Form::Sql(expr)), is_passing: false })
    }

    /// Of a condition that a program made.
    ///
    /// # Errors
    /// Conditions nested too deep.
    pub fn of(condition: Condition) -> Result<Self, FilterError> {
        condition.check_depth(condition::MAX_DEPTH)?;
        let text = format!("{MADE}{condition:?}").into();
        Ok(Self { text, form: Arc::new(Form::Made(condition)), is_passing: false })
    }

    /// One that will hardly be asked again: an index does not keep its mask, which would displace those that are. Of
    /// [several](Self::and) of which some are passing, the others' masks are kept.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.is_passing = true;
        self
    }

    /// Rows whose ids, strings or UUIDs, begin so.
    pub fn id_prefix(prefix: &str) -> Result<Self, FilterError> {
        Self::parse(&format!("starts_with({ROW_ID}, '{}')", prefix.replace('\'', "''")))
    }

    /// Rows that pass both. Never made of their texts: what one of them leaves open, as a comment to the end of the line, would
    /// take in the other, and two within the limits may come to one beyond.
    pub fn and(&self, other: &Self) -> Self {
        let parts: Vec<Self> = self.parts().iter().chain(other.parts()).cloned().collect();
        // Each text's length says where it ends.
        let text = parts.iter().map(|part| format!("{MADE}{}{MADE}{}", part.text.len(), part.text));
        let is_passing = parts.iter().any(|part| part.is_passing);
        Self { text: text.collect::<String>().into(), form: Arc::new(Form::All(parts)), is_passing }
    }

    fn parts(&self) -> &[Self] {
        match &*self.form {
            Form::All(parts) => parts,
            Form::Sql(_) | Form::Made(_) => std::slice::from_ref(self),
        }
    }

    /// The SQL, or a text of no grammar that only equal conditions share.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The attributes that the filter asks for, by their places in `schema`, ascending. Asked of no rows, so that whatever is
    /// wrong with it is said before a column is read.
    pub(super) fn columns_named(&self, ids: &RowIds, schema: &SchemaRef) -> Result<Vec<usize>, FilterError> {
        let (ids, attributes) = (ids.gather(&[]), RecordBatch::new_empty(schema.clone()));
        let columns = Columns::new(&ids, Some(&attributes));
        self.evaluate(&columns)?;
        Ok(columns.asked())
    }

    /// Of a filter no mask of which is to be kept: what it is made of, itself if of nothing else.
    pub(super) fn passing_parts(&self) -> Option<&[Self]> {
        self.is_passing.then(|| self.parts())
    }

    pub(super) fn evaluate(&self, columns: &Columns<'_>) -> Result<RowMask, FilterError> {
        match &*self.form {
            Form::Sql(expr) => evaluate::evaluate(expr, columns),
            Form::Made(condition) => Ok(truth::mask(&condition.evaluate(columns)?)),
            Form::All(parts) => {
                let (first, others) = parts.split_first().expect("two or more");
                others
                    .iter()
                    .try_fold(first.evaluate(columns)?, |mask, part| Ok(mask.and(&part.evaluate(columns)?)))
            }
        }
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}
