//! Bars with rate and time left, for people at a terminal.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plain::finished;
use super::{Event, Level, Renderer, StageState, Unit};

/// As often as indicatif draws.
const INTERVAL: Duration = Duration::from_millis(50);

/// One bar on stderr per running stage; a finished one leaves a line.
pub struct Bars {
    bars: MultiProgress,
    running: Mutex<BTreeMap<u64, ProgressBar>>,
}

impl Bars {
    pub fn on_stderr() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self { bars: MultiProgress::with_draw_target(target), running: Mutex::default() }
    }

    fn start(&self, stage: &StageState) {
        let bar = self.bars.add(match stage.total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        });
        bar.set_style(style(stage.unit, stage.total.is_some()));
        bar.set_prefix(stage.name.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.id, bar);
    }

    fn advance(&self, stage: &StageState) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = running.get(&stage.id) else { return };
        if let Some(total) = stage.total
            && bar.length() != Some(total)
        {
            bar.set_style(style(stage.unit, true));
            bar.set_length(total);
        }
        if let Some(message) = &stage.message {
            bar.set_message(message.clone());
        }
        bar.set_position(stage.done);
    }

    fn end(&self, stage: &StageState, line: &str) {
        let bar = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&stage.id);
        if let Some(bar) = bar {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.line(line);
    }

    fn line(&self, line: &str) {
        let _ = self.bars.println(line);
    }
}

fn style(unit: Unit, has_total: bool) -> ProgressStyle {
    let (done, rate) = match (unit, has_total) {
        (Unit::Bytes, true) => {
            ("{binary_bytes} of {binary_total_bytes}", "{binary_bytes_per_sec}".to_string())
        }
        (Unit::Bytes, false) => ("{binary_bytes}", "{binary_bytes_per_sec}".to_string()),
        (Unit::Count(name), true) => ("{human_pos} of {human_len}", format!("{{per_sec:0}} {name}")),
        (Unit::Count(name), false) => ("{human_pos}", format!("{{per_sec:0}} {name}")),
    };
    let template = if has_total {
        format!("{{prefix:14}} {{wide_bar}} {done} · {rate} · {{eta}} left {{msg}}")
    } else {
        format!("{{prefix:14}} {{spinner}} {done} · {rate} · {{elapsed}} {{msg}}")
    };
    ProgressStyle::with_template(&template).expect("held by a test").progress_chars("━╸ ")
}

impl Renderer for Bars {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn render(&self, event: Event<'_>, _: Duration) {
        match event {
            Event::StageStarted(stage) => self.start(stage),
            Event::StageAdvanced(stage) => self.advance(stage),
            Event::StageFinished(stage) => self.end(stage, &finished(stage)),
            Event::StageAbandoned(stage) => self.end(stage, &format!("{}: not finished", stage.name)),
            Event::Note { level: Level::Info, text } => self.line(text),
            Event::Note { level: Level::Warning, text } => self.line(&format!("warning: {text}")),
            Event::DeviceRan { .. } | Event::Finished { .. } | Event::Failed { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::progress::{CancelToken, Progress};
    use indicatif::TermLike;
    use std::io;
    use std::sync::Arc;

    /// A terminal that keeps all that was ever written to it.
    #[derive(Debug, Clone, Default)]
    struct Transcript(Arc<Mutex<String>>);

    impl Transcript {
        fn take(&self) -> String {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl TermLike for Transcript {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_template_is_understood() {
        for unit in [Unit::Bytes, Unit::ROWS] {
            style(unit, false);
            style(unit, true);
        }
    }

    #[test]
    fn a_running_stage_is_a_bar_and_a_finished_one_a_line() {
        let terminal = Transcript::default();
        let bars = Bars::on(ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 200));
        let progress = Progress::new(bars, CancelToken::new());
        let stage = progress.stage("read", Unit::ROWS, Some(10_000));
        std::thread::sleep(2 * INTERVAL);
        stage.inc(2_500);
        std::thread::sleep(Duration::from_millis(300));
        let running = terminal.take();
        assert!(running.contains("2,500 of 10,000") && running.contains("left"), "{running}");
        stage.inc(7_500);
        stage.finish();
        progress.warn("few rows");
        let ended = terminal.take();
        assert!(ended.contains("read: done, 10,000 rows in"), "{ended}");
        assert!(ended.contains("warning: few rows"), "{ended}");
        std::thread::sleep(Duration::from_millis(300));
        let after = terminal.take();
        assert!(!after.contains("read"), "a bar is drawn after its end: {after}");
    }
}
