//! Comparing a column with constants or with another column.

use std::cmp::Ordering;
use std::collections::HashSet;

use arrow_array::timezone::Tz;
use arrow_buffer::{BooleanBuffer, NullBuffer};
use sqlparser::ast::BinaryOperator;

use super::columns::{Column, Values};
use super::literal::Literal;
use super::truth::Truth;
use super::{FilterError, Position};
use crate::vectors::{RowId, RowIdKind};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

impl Comparison {
    pub fn of(operator: &BinaryOperator) -> Option<Self> {
        Some(match operator {
            BinaryOperator::Eq => Self::Eq,
            BinaryOperator::NotEq => Self::NotEq,
            BinaryOperator::Lt => Self::Lt,
            BinaryOperator::LtEq => Self::LtEq,
            BinaryOperator::Gt => Self::Gt,
            BinaryOperator::GtEq => Self::GtEq,
            _ => return None,
        })
    }

    /// With its sides exchanged.
    pub fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::LtEq => Self::GtEq,
            Self::Gt => Self::Lt,
            Self::GtEq => Self::LtEq,
            same => same,
        }
    }

    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::NotEq => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::LtEq => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::GtEq => order.is_ge(),
        }
    }
}

/// NaN equals itself and is above every number; −0 equals 0.
fn order_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Exact: an integer is not rounded to a float first.
fn order_int_float(int: i128, float: f64) -> Ordering {
    if float.is_nan() {
        return Ordering::Less;
    }
    // Saturates, which no column's integers reach.
    let floor = float.floor();
    int.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal })
}

/// A constant as a column's type takes it: f32 columns know no other numbers.
fn rounded(number: f64, single: bool) -> f64 {
    if single { f64::from(number as f32) } else { number }
}

fn number(literal: &Literal) -> Option<f64> {
    match literal {
        Literal::Int(number) => Some(*number as f64),
        Literal::Float(number) => Some(*number),
        _ => None,
    }
}

/// Nanoseconds since 1970 of a date or a time, in a column's zone where it names none.
pub(super) fn parsed_time(text: &str, zone: Option<&str>, at: Position) -> Result<i128, FilterError> {
    let unknown = |got: String| FilterError::Type { at, expected: "a date or a timestamp".into(), got };
    // Names of zones are known by their rules, which are not linked here; this one has none.
    let offset = zone.filter(|zone| !matches!(*zone, "UTC" | "Etc/UTC" | "GMT" | "Z")).unwrap_or("+00:00");
    let zone = offset.parse::<Tz>().map_err(|_| {
        unknown(format!(
            "'{text}' for a column in the zone `{offset}`: only offsets as `+02:00` and `UTC` are known"
        ))
    })?;
    let time =
        arrow_cast::parse::string_to_datetime(&zone, text).map_err(|_| unknown(format!("'{text}'")))?;
    Ok(i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos()))
}

pub(super) fn parsed_uuid(text: &str, at: Position) -> Result<[u8; 16], FilterError> {
    match RowIdKind::Uuid.parse(text) {
        Ok(RowId::Uuid(uuid)) => Ok(uuid),
        _ => Err(FilterError::Type { at, expected: "a UUID".into(), got: format!("'{text}'") }),
    }
}

fn mismatch(column: &Column, literal: &Literal, at: Position) -> FilterError {
    let expected = format!("{} to compare `{}` with", article(column.kind()), column.name);
    FilterError::Type { at, expected, got: literal.kind().into() }
}

pub(super) fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// A column's order against one constant, by row; of rows without a value it is anything.
fn order_to_literal<'a>(
    column: &'a Column,
    literal: &'a Literal,
    at: Position,
) -> Result<Box<dyn Fn(usize) -> Ordering + 'a>, FilterError> {
    Ok(match (column.values(), literal) {
        (Values::Int(of), &Literal::Int(b)) => Box::new(move |row| of(row).cmp(&b)),
        (Values::Int(of), &Literal::Float(b)) => Box::new(move |row| order_int_float(of(row), b)),
        (Values::Float { of, single }, literal) if let Some(b) = number(literal) => {
            let b = rounded(b, single);
            Box::new(move |row| order_floats(of(row), b))
        }
        (Values::Text(of), Literal::Text(b)) => Box::new(move |row| of(row).cmp(b.as_str())),
        (Values::Bool(of), Literal::Bool(b)) => Box::new(move |row| of.value(row).cmp(b)),
        (Values::Time { of, zone }, Literal::Text(text)) => {
            let b = parsed_time(text, zone, at)?;
            Box::new(move |row| of(row).cmp(&b))
        }
        (Values::Uuid(of), Literal::Text(text)) => {
            let b = parsed_uuid(text, at)?;
            Box::new(move |row| of.value(row).cmp(&b[..]))
        }
        _ => return Err(mismatch(column, literal, at)),
    })
}

pub(super) fn with_literal(
    column: &Column,
    comparison: Comparison,
    literal: &Literal,
    at: Position,
) -> Result<Truth, FilterError> {
    let rows = column.array.len();
    if *literal == Literal::Null {
        return Ok(Truth::constant(None, rows));
    }
    let order = order_to_literal(column, literal, at)?;
    let holds = BooleanBuffer::collect_bool(rows, |row| comparison.holds(order(row)));
    Ok(Truth::new(holds, column.nulls().as_ref()))
}

