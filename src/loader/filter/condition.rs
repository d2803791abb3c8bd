//! Conditions that a program makes, without text in between: what another system's filters become.
//!
//! They have two truth values where SQL has three. A row without a value fails each comparison, and so passes
//! its negation; so do all rows where the index has no such column, or where the column's type is another than the
//! constant's. Of a list each value is looked at, and one that passes is enough.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::{Array, StringArray};
use arrow_buffer::BooleanBuffer;

use super::columns::{Column, Columns, Values};
use super::compare::{self, Comparison, parsed_time, parsed_uuid};
use super::literal::Literal;
use super::{FilterError, Position};

/// Levels of conditions within conditions.
pub(super) const MAX_DEPTH: usize = 50;

/// No place in a text.
const NOWHERE: Position = Position { line: 0, character: 0 };

/// A condition on rows. [`Filter::of`](super::Filter::of) makes it one that can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one of these; none at all is true.
    All(Vec<Condition>),
    /// At least so many of these.
    AtLeast(usize, Vec<Condition>),
    Not(Box<Condition>),
    /// A value is one of these constants.
    Among {
        column: String,
        constants: Vec<Constant>,
    },
    /// A value is none of these constants.
    Except {
        column: String,
        constants: Vec<Constant>,
    },
    /// A value compares so with each of these constants: numbers with numbers; dates, timestamps and strings that read as
    /// one with strings that read as one.
    Compare {
        column: String,
        bounds: Vec<(Bound, Constant)>,
    },
    /// A string passes a test.
    Text {
        column: String,
        test: TextTest,
    },
    /// So many values: those of a list, one for any other value, none for a null.
    Count {
        column: String,
        bounds: Vec<(Bound, i64)>,
    },
    /// The value is null, or a list with a null. Not so where the index has no such column.
    IsNull {
        column: String,
    },
    /// The value is null or a list of none, or the index has no such column.
    IsEmpty {
        column: String,
    },
    /// One of these rows, by ordinal; no row has any other.
    Rows(Vec<u32>),
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string, a UUID, a date or a time.
    Text(String),
}

/// A side of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// Words are runs of letters and digits, compared in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextTest {
    /// Has every word of this text, and this text has one.
    Words(String),
    /// Has a word of this text.
    AnyWord(String),
    /// Has the words of this text, one after the other.
    Phrase(String),
    Prefix(String),
    Substring(String),
}

impl Condition {
    /// At least one of these.
    pub fn any(conditions: Vec<Condition>) -> Self {
        Self::AtLeast(1, conditions)
    }

    #[must_use]
    pub fn negated(self) -> Self {
        Self::Not(Box::new(self))
    }

    pub(super) fn check_depth(&self, left: usize) -> Result<(), FilterError> {
        let parts = match self {
            Self::All(parts) | Self::AtLeast(_, parts) => parts.as_slice(),
            Self::Not(part) => std::slice::from_ref(&**part),
            _ => return Ok(()),
        };
        if left == 0 {
            return Err(FilterError::Deep { at: NOWHERE, limit: MAX_DEPTH });
        }
        parts.iter().try_for_each(|part| part.check_depth(left - 1))
    }

    /// A bit per row.
    pub(super) fn evaluate(&self, columns: &Columns<'_>) -> Result<BooleanBuffer, FilterError> {
        columns.check_time()?;
        let rows = columns.rows();
        let none = || BooleanBuffer::new_unset(rows);
        let of = |name: &str, test: &dyn Fn(&Column) -> Result<BooleanBuffer, FilterError>| {
            columns.exactly(name).map_or_else(|| Ok(none()), |column| test(&column))
        };
        Ok(match self {
            Self::All(parts) => {
                let all = BooleanBuffer::new_set(rows);
                parts
                    .iter()
                    .try_fold(all, |all, part| Ok::<_, FilterError>(&all & &part.evaluate(columns)?))?
            }
            Self::AtLeast(wanted, parts) => at_least(*wanted, parts, columns)?,
            Self::Not(part) => !&part.evaluate(columns)?,
            Self::Among { column, constants } => of(column, &|column| among(column, constants))?,
            Self::Except { column, constants } => of(column, &|column| except(column, constants))?,
            Self::Compare { column, bounds } => of(column, &|column| within(column, bounds))?,
            Self::Text { column, test } => of(column, &|column| Ok(texts_that(column, &test.compiled())))?,
            Self::Count { column, bounds } => {
                let column = columns.exactly(column);
                let passes = |count: i64| {
                    bounds.iter().all(|(bound, limit)| bound.comparison().holds(count.cmp(limit)))
                };
                BooleanBuffer::collect_bool(rows, |row| {
                    passes(column.as_ref().map_or(0, |column| count_of(column, row)))
                })
            }
            Self::IsNull { column } => of(column, &|column| Ok(nulls(column)))?,
            Self::IsEmpty { column } => match columns.exactly(column) {
                None => BooleanBuffer::new_set(rows),
                Some(column) => BooleanBuffer::collect_bool(rows, |row| count_of(&column, row) == 0),
            },
            Self::Rows(ordinals) => {
                let ordinals: HashSet<usize> = ordinals.iter().map(|&ordinal| ordinal as usize).collect();
                BooleanBuffer::collect_bool(rows, |row| ordinals.contains(&row))
            }
        })
    }
}

