//! What the attribute columns hold, for the manifest: nulls, distinct values, least and greatest.

use arrow_array::{Array, RecordBatch};

use super::error::Result;
#[cfg(feature = "polars")]
use super::error::SourceError;

/// One attribute column of the kept rows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AttributeSummary {
    pub name: String,
    /// As Arrow writes it, e.g. `Int64`, `Utf8`.
    pub data_type: String,
    pub nulls: u64,
    /// Distinct values, nulls not counted. `None` for lists, and in a build without polars.
    pub distinct: Option<u64>,
    /// Least and greatest number, date or timestamp, as text. `None` for other types and where all is null.
    pub min: Option<String>,
    pub max: Option<String>,
}

pub(super) fn summarise(attributes: &RecordBatch) -> Result<Vec<AttributeSummary>> {
    let schema = attributes.schema();
    let columns = attributes.columns().iter().zip(schema.fields());
    columns
        .map(|(column, field)| {
            let mut summary = AttributeSummary {
                name: field.name().clone(),
                data_type: field.data_type().to_string(),
                nulls: column.null_count() as u64,
                distinct: None,
                min: None,
                max: None,
            };
            describe_values(column.as_ref(), &mut summary)?;
            Ok(summary)
        })
        .collect()
}

#[cfg(not(feature = "polars"))]
fn describe_values(_: &dyn Array, _: &mut AttributeSummary) -> Result<()> {
    Ok(())
}

#[cfg(feature = "polars")]
fn describe_values(column: &dyn Array, summary: &mut AttributeSummary) -> Result<()> {
    use polars::prelude::{PolarsResult, Scalar};

    use super::polars_bridge::to_series;

    if column.data_type().is_nested() {
        return Ok(());
    }
    let shown = |scalar: Scalar| Some(scalar.value().to_string()).filter(|_| !scalar.is_null());
    let mut describe = || -> PolarsResult<()> {
        let series = to_series(&summary.name, column)?;
        // polars counts null as one more value.
        summary.distinct = Some((series.n_unique()? - usize::from(series.null_count() > 0)) as u64);
        if series.dtype().is_primitive_numeric() || series.dtype().is_temporal() {
            summary.min = shown(series.min_reduce()?);
            summary.max = shown(series.max_reduce()?);
        }
        Ok(())
    };
    describe().map_err(|error| SourceError::Summary { column: summary.name.clone(), what: error.to_string() })
}
