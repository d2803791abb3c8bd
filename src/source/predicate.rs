//! The `where` predicate: an SQL expression over a row's own columns, evaluated by polars batch by batch.
//!
//! Because it is evaluated batch by batch it must mean the same for a row wherever the batch begins: aggregates,
//! windows, sorts and subqueries are refused when the source is opened. A row for which it is null is filtered
//! out, as in SQL.

#[cfg(feature = "polars")]
pub(super) use with_polars::Predicate;
#[cfg(not(feature = "polars"))]
pub(super) use without_polars::Predicate;

#[cfg(feature = "polars")]
mod with_polars {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
    use arrow_cast::{CastOptions, cast_with_options};
    use arrow_schema::{ArrowError, DataType as ArrowType, Schema, SchemaRef};
    use polars::prelude::{
        AggExpr, BooleanFunction, DataType, Expr, FunctionExpr, IntoLazy, LiteralValue, Operator,
        PolarsError, Scalar, lit,
    };

    use super::super::columns::describe;
    use super::super::error::{Result, SourceError};
    use super::super::polars_bridge::{in_zone, to_frame, to_series};

    #[derive(Clone)]
    pub struct Predicate {
        text: String,
        expr: Expr,
        columns: Vec<String>,
    }

    impl Predicate {
        /// Parses `text` and finds the columns that it names, in order of name.
        pub fn parse(text: &str) -> Result<Self> {
            let error = |what: String| SourceError::Predicate { predicate: text.into(), what };
            let expr = polars::sql::sql_expr(text).map_err(|failure| error(failure.to_string()))?;
            if let Expr::Alias(_, alias) = &expr {
                return Err(error(format!("unexpected `{alias}` after the expression")));
            }
            if let Some(refused) = across_rows(&expr) {
                return Err(error(format!("`{refused}` is no function of one row")));
            }
            let mut columns: Vec<String> =
                expr.clone().meta().root_names().iter().map(ToString::to_string).collect();
            columns.sort_unstable();
            columns.dedup();
            if columns.is_empty() {
                return Err(error("it names no column".into()));
            }
            Ok(Self { text: text.into(), expr, columns })
        }

        pub fn columns(&self) -> &[String] {
            &self.columns
        }

        /// Fits the expression to its columns' types: afterwards it is known to give a boolean.
        pub fn bind(&mut self, schema: &SchemaRef) -> Result<()> {
            let columns = || format!("with {}", describe(schema));
            let bound = self.try_bind(schema);
            match bound.map_err(|error| self.error(format!("{error} ({})", columns())))? {
                DataType::Boolean => Ok(()),
                got => Err(self.error(format!("expected a boolean, got {got} ({})", columns()))),
            }
        }

        fn try_bind(&mut self, schema: &SchemaRef) -> Result<DataType, String> {
            self.expr = with_temporal_literals(self.expr.clone(), schema)?;
            let empty = to_frame(&RecordBatch::new_empty(schema.clone())).map_err(first_paragraph)?;
            let evaluated = empty.lazy().select([self.expr.clone()]).collect().map_err(first_paragraph)?;
            Ok(evaluated.columns()[0].dtype().clone())
        }

        /// Which rows stay. `rows` has the bound schema.
        pub fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray> {
            let evaluate = || {
                let frame = to_frame(rows)?.lazy().select([self.expr.clone()]).collect()?;
                let column = &frame.columns()[0];
                Ok(column.bool()?.iter().map(|keep| Some(keep == Some(true))).collect::<BooleanArray>())
            };
            let keep = evaluate().map_err(|error| self.error(first_paragraph(error)))?;
            if keep.len() != rows.num_rows() {
                return Err(self.error(format!("{} results for {} rows", keep.len(), rows.num_rows())));
            }
            Ok(keep)
        }

        fn error(&self, what: String) -> SourceError {
            SourceError::Predicate { predicate: self.text.clone(), what }
        }
    }

