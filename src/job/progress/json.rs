//! One JSON object per line, for programs that start builds.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Event, Level, Renderer, StageState};

const INTERVAL: Duration = Duration::from_secs(1);

/// JSON lines. Every object has `event` and `at_s`, the seconds since the job's start; a reader should skip events
/// and fields that it does not know.
///
/// | `event` | fields |
/// |---|---|
/// | `stage_started` | `stage`, `unit`, `total` where known |
/// | `stage_advanced` | `stage`, `unit`, `done`, `elapsed_s`, and where known `total`, `left_s`, `message`; at most one a second |
/// | `stage_finished`, `stage_abandoned` | `stage`, `unit`, `done`, `elapsed_s` |
/// | `note` | `level` (`info`, `warning`), `text` |
/// | `finished` | `result`; the last line of a job that succeeded; `failed` follows where an index is below its gate |
/// | `failed` | `kind`, `exit_code`, `message`; the last line of one that did not |
pub struct JsonLines<W> {
    out: Mutex<W>,
}

impl<W: Write + Send> JsonLines<W> {
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new(out) }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    at_s: f64,
    #[serde(flatten)]
    stage: Option<StageFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(flatten)]
    failure: Option<Failure>,
}

#[derive(Serialize)]
struct Failure {
    kind: &'static str,
    exit_code: u8,
    message: String,
}

#[derive(Serialize)]
struct StageFields<'a> {
    stage: &'a str,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> StageFields<'a> {
    fn started(stage: &'a StageState) -> Self {
        let StageState { name, unit, total, .. } = stage;
        let unit = unit.name();
        Self { stage: name, unit, done: None, total: *total, elapsed_s: None, left_s: None, message: None }
    }

    fn ended(stage: &'a StageState) -> Self {
        let elapsed_s = Some(milliseconds(stage.elapsed));
        Self { done: Some(stage.done), total: None, elapsed_s, ..Self::started(stage) }
    }

    fn advanced(stage: &'a StageState) -> Self {
        Self {
            total: stage.total,
            left_s: stage.left().map(milliseconds),
            message: stage.message.as_deref(),
            ..Self::ended(stage)
        }
    }
}

/// Seconds, rounded to what a person could tell apart.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

impl<W: Write + Send> Renderer for JsonLines<W> {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn render(&self, event: Event<'_>, since_start: Duration) {
        let (name, stage) = match event {
            Event::StageStarted(stage) => ("stage_started", Some(StageFields::started(stage))),
            Event::StageAdvanced(stage) => ("stage_advanced", Some(StageFields::advanced(stage))),
            Event::StageFinished(stage) => ("stage_finished", Some(StageFields::ended(stage))),
            Event::StageAbandoned(stage) => ("stage_abandoned", Some(StageFields::ended(stage))),
            Event::Note { .. } => ("note", None),
            // For traces: a build has thousands, and the result has their sums.
            Event::DeviceRan { .. } => return,
            Event::Finished { .. } => ("finished", None),
            Event::Failed { .. } => ("failed", None),
        };
        let (level, text) = match event {
            Event::Note { level, text } => (Some(level), Some(text)),
            _ => (None, None),
        };
        let result = match event {
            Event::Finished { result } => Some(result),
            _ => None,
        };
        let failure = match event {
            Event::Failed { error } => {
                let (kind, exit_code, message) = (error.kind(), error.exit_code(), error.to_string());
                Some(Failure { kind, exit_code, message })
            }
            _ => None,
        };
        let at_s = milliseconds(since_start);
        let line = Line { event: name, at_s, stage, level, text, result, failure };
        let line = serde_json::to_string(&line).expect("strings and numbers");
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::progress::{CancelToken, Progress, Unit};

    /// A writer that can be read while it is written.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_an_object_with_an_event_and_its_time() {
        let out = Shared::default();
        let progress = Progress::new(JsonLines::new(out.clone()), CancelToken::new());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let progress = &progress;
                scope.spawn(move || {
                    for round in 0..50 {
                        let stage = progress.stage(format!("s{thread}"), Unit::ROWS, Some(10));
                        stage.set_message("line\nbreak \"quoted\"");
                        stage.inc(10);
                        if round % 2 == 0 {
                            stage.finish();
                        }
                        progress.note("a\nb");
                    }
                });
            }
        });
        progress.finished(&serde_json::json!({"indexes": []}));
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4 * 50 * 3 + 1);
        for line in &lines {
            assert!(line["event"].is_string() && line["at_s"].is_number(), "{line}");
        }
        let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
        assert_eq!(
            (count("stage_started"), count("stage_finished"), count("stage_abandoned")),
            (200, 100, 100)
        );
        assert_eq!(lines.last().unwrap()["result"]["indexes"], serde_json::json!([]));
    }

    #[test]
    fn a_failure_tells_its_exit_code() {
        let out = Shared::default();
        let progress = Progress::new(JsonLines::new(out.clone()), CancelToken::new());
        progress.failed(&crate::Error::Store("bucket is gone".into()));
        let line: Value = serde_json::from_slice(&out.0.lock().unwrap()).unwrap();
        let told = (&line["event"], &line["kind"], &line["exit_code"], &line["message"]);
        assert_eq!(told, (&"failed".into(), &"store".into(), &5.into(), &"bucket is gone".into()));
    }

    #[test]
    fn an_advance_tells_what_is_left() {
        let out = Shared::default();
        let lines = JsonLines::new(out.clone());
        let stage = StageState {
            id: 0,
            name: "encode".into(),
            unit: Unit::ROWS,
            done: 25,
            total: Some(100),
            elapsed: Duration::from_secs(5),
            message: None,
        };
        lines.render(Event::StageAdvanced(&stage), Duration::from_millis(7250));
        let line: Value = serde_json::from_slice(&out.0.lock().unwrap()).unwrap();
        let expected = serde_json::json!({
            "event": "stage_advanced", "at_s": 7.25, "stage": "encode", "unit": "rows", "done": 25, "total": 100,
            "elapsed_s": 5.0, "left_s": 15.0,
        });
        assert_eq!(line, expected);
    }
}