fn at_least(wanted: usize, parts: &[Condition], columns: &Columns<'_>) -> Result<BooleanBuffer, FilterError> {
    let rows = columns.rows();
    if wanted == 1 {
        let none = BooleanBuffer::new_unset(rows);
        return parts.iter().try_fold(none, |any, part| Ok(&any | &part.evaluate(columns)?));
    }
    let mut counts = vec![0usize; rows];
    for part in parts {
        part.evaluate(columns)?.set_indices().for_each(|row| counts[row] += 1);
    }
    Ok(BooleanBuffer::collect_bool(rows, |row| counts[row] >= wanted))
}

impl Bound {
    fn comparison(self) -> Comparison {
        match self {
            Bound::Below => Comparison::Lt,
            Bound::AtMost => Comparison::LtEq,
            Bound::Above => Comparison::Gt,
            Bound::AtLeast => Comparison::GtEq,
        }
    }
}

impl Constant {
    fn literal(&self) -> Literal {
        match self {
            Constant::Bool(value) => Literal::Bool(*value),
            Constant::Int(value) => Literal::Int(i128::from(*value)),
            Constant::Float(value) => Literal::Float(*value),
            Constant::Text(value) => Literal::Text(value.clone()),
        }
    }

    /// Whether a value of this column can equal it.
    fn suits(&self, column: &Column) -> bool {
        match (column.values(), self) {
            (Values::Int(_), Constant::Int(_))
            | (Values::Float { .. }, Constant::Float(_))
            | (Values::Bool(_), Constant::Bool(_))
            | (Values::Text(_) | Values::List, Constant::Text(_)) => true,
            (Values::Time { zone, .. }, Constant::Text(text)) => parsed_time(text, zone, NOWHERE).is_ok(),
            (Values::Uuid(_), Constant::Text(text)) => parsed_uuid(text, NOWHERE).is_ok(),
            _ => false,
        }
    }
}

fn among(column: &Column, constants: &[Constant]) -> Result<BooleanBuffer, FilterError> {
    let suitable = || constants.iter().filter(|constant| constant.suits(column));
    if let Values::List = column.values() {
        let wanted = words_of(suitable());
        return Ok(texts_that(column, &|text| wanted.contains(text)));
    }
    let literals: Vec<Literal> = suitable().map(Constant::literal).collect();
    Ok(compare::among(column, &literals, NOWHERE)?.into_true())
}

fn except(column: &Column, constants: &[Constant]) -> Result<BooleanBuffer, FilterError> {
    if let Values::List = column.values() {
        let unwanted = words_of(constants.iter());
        return Ok(texts_that(column, &|text| !unwanted.contains(text)));
    }
    let among = among(column, constants)?;
    Ok(match column.nulls() {
        Some(nulls) => &!&among & nulls.inner(),
        None => !&among,
    })
}

fn words_of<'a>(constants: impl Iterator<Item = &'a Constant>) -> HashSet<&'a str> {
    let text = |constant: &'a Constant| match constant {
        Constant::Text(text) => Some(text.as_str()),
        _ => None,
    };
    constants.filter_map(text).collect()
}

