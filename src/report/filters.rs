//! Recall and latency under filters of many and of few rows, at an index's default setting.

use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::error::ReportError;
use super::measurements::{Gathered, Measure, Measurement};
use super::subject::OpenSubject;
use super::sweep::{Queries, SweepParams};
use crate::index::SearchParams;
use crate::loader::{Answers, Filter, Query, Way};

/// Queries that each filter is measured with.
const FILTERED_QUERIES: usize = 500;

/// … and that each round of its latency is: a scan of half of the rows takes milliseconds.
const LATENCY_QUERIES: usize = 100;

/// Shares of the rows that the filters made here let through.
const SHARES: [f64; 5] = [0.5, 0.2, 0.1, 0.01, 0.001];

/// Distances of one search and of another of the same rows may differ in their last bits.
const TIE: f32 = 1e-5;

/// Conditions on the numeric attribute of most values that let through about half of the rows, a fifth, …, a
/// thousandth. None where no attribute has enough values.
pub fn made_of_attributes(attributes: Option<&RecordBatch>) -> Vec<String> {
    let Some(batch) = attributes else { return Vec::new() };
    let mut best: Option<(usize, String, Vec<f64>)> = None;
    for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
        if !column.data_type().is_numeric() {
            continue;
        }
        let Ok(cast) = arrow_cast::cast(column, &DataType::Float64) else { continue };
        let numbers = cast.as_primitive::<Float64Type>();
        let mut values: Vec<f64> = numbers.iter().flatten().filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let distinct = 1 + values.windows(2).filter(|pair| pair[0] != pair[1]).count();
        if distinct > 20 && best.as_ref().is_none_or(|(most, ..)| distinct > *most) {
            best = Some((distinct, field.name().clone(), values));
        }
    }
    let Some((_, name, values)) = best else { return Vec::new() };
    let mut filters: Vec<String> = SHARES
        .iter()
        .map(|share| ((values.len() as f64 * share) as usize).max(1))
        .map(|rows| format!("\"{}\" <= {}", name.replace('"', "\"\""), values[rows - 1]))
        .collect();
    filters.dedup();
    filters
}

/// Measures each filter, at the default setting, against an exact search under it.
///
/// # Errors
/// A filter that does not fit the attributes; an index that keeps no vectors to search exactly.
pub fn sweep_filters(
    subject: &OpenSubject,
    queries: &Queries<'_>,
    filters: &[String],
    params: &SweepParams,
    out: &mut Gathered,
) -> Result<(), ReportError> {
    let few = queries.vectors.slice(0, queries.vectors.rows().min(FILTERED_QUERIES));
    let SearchParams { effort, refine, .. } = subject.default_params(params.k);
    for (place, text) in filters.iter().enumerate() {
        let filter = Filter::parse(text)?;
        let exact = subject.index.ask(few, &Query::new(params.k).exact().filter(filter.clone()))?;
        let mut query = Query::new(params.k).effort(effort).filter(filter);
        if refine > 0 {
            query = query.refine(refine);
        }
        let prepared = subject.index.prepare(&query)?;
        let share = prepared.allowed_rows() as f64 / subject.index.rows() as f64;
        let way = match prepared.way() {
            Way::Nothing => "no row",
            Way::Exact { .. } => "scan",
            Way::Index(_) => "walk",
            Way::Masked { .. } => "masked walk",
        };
        let of = |measure, value| {
            let one = Measurement::of(&subject.name, measure, value);
            Measurement { filter: text, place: place as u32, k: params.k as u32, ..one }
        };
        out.push(Measurement { item: way, ..of(Measure::Selectivity, share) });
        let mut answers = Answers::new();
        prepared.search(few, &mut answers)?;
        for (number, id) in queries.ids.iter().enumerate().take(few.rows()) {
            let truth = exact.of(number);
            let Some(last) = truth.last() else { continue };
            let limit = last.distance + TIE * last.distance.abs().max(f32::MIN_POSITIVE);
            let hits = answers.of(number).iter().filter(|found| found.distance <= limit).count();
            let recall = hits.min(truth.len()) as f64 / truth.len() as f64;
            out.push(Measurement { item: id, ..of(Measure::Recall, recall) });
        }
        for round in 0..params.rounds {
            for (number, id) in queries.ids.iter().enumerate().take(few.rows().min(LATENCY_QUERIES)) {
                let one = few.slice(number, number + 1);
                let start = Instant::now();
                prepared.search(one, &mut answers)?;
                let micros = start.elapsed().as_secs_f64() * 1e6;
                out.push(Measurement { item: id, round, threads: 1, ..of(Measure::LatencyUs, micros) });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn filters_are_made_of_the_number_with_most_values() {
        let rank: Vec<i32> = (0..1000).rev().collect();
        let batch = RecordBatch::try_from_iter([
            ("word", Arc::new(StringArray::from(vec!["x"; 1000])) as ArrayRef),
            ("len", Arc::new(Int32Array::from_iter_values((0..1000).map(|row| row % 30)))),
            ("the \"rank\"", Arc::new(Int32Array::from(rank))),
        ])
        .unwrap();
        let filters = made_of_attributes(Some(&batch));
        assert_eq!(filters[0], "\"the \"\"rank\"\"\" <= 499");
        assert_eq!(filters.last().unwrap(), "\"the \"\"rank\"\"\" <= 0");
        assert_eq!(filters.len(), SHARES.len());
        assert!(filters.iter().all(|filter| Filter::parse(filter).is_ok()), "{filters:?}");
        assert_eq!(made_of_attributes(None), [""; 0]);
    }
}
