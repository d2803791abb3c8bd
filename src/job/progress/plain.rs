//! One line per thing that happens, for logs and pipes.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Event, Level, Renderer, StageState, Unit};
use crate::job::quantity::{bytes, count, duration};

/// Seconds between two lines of one stage: a build of an hour writes some hundred lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Plain lines:
///
/// ```text
/// read: 336,479 rows
/// read: 120,000 of 336,479 rows (35 %), 12,000 rows/s, 18.0 s left
/// read: done, 336,479 rows in 28.0 s, 12,017 rows/s
/// ```
pub struct PlainLines<W> {
    out: Mutex<W>,
}

impl<W: Write + Send> PlainLines<W> {
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new(out) }
    }
}

impl<W: Write + Send> Renderer for PlainLines<W> {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn render(&self, event: Event<'_>, _: Duration) {
        let line = match event {
            Event::StageStarted(stage) => match stage.total {
                Some(total) => format!("{}: {}", stage.name, amount(total, stage.unit)),
                None => format!("{}: started", stage.name),
            },
            Event::StageAdvanced(stage) => advanced(stage),
            Event::StageFinished(stage) => finished(stage),
            Event::StageAbandoned(stage) => {
                format!("{}: not finished, after {}", stage.name, duration(stage.elapsed))
            }
            Event::Note { level: Level::Info, text } => text.into(),
            Event::Note { level: Level::Warning, text } => format!("warning: {text}"),
            Event::DeviceRan { .. } | Event::Finished { .. } | Event::Failed { .. } => return,
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// `12,000 rows`, `3.1 MiB`.
fn amount(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => bytes(value),
        Unit::Count(name) => format!("{} {name}", count(value)),
    }
}

/// The end of a stage, as bars print it too.
pub(super) fn finished(stage: &StageState) -> String {
    let mut line = format!("{}: done", stage.name);
    if stage.done > 0 {
        line += &format!(", {} in {}", amount(stage.done, stage.unit), duration(stage.elapsed));
    } else {
        line += &format!(" in {}", duration(stage.elapsed));
    }
    // Beneath a millisecond a rate says nothing.
    if let Some(rate) = stage.rate().filter(|_| stage.elapsed.as_millis() > 0) {
        line += &format!(", {}/s", amount(rate as u64, stage.unit));
    }
    line
}

fn advanced(stage: &StageState) -> String {
    let mut line = format!("{}: ", stage.name);
    match stage.total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = (stage.done as f64 / total as f64 * 100.0).min(100.0);
            let done = match stage.unit {
                Unit::Bytes => bytes(stage.done),
                Unit::Count(_) => count(stage.done),
            };
            line += &format!("{done} of {} ({percent:.0} %)", amount(total, stage.unit));
        }
        None => line += &amount(stage.done, stage.unit),
    }
    if let Some(rate) = stage.rate() {
        line += &format!(", {}/s", amount(rate as u64, stage.unit));
    }
    if let Some(left) = stage.left() {
        line += &format!(", {} left", duration(left));
    }
    if let Some(message) = &stage.message {
        line += &format!(" – {message}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(done: u64, total: Option<u64>, unit: Unit) -> StageState {
        StageState {
            id: 0,
            name: "read".into(),
            unit,
            done,
            total,
            elapsed: Duration::from_secs(10),
            message: None,
        }
    }

    #[test]
    fn lines_read_as_documented() {
        let lines = PlainLines::new(Vec::new());
        let mut stage = state(120_000, Some(336_000), Unit::ROWS);
        lines.render(Event::StageStarted(&stage), Duration::ZERO);
        lines.render(Event::StageAdvanced(&stage), Duration::ZERO);
        stage.message = Some("part 3".into());
        stage.total = None;
        lines.render(Event::StageAdvanced(&stage), Duration::ZERO);
        lines.render(Event::StageFinished(&stage), Duration::ZERO);
        lines.render(Event::StageAdvanced(&state(1 << 20, Some(4 << 20), Unit::Bytes)), Duration::ZERO);
        lines.render(Event::StageFinished(&state(0, None, Unit::STEPS)), Duration::ZERO);
        lines.render(Event::StageAbandoned(&stage), Duration::ZERO);
        lines.render(Event::Note { level: Level::Warning, text: "few rows" }, Duration::ZERO);
        let text = String::from_utf8(lines.out.into_inner().unwrap()).unwrap();
        let expected = [
            "read: 336,000 rows",
            "read: 120,000 of 336,000 rows (36 %), 12,000 rows/s, 18.0 s left",
            "read: 120,000 rows, 12,000 rows/s – part 3",
            "read: done, 120,000 rows in 10.0 s, 12,000 rows/s",
            "read: 1.0 MiB of 4.0 MiB (25 %), 102 KiB/s, 30.0 s left",
            "read: done in 10.0 s",
            "read: not finished, after 10.0 s",
            "warning: few rows",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