    /// The first part of `expr` that looks at more than one row, if any. What is not known to be row by row is
    /// taken to look further.
    fn across_rows(expr: &Expr) -> Option<String> {
        match expr {
            Expr::Column(_) | Expr::Literal(_) => None,
            // The list of `x IN (…)`: constants, folded into one value.
            Expr::Agg(AggExpr::Implode { input, .. }) if matches!(**input, Expr::Literal(_)) => None,
            Expr::Cast { expr, .. } => across_rows(expr),
            Expr::BinaryExpr { left, right, .. } => across_rows(left).or_else(|| across_rows(right)),
            Expr::Ternary { predicate, truthy, falsy } => {
                across_rows(predicate).or_else(|| across_rows(truthy)).or_else(|| across_rows(falsy))
            }
            Expr::Function { input, function } if is_row_by_row(function) => {
                input.iter().find_map(across_rows)
            }
            other => Some(other.to_string()),
        }
    }

    fn is_row_by_row(function: &FunctionExpr) -> bool {
        match function {
            FunctionExpr::Boolean(function) => matches!(
                function,
                BooleanFunction::IsNull
                    | BooleanFunction::IsNotNull
                    | BooleanFunction::IsFinite
                    | BooleanFunction::IsInfinite
                    | BooleanFunction::IsNan
                    | BooleanFunction::IsNotNan
                    | BooleanFunction::IsBetween { .. }
                    | BooleanFunction::IsIn { .. }
                    | BooleanFunction::AllHorizontal
                    | BooleanFunction::AnyHorizontal
                    | BooleanFunction::Not
            ),
            FunctionExpr::StringExpr(_)
            | FunctionExpr::ListExpr(_)
            | FunctionExpr::TemporalExpr(_)
            | FunctionExpr::Negate
            | FunctionExpr::Pow(_)
            | FunctionExpr::FillNull
            | FunctionExpr::Coalesce => true,
            _ => false,
        }
    }

    /// `published >= '2024-01-01'` means a date, not text, where `published` is one: SQL's reading of a string
    /// beside a date or a timestamp.
    fn with_temporal_literals(expr: Expr, schema: &Schema) -> Result<Expr, String> {
        let temporal = |expr: &Expr| match expr {
            Expr::Column(name) => {
                let field = schema.field_with_name(name).ok()?;
                Some(field.data_type().clone()).filter(ArrowType::is_temporal)
            }
            _ => None,
        };
        let mut failure = None;
        let mut typed = |literal: &Expr, data_type: Option<ArrowType>| {
            let data_type = data_type?;
            let retyped = retyped(literal, &data_type)?;
            retyped.map_err(|what| failure = Some(what)).ok()
        };
        let expr = expr.map_expr(|expr| match expr {
            Expr::BinaryExpr { left, op, right } if is_comparison(op) => {
                let (on_left, on_right) = (typed(&left, temporal(&right)), typed(&right, temporal(&left)));
                Expr::BinaryExpr {
                    left: on_left.map_or(left, Arc::new),
                    op,
                    right: on_right.map_or(right, Arc::new),
                }
            }
            Expr::Function { mut input, function } => {
                if let [tested, list] = &mut input[..]
                    && let Some(list_of_type) = typed(list, temporal(tested))
                {
                    *list = list_of_type;
                }
                Expr::Function { input, function }
            }
            other => other,
        });
        failure.map_or(Ok(expr), Err)
    }

    /// A literal string, or the list of such in `IN (…)`, as values of `data_type`; `None` for anything else.
    fn retyped(literal: &Expr, data_type: &ArrowType) -> Option<Result<Expr, String>> {
        let convert = |text: StringArray| {
            let values = parsed(&text, data_type).map_err(|error| error.to_string())?;
            to_series("literal", values.as_ref()).map_err(first_paragraph)
        };
        match literal {
            Expr::Literal(LiteralValue::Series(series)) if *series.dtype() == DataType::String => {
                let text = series.str().ok()?.iter().collect::<StringArray>();
                Some(convert(text).map(lit))
            }
            Expr::Literal(value) => {
                let text = StringArray::from(vec![value.extract_str()?]);
                Some(convert(text).and_then(|series| {
                    let value = series.get(0).map_err(first_paragraph)?.into_static();
                    Ok(lit(Scalar::new(series.dtype().clone(), value)))
                }))
            }
            Expr::Agg(AggExpr::Implode { input, maintain_order }) => {
                Some(retyped(input, data_type)?.map(|list| list.implode(*maintain_order)))
            }
            _ => None,
        }
    }

