//! Constants in a filter.

use sqlparser::ast::{DataType, Expr, TypedString, UnaryOperator, Value};

use super::parse::{describe, position};
use super::{FilterError, Position};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
}

impl Literal {
    /// `None` where `expr` is no constant.
    pub fn of(expr: &Expr) -> Result<Option<Self>, FilterError> {
        let unsupported = || FilterError::Unsupported { at: position(expr), what: describe(expr) };
        match expr {
            Expr::Nested(inner) => Self::of(inner),
            Expr::Value(value) => Self::of_value(&value.value, position(expr)).map(Some),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => match Self::of(inner)? {
                Some(Literal::Int(number)) => Ok(Some(Literal::Int(-number))),
                Some(Literal::Float(number)) => Ok(Some(Literal::Float(-number))),
                _ => Err(unsupported()),
            },
            Expr::UnaryOp { op: UnaryOperator::Plus, expr: inner } => Self::of(inner),
            // `DATE '2024-01-01'` says no more than the column beside it does.
            Expr::TypedString(TypedString { data_type, value, .. }) => match data_type {
                DataType::Date | DataType::Timestamp(..) | DataType::Datetime(_) => {
                    Self::of_value(&value.value, position(expr)).map(Some)
                }
                _ => Err(unsupported()),
            },
            _ => Ok(None),
        }
    }

    fn of_value(value: &Value, at: Position) -> Result<Self, FilterError> {
        let unsupported = || FilterError::Unsupported { at, what: format!("constant `{value}`") };
        Ok(match value {
            Value::Null => Literal::Null,
            Value::Boolean(value) => Literal::Bool(*value),
            Value::SingleQuotedString(text) => Literal::Text(text.clone()),
            Value::Number(digits, _) => match digits.parse::<i128>() {
                Ok(number) => Literal::Int(number),
                Err(_) => match digits.parse::<f64>() {
                    Ok(number) if number.is_finite() => Literal::Float(number),
                    _ => return Err(unsupported()),
                },
            },
            _ => return Err(unsupported()),
        })
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Literal::Null => "NULL",
            Literal::Bool(_) => "a boolean",
            Literal::Int(_) => "an integer",
            Literal::Float(_) => "a number",
            Literal::Text(_) => "a string",
        }
    }
}
