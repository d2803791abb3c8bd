//! What was tried as the measurements of a report: its page has each candidate's recall beside its speed, on the largest sample
//! that it was tried on.

use super::{Tried, Tuning};
use crate::report::{Gathered, Header, Measure, Measurement, Measurements, MeasurementsError, Subject};

/// `header` has machine and command; query set and subjects are filled in.
///
/// # Errors
/// Numbers that make no table.
pub fn measurements(tuning: &Tuning, mut header: Header) -> Result<Measurements, MeasurementsError> {
    let mut out = Gathered::default();
    header.dataset.queries = tuning.queries;
    header.dataset.dim = tuning.dim as u32;
    header.dataset.metric = tuning.metric.to_string();
    header.dataset.truth = "computed, of each sample".into();
    header.rounds = 1;
    header.notes.push(format!(
        "Trials on samples of {} rows, each candidate as far as it went; the job has {} rows. What is predicted of all is in \
         `annvil tune --json`.",
        tuning.samples.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        tuning.rows
    ));
    for tried in &tuning.candidates {
        if let Some(subject) = record(tuning, tried, &mut out) {
            header.subjects.push(subject);
        }
    }
    Ok(Measurements { header, table: out.finish()? })
}

fn record(tuning: &Tuning, tried: &Tried, out: &mut Gathered) -> Option<Subject> {
    let trial = tried.trials.last()?;
    let k = tuning.asked.k as u32;
    let label = |effort: u32| format!("effort {effort}");
    for (place, setting) in (0u32..).zip(&trial.points) {
        let label = label(setting.effort);
        let of = |measure, value| Measurement {
            setting: &label,
            place,
            k,
            threads: 1,
            ..Measurement::of(&tried.name, measure, value)
        };
        out.push(Measurement { threads: 0, ..of(Measure::Recall, setting.recall) });
        out.push(of(Measure::Qps, setting.qps));
    }
    let of = |item, measure, value| Measurement { item, ..Measurement::of(&tried.name, measure, value) };
    out.push(of("index", Measure::Bytes, trial.bytes as f64));
    out.push(of("build", Measure::BuildWallS, trial.build_seconds));
    let is_won = tuning.winner.as_deref() == Some(&tried.name);
    Some(Subject {
        name: tried.name.clone(),
        kind: tried.params.kind().into(),
        rows: trial.rows,
        default_setting: label(trial.effort),
        facts: vec![("chosen".into(), if is_won { "yes" } else { "no" }.into())],
        is_ours: true,
        ..Subject::default()
    })
}