fn within(column: &Column, bounds: &[(Bound, Constant)]) -> Result<BooleanBuffer, FilterError> {
    let rows = column.array.len();
    let are_times = bounds.iter().all(|(_, constant)| matches!(constant, Constant::Text(_)));
    let are_numbers =
        bounds.iter().all(|(_, constant)| matches!(constant, Constant::Int(_) | Constant::Float(_)));
    let suits = match column.values() {
        Values::Int(_) | Values::Float { .. } => are_numbers,
        Values::Time { .. } => are_times,
        Values::Text(_) | Values::List if are_times => return times_within(column, bounds),
        _ => false,
    };
    if !suits {
        return Ok(BooleanBuffer::new_unset(rows));
    }
    // No bounds at all: every value.
    let valid = column.nulls().map_or_else(|| BooleanBuffer::new_set(rows), |nulls| nulls.into_inner());
    bounds.iter().try_fold(valid, |all, (bound, constant)| {
        let truth = compare::with_literal(column, bound.comparison(), &constant.literal(), NOWHERE)?;
        Ok(&all & &truth.into_true())
    })
}

/// Strings that read as times, within bounds that must.
fn times_within(column: &Column, bounds: &[(Bound, Constant)]) -> Result<BooleanBuffer, FilterError> {
    let mut limits = Vec::with_capacity(bounds.len());
    for (bound, constant) in bounds {
        if let Constant::Text(text) = constant {
            limits.push((bound.comparison(), parsed_time(text, None, NOWHERE)?));
        }
    }
    let passes = |text: &str| {
        parsed_time(text, None, NOWHERE)
            .is_ok_and(|time| limits.iter().all(|(comparison, limit)| comparison.holds(time.cmp(limit))))
    };
    Ok(texts_that(column, &passes))
}

/// Rows with a string, or a string in their list, that passes. None where the column has no strings.
fn texts_that(column: &Column, passes: &dyn Fn(&str) -> bool) -> BooleanBuffer {
    let rows = column.array.len();
    let valid = column.nulls();
    let is_valid = |row: usize| valid.as_ref().is_none_or(|valid| valid.is_valid(row));
    match column.values() {
        Values::Text(of) => BooleanBuffer::collect_bool(rows, |row| is_valid(row) && passes(of(row))),
        Values::List => {
            let lists = column.array.as_list::<i32>();
            let (values, offsets): (&StringArray, _) = (lists.values().as_string(), lists.value_offsets());
            BooleanBuffer::collect_bool(rows, |row| {
                let mut range = offsets[row] as usize..offsets[row + 1] as usize;
                is_valid(row) && range.any(|at| values.is_valid(at) && passes(values.value(at)))
            })
        }
        _ => BooleanBuffer::new_unset(rows),
    }
}

fn count_of(column: &Column, row: usize) -> i64 {
    if column.nulls().is_some_and(|nulls| nulls.is_null(row)) {
        return 0;
    }
    match column.array.as_list_opt::<i32>() {
        Some(lists) => i64::from(lists.value_length(row)),
        None => 1,
    }
}

fn nulls(column: &Column) -> BooleanBuffer {
    let valid = column.nulls();
    let is_null = |row: usize| valid.as_ref().is_some_and(|valid| valid.is_null(row));
    BooleanBuffer::collect_bool(column.array.len(), |row| {
        is_null(row)
            || column.array.as_list_opt::<i32>().is_some_and(|lists| lists.value(row).null_count() > 0)
    })
}

impl TextTest {
    fn compiled(&self) -> Box<dyn Fn(&str) -> bool + '_> {
        match self {
            Self::Prefix(prefix) => Box::new(move |text| text.starts_with(prefix.as_str())),
            Self::Substring(part) => Box::new(move |text| text.contains(part.as_str())),
            Self::Words(wanted) => {
                let wanted = words(wanted);
                Box::new(move |text| {
                    let words: HashSet<String> = words(text).into_iter().collect();
                    !wanted.is_empty() && wanted.iter().all(|word| words.contains(word))
                })
            }
            Self::AnyWord(wanted) => {
                let wanted: HashSet<String> = words(wanted).into_iter().collect();
                Box::new(move |text| words(text).iter().any(|word| wanted.contains(word)))
            }
            Self::Phrase(phrase) => {
                let phrase = words(phrase);
                Box::new(move |text| {
                    !phrase.is_empty() && words(text).windows(phrase.len()).any(|words| words == phrase)
                })
            }
        }
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}
