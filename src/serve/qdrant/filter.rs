//! Qdrant's filters as conditions of the loader's.

use arrow_array::RecordBatch;
use serde_json::{Map, Value};

use super::Asked;
use crate::loader::{Bound, Condition, Constant, Filter, TextTest};
use crate::serve::points::PointId;
use crate::serve::{Fault, Limits};

/// Levels of filters within filters, of the fifty that conditions have.
const MAX_DEPTH: usize = 20;

/// What is answered, for whoever asks for something else.
const CONDITIONS: &str = "`key` with `match`, `range`, `values_count`, `is_null`, `is_empty`; `has_id`, `has_vector`, `is_null`, \
    `is_empty`; `must`, `should`, `must_not`, `min_should`";
const CLAUSES: &str = "`must`, `should`, `must_not`, `min_should`";
const MATCHES: &str =
    "`value`, `any`, `except`, `text`, `text_any`, `phrase`, `prefix`, `substring`, one of them";

/// # Errors
/// What is no filter, or none that is answered; limits.
pub(super) fn parse(value: &Value, asked: &Asked, limits: &Limits) -> Result<Filter, Fault> {
    limits.check_filter(value.to_string().len())?;
    Ok(Filter::of(Parser { asked, limits }.filter(value, 0)?)?)
}

struct Parser<'a> {
    asked: &'a Asked,
    limits: &'a Limits,
}

fn malformed(what: impl std::fmt::Display) -> Fault {
    Fault::Body(format!("filter: {what}"))
}

fn object<'v>(value: &'v Value, what: &str) -> Result<&'v Map<String, Value>, Fault> {
    value.as_object().ok_or_else(|| malformed(format_args!("`{what}`: expected an object")))
}

/// The fields that are given.
fn given(fields: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
}

impl Parser<'_> {
    fn filter(&self, value: &Value, depth: usize) -> Result<Condition, Fault> {
        if depth > MAX_DEPTH {
            let (got, allowed) = ("more".into(), format!("0 to {MAX_DEPTH}"));
            return Err(Fault::Value { what: "the filter's depth", got, allowed });
        }
        let mut all = Vec::new();
        for (clause, value) in given(object(value, "filter")?) {
            let conditions = || self.conditions(value, depth);
            match clause {
                "must" => all.extend(conditions()?),
                "must_not" => all.extend(conditions()?.into_iter().map(Condition::negated)),
                // No alternatives: no condition.
                "should" => {
                    let alternatives = conditions()?;
                    all.extend((!alternatives.is_empty()).then(|| Condition::any(alternatives)));
                }
                "min_should" => all.push(self.min_should(object(value, clause)?, depth)?),
                _ => {
                    return Err(Fault::Unsupported {
                        what: format!("`{clause}` in a filter"),
                        allowed: CLAUSES,
                    });
                }
            }
        }
        Ok(Condition::All(all))
    }

    /// One, or a list.
    fn conditions(&self, value: &Value, depth: usize) -> Result<Vec<Condition>, Fault> {
        match value {
            Value::Array(list) => list.iter().map(|one| self.condition(one, depth)).collect(),
            one => Ok(vec![self.condition(one, depth)?]),
        }
    }

    fn min_should(&self, fields: &Map<String, Value>, depth: usize) -> Result<Condition, Fault> {
        let conditions = self.conditions(fields.get("conditions").unwrap_or(&Value::Null), depth)?;
        let least = fields.get("min_count").and_then(Value::as_u64).filter(|&least| least > 0);
        let least = least.ok_or_else(|| malformed("`min_count`: expected 1 or more"))?;
        Ok(Condition::AtLeast(usize::try_from(least).unwrap_or(usize::MAX), conditions))
    }

    fn condition(&self, value: &Value, depth: usize) -> Result<Condition, Fault> {
        let fields = object(value, "condition")?;
        if let Some(key) = fields.get("key") {
            let key = key.as_str().ok_or_else(|| malformed("`key`: expected a string"))?;
            return self.field(key, fields);
        }
        match given(fields).next() {
            Some(("has_id", ids)) => self.has_id(ids),
            Some(("has_vector", name)) => Ok(match name.as_str() {
                Some("") => Condition::All(Vec::new()),
                _ => Condition::All(Vec::new()).negated(),
            }),
            Some((name @ ("is_null" | "is_empty"), field)) => {
                let key = object(field, name)?.get("key").and_then(Value::as_str);
                self.presence(name, key.ok_or_else(|| malformed(format_args!("`{name}`: expected a `key`")))?)
            }
            Some(("must" | "should" | "must_not" | "min_should", _)) => self.filter(value, depth + 1),
            Some((other, _)) => {
                Err(Fault::Unsupported { what: format!("the condition `{other}`"), allowed: CONDITIONS })
            }
            None => Ok(Condition::All(Vec::new())),
        }
    }

    fn has_id(&self, ids: &Value) -> Result<Condition, Fault> {
        let list = ids.as_array().ok_or_else(|| malformed("`has_id`: expected a list"))?;
        self.limits.check_ids("ids in `has_id`", list.len())?;
        let id = |id: &Value| serde_json::from_value::<PointId>(id.clone());
        let ids = list.iter().map(id).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let Asked { index, points, .. } = self.asked;
        Ok(Condition::Rows(ids.iter().filter_map(|id| points.ordinal(index, id)).collect()))
    }

    fn presence(&self, name: &str, key: &str) -> Result<Condition, Fault> {
        let column = column(key)?;
        // An object of attributes is there in every row.
        let is_branch = self.attributes().is_some_and(|batch| is_branch(batch, &column));
        Ok(match name {
            _ if is_branch => Condition::All(Vec::new()).negated(),
            "is_null" => Condition::IsNull { column },
            _ => Condition::IsEmpty { column },
        })
    }

    fn attributes(&self) -> Option<&RecordBatch> {
        self.asked.index.attributes()
    }

    fn field(&self, key: &str, fields: &Map<String, Value>) -> Result<Condition, Fault> {
        let mut all = Vec::new();
        for (name, value) in given(fields).filter(|(name, _)| *name != "key") {
            let column = || column(key);
            all.push(match name {
                "match" => self.matches(column()?, object(value, name)?)?,
                "range" => Condition::Compare { column: column()?, bounds: bounds(value, &bound_of)? },
                "values_count" => Condition::Count { column: column()?, bounds: bounds(value, &count_of)? },
                "is_null" | "is_empty" => {
                    let wanted = value
                        .as_bool()
                        .ok_or_else(|| malformed(format_args!("`{name}`: expected true or false")))?;
                    let condition = self.presence(name, key)?;
                    if wanted { condition } else { condition.negated() }
                }
                _ => {
                    return Err(Fault::Unsupported {
                        what: format!("the condition `{name}`"),
                        allowed: CONDITIONS,
                    });
                }
            });
        }
        match all.is_empty() {
            true => Err(malformed(format_args!("`{key}` has no condition: expected {CONDITIONS}"))),
            false => Ok(Condition::All(all)),
        }
    }

    fn matches(&self, column: String, fields: &Map<String, Value>) -> Result<Condition, Fault> {
        let mut given = given(fields);
        let (Some((name, value)), None) = (given.next(), given.next()) else {
            return Err(malformed(format_args!("`match`: expected {MATCHES}")));
        };
        let constants = |list: &Value| {
            let list = list.as_array().ok_or_else(|| malformed(format_args!("`{name}`: expected a list")))?;
            self.limits.check_ids("values in `match`", list.len())?;
            list.iter().map(constant).collect::<Result<Vec<_>, _>>()
        };
        let text = || {
            let text =
                value.as_str().ok_or_else(|| malformed(format_args!("`{name}`: expected a string")))?;
            Ok::<_, Fault>(text.to_string())
        };
        let test = match name {
            "value" => return Ok(Condition::Among { column, constants: vec![constant(value)?] }),
            "any" => return Ok(Condition::Among { column, constants: constants(value)? }),
            "except" => return Ok(Condition::Except { column, constants: constants(value)? }),
            "text" => TextTest::Words(text()?),
            "text_any" => TextTest::AnyWord(text()?),
            "phrase" => TextTest::Phrase(text()?),
            "prefix" => TextTest::Prefix(text()?),
            "substring" => TextTest::Substring(text()?),
            _ => return Err(Fault::Unsupported { what: format!("`match` by `{name}`"), allowed: MATCHES }),
        };
        Ok(Condition::Text { column, test })
    }
}