    /// Dates and times from text. A time without an offset, beside a column with a time zone, is UTC.
    fn parsed(text: &StringArray, data_type: &ArrowType) -> Result<ArrayRef, ArrowError> {
        let options = CastOptions { safe: false, ..Default::default() };
        match data_type {
            ArrowType::Timestamp(unit, Some(_)) => {
                let utc = ArrowType::Timestamp(*unit, Some("+00:00".into()));
                in_zone(&cast_with_options(text, &utc, &options)?, data_type)
            }
            _ => cast_with_options(text, data_type, &options),
        }
    }

    /// polars' errors go on with advice about its own API and the plan.
    fn first_paragraph(error: PolarsError) -> String {
        let text = error.to_string();
        text.split("\n\n").next().unwrap_or_default().replace('\n', " ")
    }

    fn is_comparison(op: Operator) -> bool {
        use Operator::{Eq, EqValidity, Gt, GtEq, Lt, LtEq, NotEq, NotEqValidity};
        matches!(op, Eq | EqValidity | NotEq | NotEqValidity | Lt | LtEq | Gt | GtEq)
    }
}

#[cfg(not(feature = "polars"))]
mod without_polars {
    use arrow_array::{BooleanArray, RecordBatch};
    use arrow_schema::SchemaRef;

    use super::super::error::{Result, SourceError};

    /// There are none: `parse` refuses.
    #[derive(Clone)]
    pub enum Predicate {}

    impl Predicate {
        pub fn parse(text: &str) -> Result<Self> {
            Err(SourceError::PredicateUnsupported { predicate: text.into() })
        }

        pub fn columns(&self) -> &[String] {
            match *self {}
        }

        pub fn bind(&mut self, _: &SchemaRef) -> Result<()> {
            match *self {}
        }

        pub fn evaluate(&self, _: &RecordBatch) -> Result<BooleanArray> {
            match *self {}
        }
    }
}

