//! A condition's truth for every row, part by part.

use arrow_array::cast::AsArray;
use arrow_array::{Array, LargeStringArray, ListArray, Scalar, StringArray};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{ArrowError, DataType};
use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value,
};

use super::columns::{Column, Columns, Values};
use super::compare::{self, Comparison, article};
use super::literal::Literal;
use super::parse::{describe, position};
use super::truth::{Truth, mask};
use super::{FilterError, Position};
use crate::index::RowMask;

/// Levels of conditions; a chain of `AND`s or `OR`s is one.
const MAX_DEPTH: usize = 100;

pub(super) fn evaluate(expr: &Expr, columns: &Columns<'_>) -> Result<RowMask, FilterError> {
    Ok(mask(&Evaluation { columns }.truth(expr, 0)?.into_true()))
}

struct Evaluation<'a> {
    columns: &'a Columns<'a>,
}

/// How a string is matched.
#[derive(Clone, Copy)]
enum Match {
    Like,
    CaselessLike,
    Start,
    End,
    Part,
}

fn unsupported(expr: &Expr) -> FilterError {
    FilterError::Unsupported { at: position(expr), what: describe(expr) }
}

impl Evaluation<'_> {
    fn truth(&self, expr: &Expr, depth: usize) -> Result<Truth, FilterError> {
        if depth > MAX_DEPTH {
            return Err(FilterError::Deep { at: position(expr), limit: MAX_DEPTH });
        }
        self.columns.check_time()?;
        let inner = |expr: &Expr| self.truth(expr, depth + 1);
        Ok(match expr {
            Expr::Nested(expr) => inner(expr)?,
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => !inner(expr)?,
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                self.chain(expr, op, depth)?
            }
            Expr::BinaryOp { left, op, right } => {
                let comparison = Comparison::of(op).ok_or_else(|| unsupported(expr))?;
                self.compare(left, comparison, right)?
            }
            Expr::IsNull(expr) => self.is_null(expr, depth)?,
            Expr::IsNotNull(expr) => !self.is_null(expr, depth)?,
            Expr::IsTrue(expr) => inner(expr)?.is(Some(true)),
            Expr::IsNotTrue(expr) => !inner(expr)?.is(Some(true)),
            Expr::IsFalse(expr) => inner(expr)?.is(Some(false)),
            Expr::IsNotFalse(expr) => !inner(expr)?.is(Some(false)),
            Expr::IsUnknown(expr) => inner(expr)?.is(None),
            Expr::IsNotUnknown(expr) => !inner(expr)?.is(None),
            Expr::Between { expr, negated, low, high } => {
                let within = self.compare(expr, Comparison::GtEq, low)?
                    & self.compare(expr, Comparison::LtEq, high)?;
                negate(within, *negated)
            }
            Expr::InList { expr, list, negated } => {
                let list = list.iter().map(literal).collect::<Result<Vec<_>, _>>()?;
                negate(compare::among(&self.column(expr)?, &list, position(expr))?, *negated)
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                negate(self.matches(expr, pattern, Match::Like)?, *negated)
            }
            Expr::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                negate(self.matches(expr, pattern, Match::CaselessLike)?, *negated)
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                self.has(right, &[literal(left)?], false)?
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                !self.has(right, &[literal(left)?], false)?
            }
            Expr::Function(function) => self.function(expr, function)?,
            Expr::Value(value) => match &value.value {
                Value::Boolean(value) => Truth::constant(Some(*value), self.columns.rows()),
                Value::Null => Truth::constant(None, self.columns.rows()),
                _ => return Err(unsupported(expr)),
            },
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.boolean_column(expr)?,
            _ => return Err(unsupported(expr)),
        })
    }

    /// `a AND b AND c …`, which is a tree as deep as the chain is long.
    fn chain(&self, expr: &Expr, op: &BinaryOperator, depth: usize) -> Result<Truth, FilterError> {
        let (mut first, mut rest) = (expr, Vec::new());
        while let Expr::BinaryOp { left, op: other, right } = first
            && other == op
        {
            rest.push(&**right);
            first = left;
        }
        let mut truth = self.truth(first, depth + 1)?;
        for &part in rest.iter().rev() {
            let part = self.truth(part, depth + 1)?;
            truth = if *op == BinaryOperator::And { truth & part } else { truth | part };
        }
        Ok(truth)
    }

    fn compare(&self, left: &Expr, comparison: Comparison, right: &Expr) -> Result<Truth, FilterError> {
        let at = position(left);
        match (Literal::of(left)?, Literal::of(right)?) {
            (None, Some(right)) => compare::with_literal(&self.column(left)?, comparison, &right, at),
            (Some(left), None) => {
                compare::with_literal(&self.column(right)?, comparison.flipped(), &left, at)
            }
            (None, None) => compare::with_column(&self.column(left)?, comparison, &self.column(right)?, at),
            (Some(_), Some(_)) => {
                let (expected, got) = ("a column on one side".into(), format!("{left} and {right}"));
                Err(FilterError::Type { at, expected, got })
            }
        }
    }

    /// A column, or the length of one with lists.
    fn column(&self, expr: &Expr) -> Result<Column, FilterError> {
        match expr {
            Expr::Nested(inner) => self.column(inner),
            Expr::Identifier(name) => self.columns.named(std::slice::from_ref(name), position(expr)),
            Expr::CompoundIdentifier(names) => self.columns.named(names, position(expr)),
            Expr::Function(function) if is_named(function, &["cardinality", "array_length"]) => {
                match arguments(function) {
                    Some(arguments) if arguments.len() == 1 => self.lengths(arguments[0]),
                    _ => Err(unsupported(expr)),
                }
            }
            _ => Err(unsupported(expr)),
        }
    }

    fn lengths(&self, list: &Expr) -> Result<Column, FilterError> {
        let column = self.column(list)?;
        let lists = lists(&column, position(list))?;
        let lengths: arrow_array::Int64Array =
            lists.iter().map(|list| list.map(|list| list.len() as i64)).collect();
        Ok(Column { name: column.name.clone(), array: std::sync::Arc::new(lengths) })
    }

    fn boolean_column(&self, expr: &Expr) -> Result<Truth, FilterError> {
        let column = self.column(expr)?;
        match column.array.as_boolean_opt() {
            Some(values) => Ok(Truth::of_array(values)),
            None => {
                let (expected, at) = ("a condition".into(), position(expr));
                let got = format!("{} `{}`", article(column.kind()), column.name);
                Err(FilterError::Type { at, expected, got })
            }
        }
    }

    /// Of a column, or of a condition.
    fn is_null(&self, expr: &Expr, depth: usize) -> Result<Truth, FilterError> {
        match self.column(expr) {
            Ok(column) => {
                let valid = BooleanBuffer::new_set(column.array.len());
                Ok(Truth::new(valid, column.nulls().as_ref()).is(None))
            }
            Err(FilterError::Unsupported { .. }) => Ok(self.truth(expr, depth + 1)?.is(None)),
            Err(error) => Err(error),
        }
    }

    fn matches(&self, text: &Expr, pattern: &Expr, how: Match) -> Result<Truth, FilterError> {
        let column = self.column(text)?;
        let pattern = match literal(pattern)? {
            Literal::Text(pattern) => pattern,
            Literal::Null => return Ok(Truth::constant(None, column.array.len())),
            other => {
                let (at, expected) = (position(pattern), "a string".into());
                return Err(FilterError::Type { at, expected, got: other.kind().into() });
            }
        };
        // UUIDs are matched as they are written, in lower case.
        let written;
        let array: &dyn Array = match column.values() {
            Values::Text(_) => column.array.as_ref(),
            Values::Uuid(uuids) => {
                written = uuids.iter().map(|uuid| uuid.map(uuid_text)).collect::<StringArray>();
                &written
            }
            _ => {
                let (at, expected) = (position(text), "a string".into());
                let got = format!("{} `{}`", article(column.kind()), column.name);
                return Err(FilterError::Type { at, expected, got });
            }
        };
        let found = match array.data_type() {
            DataType::LargeUtf8 => {
                how.of(&array, &Scalar::new(LargeStringArray::from_iter_values([pattern])))
            }
            _ => how.of(&array, &Scalar::new(StringArray::from_iter_values([pattern]))),
        };
        let error =
            |error: ArrowError| FilterError::Unsupported { at: position(text), what: error.to_string() };
        Ok(Truth::of_array(&found.map_err(error)?))
    }

    fn function(&self, expr: &Expr, function: &Function) -> Result<Truth, FilterError> {
        let Some(&[first, second]) = arguments(function).as_deref() else { return Err(unsupported(expr)) };
        let named = |names: &[&str]| is_named(function, names);
        if named(&["starts_with"]) {
            self.matches(first, second, Match::Start)
        } else if named(&["ends_with"]) {
            self.matches(first, second, Match::End)
        } else if named(&["contains"]) {
            self.matches(first, second, Match::Part)
        } else if named(&["array_has", "array_contains", "list_has", "list_contains"]) {
            self.has(first, &[literal(second)?], false)
        } else if named(&["array_has_any", "list_has_any"]) {
            self.has(first, &array_literal(second)?, false)
        } else if named(&["array_has_all", "list_has_all"]) {
            self.has(first, &array_literal(second)?, true)
        } else {
            Err(unsupported(expr))
        }
    }

    /// Whether each row's list holds one, or every one, of these.
    fn has(&self, list: &Expr, wanted: &[Literal], every: bool) -> Result<Truth, FilterError> {
        let column = self.column(list)?;
        let at = position(list);
        let lists = lists(&column, at)?;
        if wanted.contains(&Literal::Null) {
            return Ok(Truth::constant(None, lists.len()));
        }
        let wrong = |other: &Literal| FilterError::Type {
            at,
            expected: format!("strings to look for in `{}`", column.name),
            got: other.kind().into(),
        };
        let wanted = compare::texts(wanted.iter(), &wrong)?;
        let (values, offsets) = (lists.values().as_string::<i32>(), lists.value_offsets());
        let range = |row: usize| offsets[row] as usize..offsets[row + 1] as usize;
        let is = |at: usize, text: &str| values.is_valid(at) && values.value(at) == text;
        let holds = BooleanBuffer::collect_bool(lists.len(), |row| match every {
            true => wanted.iter().all(|text| range(row).any(|at| is(at, text))),
            false => range(row).any(|at| values.is_valid(at) && wanted.contains(values.value(at))),
        });
        Ok(Truth::new(holds, lists.nulls()))
    }
}