/// A key as the attribute's name: `tags[]` is `tags`, `"a b".c` is `a b.c`.
pub(super) fn column(key: &str) -> Result<String, Fault> {
    let plain = key.strip_suffix("[]").unwrap_or(key);
    if plain.is_empty() || plain.contains(['[', ']']) {
        return Err(Fault::Unsupported {
            what: format!("the key `{key}`"),
            allowed: "an attribute's name, with `[]` behind it or not",
        });
    }
    Ok(plain.replace('"', ""))
}

/// Whether attributes lie below this name.
fn is_branch(batch: &RecordBatch, name: &str) -> bool {
    let lies_below = |field: &str| field.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    batch.schema_ref().fields().iter().any(|field| lies_below(field.name()))
}

fn constant(value: &Value) -> Result<Constant, Fault> {
    match value {
        Value::Bool(value) => Ok(Constant::Bool(*value)),
        Value::String(text) => Ok(Constant::Text(text.clone())),
        Value::Number(number) if let Some(number) = number.as_i64() => Ok(Constant::Int(number)),
        _ => Err(malformed(format_args!("`match`: expected strings, integers or booleans, got {value}"))),
    }
}

fn bounds<T>(value: &Value, limit: &dyn Fn(&Value) -> Result<T, Fault>) -> Result<Vec<(Bound, T)>, Fault> {
    let of = |(name, value): (&str, &Value)| {
        let bound = match name {
            "lt" => Bound::Below,
            "lte" => Bound::AtMost,
            "gt" => Bound::Above,
            "gte" => Bound::AtLeast,
            _ => {
                let (what, allowed) = (format!("the bound `{name}`"), "`lt`, `lte`, `gt`, `gte`");
                return Err(Fault::Unsupported { what, allowed });
            }
        };
        Ok((bound, limit(value)?))
    };
    given(object(value, "range")?).map(of).collect()
}

fn bound_of(value: &Value) -> Result<Constant, Fault> {
    match value {
        Value::String(text) => Ok(Constant::Text(text.clone())),
        Value::Number(number) => {
            let float = || number.as_f64().map(Constant::Float);
            number
                .as_i64()
                .map(Constant::Int)
                .or_else(float)
                .ok_or_else(|| malformed("a bound that is no number"))
        }
        _ => Err(malformed(format_args!("`range`: expected numbers or dates, got {value}"))),
    }
}

fn count_of(value: &Value) -> Result<i64, Fault> {
    value.as_i64().ok_or_else(|| malformed(format_args!("`values_count`: expected an integer, got {value}")))
}