#[cfg(all(test, feature = "polars"))]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{
        ArrayRef, Date32Array, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    /// Six rows: the last has nothing but nulls.
    fn rows() -> RecordBatch {
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("x"), Some("y")]);
        tags.append_value([Some("y")]);
        tags.append_value::<_, &str>([]);
        tags.append_value([Some("z")]);
        tags.append_value([Some("x")]);
        tags.append_null();
        let lang = vec![Some("en"), Some("de"), Some("en"), Some("en_GB"), Some(""), None];
        let year = vec![Some(2019), Some(2020), Some(2021), Some(2024), Some(2025), None];
        let score = vec![Some(0.5), Some(-1.0), Some(f64::NAN), Some(2.0), Some(0.0), None];
        let day = vec![Some(17_000), Some(18_000), Some(19_000), Some(19_723), Some(20_000), None];
        let micros = 86_400_000_000i64;
        let at = day.iter().map(|day| day.map(|day: i32| i64::from(day) * micros)).collect::<Vec<_>>();
        let at_zone = |zone: &str| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(at.clone()).with_timezone(zone))
        };
        RecordBatch::try_from_iter_with_nullable([
            ("lang", Arc::new(StringArray::from(lang)) as _, true),
            ("year", Arc::new(Int32Array::from(year)) as _, true),
            ("score", Arc::new(Float64Array::from(score)) as _, true),
            ("day", Arc::new(Date32Array::from(day)) as _, true),
            ("at", Arc::new(TimestampMicrosecondArray::from(at.clone())) as _, true),
            ("at_utc", at_zone("UTC"), true),
            ("at_offset", at_zone("+05:30"), true),
            ("at_berlin", at_zone("Europe/Berlin"), true),
            ("tags", Arc::new(tags.finish()) as _, true),
        ])
        .unwrap()
    }

    fn kept(text: &str) -> Vec<usize> {
        let mut predicate = Predicate::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let columns: Vec<usize> =
            predicate.columns().iter().map(|name| rows().schema().index_of(name).unwrap()).collect();
        let rows = rows().project(&columns).unwrap();
        predicate.bind(&rows.schema()).unwrap_or_else(|error| panic!("{error}"));
        let keep = predicate.evaluate(&rows).unwrap_or_else(|error| panic!("{error}"));
        // The same answer for each row alone: a predicate knows nothing of the batch.
        for row in 0..rows.num_rows() {
            assert_eq!(predicate.evaluate(&rows.slice(row, 1)).unwrap().value(0), keep.value(row), "{text}");
        }
        (0..keep.len()).filter(|&row| keep.value(row)).collect()
    }

    #[test]
    fn sql_predicates_select_the_rows_that_sql_would() {
        for (text, expected) in [
            ("lang = 'en'", vec![0, 2]),
            ("lang = 'en' AND year BETWEEN 2020 AND 2024", vec![2]),
            ("year BETWEEN 2020 AND 2024", vec![1, 2, 3]),
            ("lang IN ('de', 'en_GB')", vec![1, 3]),
            ("lang NOT IN ('de', 'en')", vec![3, 4]),
            ("lang LIKE 'en%'", vec![0, 2, 3]),
            ("lang ILIKE 'EN'", vec![0, 2]),
            ("lang IS NULL", vec![5]),
            ("lang IS NOT NULL AND NOT (year > 2020)", vec![0, 1]),
            ("lang <> 'en'", vec![1, 3, 4]),
            ("year % 2 = 0 OR score < 0", vec![1, 3]),
            ("\"year\" + 1 > 2024", vec![3, 4]),
            ("LENGTH(lang) = 2", vec![0, 1, 2]),
            ("UPPER(lang) = 'DE'", vec![1]),
            ("COALESCE(year, 0) = 0", vec![5]),
            ("CASE WHEN year < 2021 THEN score > 0 ELSE TRUE END", vec![0, 2, 3, 4, 5]),
            ("CAST(year AS VARCHAR) = '2021'", vec![2]),
            ("day >= '2024-01-01'", vec![3, 4]),
            ("day BETWEEN '2019-04-14' AND '2022-01-08'", vec![1, 2]),
            ("'2024-01-01' <= at", vec![3, 4]),
            ("at < '2019-04-14 00:00:01'", vec![0, 1]),
            ("at_utc >= '2024-01-01'", vec![3, 4]),
            ("at_utc = '2024-01-01T02:00:00+02:00'", vec![3]),
            ("at_offset = '2024-01-01'", vec![3]),
            ("at_offset BETWEEN '2019-04-14' AND '2022-01-08'", vec![1, 2]),
            ("at_berlin = '2024-01-01T00:00:00Z'", vec![3]),
            ("at >= TIMESTAMP '2024-01-01 00:00:00'", vec![3, 4]),
            ("day IN ('2023-12-31', '2024-01-01')", vec![3]),
            ("year IN (2019, 2025)", vec![0, 4]),
            ("year = 1", vec![]),
        ] {
            assert_eq!(kept(text), expected, "{text}");
        }
    }

    #[test]
    fn a_predicate_that_cannot_be_is_refused_before_any_row_is_read() {
        let refused = |text: &str| {
            let mut predicate = match Predicate::parse(text) {
                Err(error) => return error.to_string(),
                Ok(predicate) => predicate,
            };
            let columns: Vec<usize> =
                predicate.columns().iter().map(|name| rows().schema().index_of(name).unwrap()).collect();
            match predicate.bind(&rows().project(&columns).unwrap().schema()) {
                Err(error) => error.to_string(),
                Ok(()) => panic!("`{text}` was accepted"),
            }
        };
        for (text, says) in [
            ("", "where"),
            ("lang =", "where"),
            ("lang = 'en' lang", "where"),
            ("lang = 'en' ORDER BY year", "where"),
            ("year + 1", "expected a boolean"),
            ("lang", "expected a boolean"),
            ("1 = 1", "names no column"),
            ("year > AVG(year)", "no function of one row"),
            ("year = MAX(year)", "no function of one row"),
            ("COUNT(*) > 1 AND year > 0", "no function of one row"),
            ("ROW_NUMBER() OVER (ORDER BY year) > 1", "where"),
            ("year IN (SELECT year FROM t)", "where"),
            ("day >= 'not a date'", "where"),
            ("lang > 3 + year AND lang", "where"),
        ] {
            let error = refused(text);
            assert!(error.contains(says) && error.contains("predicate"), "`{text}`: {error}");
        }
    }
}