pub(super) fn with_column(
    left: &Column,
    comparison: Comparison,
    right: &Column,
    at: Position,
) -> Result<Truth, FilterError> {
    use Values::*;
    let order: Box<dyn Fn(usize) -> Ordering + '_> = match (left.values(), right.values()) {
        (Int(a), Int(b)) => Box::new(move |row| a(row).cmp(&b(row))),
        (Int(a), Float { of: b, .. }) => Box::new(move |row| order_int_float(a(row), b(row))),
        (Float { of: a, .. }, Int(b)) => Box::new(move |row| order_int_float(b(row), a(row)).reverse()),
        (Float { of: a, .. }, Float { of: b, .. }) => Box::new(move |row| order_floats(a(row), b(row))),
        (Text(a), Text(b)) => Box::new(move |row| a(row).cmp(b(row))),
        (Bool(a), Bool(b)) => Box::new(move |row| a.value(row).cmp(&b.value(row))),
        (Time { of: a, .. }, Time { of: b, .. }) => Box::new(move |row| a(row).cmp(&b(row))),
        (Uuid(a), Uuid(b)) => Box::new(move |row| a.value(row).cmp(b.value(row))),
        _ => {
            let expected = format!("{} to compare `{}` with", article(left.kind()), left.name);
            return Err(FilterError::Type {
                at,
                expected,
                got: format!("{} `{}`", right.kind(), right.name),
            });
        }
    };
    let holds = BooleanBuffer::collect_bool(left.array.len(), |row| comparison.holds(order(row)));
    Ok(Truth::new(holds, NullBuffer::union(left.nulls().as_ref(), right.nulls().as_ref()).as_ref()))
}

/// Whether a column's value is among constants: one look-up per row.
pub(super) fn among(column: &Column, list: &[Literal], at: Position) -> Result<Truth, FilterError> {
    let wrong = |literal: &Literal| mismatch(column, literal, at);
    let has_null = list.contains(&Literal::Null);
    let values = || list.iter().filter(|literal| **literal != Literal::Null);
    let rows = column.array.len();
    let holds = match column.values() {
        Values::Int(of) => {
            let set = values().map(|literal| match literal {
                Literal::Int(number) => Ok(Some(*number)),
                // No integer equals a fraction.
                Literal::Float(number) => {
                    Ok(Some(*number as i128).filter(|&int| order_int_float(int, *number).is_eq()))
                }
                other => Err(wrong(other)),
            });
            let set: HashSet<i128> = set.filter_map(Result::transpose).collect::<Result<_, _>>()?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(&of(row)))
        }
        Values::Float { of, single } => {
            // One bit pattern for 0 and one for NaN.
            let key = |number: f64| if number.is_nan() { f64::NAN } else { number + 0.0 }.to_bits();
            let set = values()
                .map(|literal| Ok(key(rounded(number(literal).ok_or_else(|| wrong(literal))?, single))));
            let set: HashSet<u64> = set.collect::<Result<_, FilterError>>()?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(&key(of(row))))
        }
        Values::Text(of) => {
            let set: HashSet<&str> = texts(values(), &wrong)?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(of(row)))
        }
        Values::Time { of, zone } => {
            let set: HashSet<&str> = texts(values(), &wrong)?;
            let set = set.into_iter().map(|text| parsed_time(text, zone, at));
            let set: HashSet<i128> = set.collect::<Result<_, _>>()?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(&of(row)))
        }
        Values::Uuid(of) => {
            let set: HashSet<&str> = texts(values(), &wrong)?;
            let set = set.into_iter().map(|text| parsed_uuid(text, at));
            let set: HashSet<[u8; 16]> = set.collect::<Result<_, _>>()?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(of.value(row)))
        }
        Values::Bool(of) => {
            let set = values().map(|literal| match literal {
                Literal::Bool(value) => Ok(*value),
                other => Err(wrong(other)),
            });
            let set: HashSet<bool> = set.collect::<Result<_, _>>()?;
            BooleanBuffer::collect_bool(rows, |row| set.contains(&of.value(row)))
        }
        Values::List => {
            let got = format!("the list `{}`", column.name);
            return Err(FilterError::Type { at, expected: "a single value".into(), got });
        }
    };
    let truth = Truth::new(holds, column.nulls().as_ref());
    Ok(if has_null { truth.or_unknown() } else { truth })
}

pub(super) fn texts<'a>(
    literals: impl Iterator<Item = &'a Literal>,
    wrong: &dyn Fn(&Literal) -> FilterError,
) -> Result<HashSet<&'a str>, FilterError> {
    literals
        .map(|literal| match literal {
            Literal::Text(text) => Ok(text.as_str()),
            other => Err(wrong(other)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_meet_fractions_exactly() {
        let large = i128::from(i64::MAX);
        for (int, float, expected) in [
            (2, 2.5, Ordering::Less),
            (3, 2.5, Ordering::Greater),
            (-2, -2.5, Ordering::Greater),
            (-3, -2.5, Ordering::Less),
            (2, 2.0, Ordering::Equal),
            // As floats these would be equal.
            (large, 9_223_372_036_854_775_808.0, Ordering::Less),
            ((1 << 53) + 1, 9_007_199_254_740_992.0, Ordering::Greater),
            (0, f64::INFINITY, Ordering::Less),
            (0, f64::NEG_INFINITY, Ordering::Greater),
            (0, f64::NAN, Ordering::Less),
        ] {
            assert_eq!(order_int_float(int, float), expected, "{int} and {float}");
        }
    }
}