impl Match {
    fn of(
        self,
        text: &dyn arrow_array::Datum,
        pattern: &dyn arrow_array::Datum,
    ) -> Result<arrow_array::BooleanArray, ArrowError> {
        match self {
            Match::Like => arrow_string::like::like(text, pattern),
            Match::CaselessLike => arrow_string::like::ilike(text, pattern),
            Match::Start => arrow_string::like::starts_with(text, pattern),
            Match::End => arrow_string::like::ends_with(text, pattern),
            Match::Part => arrow_string::like::contains(text, pattern),
        }
    }
}

fn uuid_text(uuid: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(uuid);
    crate::vectors::RowId::Uuid(bytes).to_string()
}

fn negate(truth: Truth, negated: bool) -> Truth {
    if negated { !truth } else { truth }
}

fn lists(column: &Column, at: Position) -> Result<&ListArray, FilterError> {
    column.array.as_list_opt().ok_or_else(|| FilterError::Type {
        at,
        expected: "a list of strings".into(),
        got: format!("{} `{}`", article(column.kind()), column.name),
    })
}

fn literal(expr: &Expr) -> Result<Literal, FilterError> {
    Literal::of(expr)?.ok_or_else(|| FilterError::Type {
        at: position(expr),
        expected: "a constant".into(),
        got: describe(expr),
    })
}

/// `['a', 'b']` or `ARRAY['a', 'b']`.
fn array_literal(expr: &Expr) -> Result<Vec<Literal>, FilterError> {
    match expr {
        Expr::Array(array) => array.elem.iter().map(literal).collect(),
        _ => Err(FilterError::Type {
            at: position(expr),
            expected: "an array of constants".into(),
            got: describe(expr),
        }),
    }
}

fn is_named(function: &Function, names: &[&str]) -> bool {
    let name = function.name.to_string();
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// The arguments of a plain call; `None` for one with clauses.
fn arguments(function: &Function) -> Option<Vec<&Expr>> {
    let plain = function.over.is_none()
        && function.filter.is_none()
        && function.null_treatment.is_none()
        && function.within_group.is_empty()
        && function.parameters == FunctionArguments::None;
    let FunctionArguments::List(list) = &function.args else { return None };
    if !plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let argument =
        |argument: &'_ FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
    list.args.iter().all(argument).then(|| {
        let exprs = list.args.iter().filter_map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        });
        exprs.collect()
    })
}
