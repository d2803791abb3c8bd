//! How a running job tells about itself, and how it learns that it should stop. Stages report numbers; a
//! [`Renderer`] decides what becomes of them: bars on a terminal, plain lines, JSON lines, nothing.

#[cfg(feature = "cli")]
mod bars;
mod cancel;
mod json;
mod plain;
mod trace;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "cli")]
pub use bars::Bars;
pub use cancel::{CancelToken, Cancelled};
pub use json::JsonLines;
pub use plain::PlainLines;
pub use trace::{Trace, TraceError, Traced};

use crate::compute::KernelRun;
use crate::error::Error;

/// What a stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Anything else, by its plural.
    Count(&'static str),
}

impl Unit {
    pub const ROWS: Unit = Unit::Count("rows");
    pub const QUERIES: Unit = Unit::Count("queries");
    pub const STEPS: Unit = Unit::Count("steps");

    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Count(name) => name,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
}

/// A stage at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StageState {
    /// Different for each stage of a job, in order of their start.
    pub id: u64,
    pub name: String,
    pub unit: Unit,
    pub done: u64,
    /// Where it is known.
    pub total: Option<u64>,
    pub elapsed: Duration,
    /// What it is at, as "iteration 7".
    pub message: Option<String>,
}

impl StageState {
    /// Units per second so far; none before anything is done.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (self.done > 0 && seconds > 0.0).then(|| self.done as f64 / seconds)
    }

    /// Time left at that rate, where the total is known.
    pub fn left(&self) -> Option<Duration> {
        let left = self.total?.checked_sub(self.done)?;
        Duration::try_from_secs_f64(left as f64 / self.rate()?).ok()
    }
}

/// Something to show.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    StageStarted(&'a StageState),
    /// At most once per [`Renderer::interval`] and stage.
    StageAdvanced(&'a StageState),
    StageFinished(&'a StageState),
    /// The stage was dropped before its end: it failed, or the job was cancelled.
    StageAbandoned(&'a StageState),
    Note {
        level: Level,
        text: &'a str,
    },
    /// A device has done what a stage asked of it; in the order in which it did.
    DeviceRan {
        runs: &'a [KernelRun],
    },
    /// What the job made, for machines: the last event of a job that succeeds.
    Finished {
        result: &'a serde_json::Value,
    },
    /// Why it made nothing: the last event of a job that does not. People read it elsewhere, on stderr.
    Failed {
        error: &'a Error,
    },
}

/// Shows events. Called from any thread; must not fail: a log that cannot be written is no reason to lose a build.
pub trait Renderer: Send + Sync {
    /// The least time between two `StageAdvanced` of one stage.
    fn interval(&self) -> Duration;

    /// `since_start` is the job's age.
    fn render(&self, event: Event<'_>, since_start: Duration);
}

impl Renderer for Box<dyn Renderer> {
    fn interval(&self) -> Duration {
        (**self).interval()
    }

    fn render(&self, event: Event<'_>, since_start: Duration) {
        (**self).render(event, since_start);
    }
}

/// Shows nothing but warnings, on stderr where `warn` says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent {
    pub warn: bool,
}

impl Renderer for Silent {
    fn interval(&self) -> Duration {
        Duration::MAX
    }

    fn render(&self, event: Event<'_>, _: Duration) {
        if let Event::Note { level: Level::Warning, text } = event
            && self.warn
        {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "warning: {text}");
        }
    }
}

/// A job's voice. Cloning shares it.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    renderer: Box<dyn Renderer>,
    cancel: CancelToken,
    started: Instant,
    stages: AtomicU64,
}

impl Progress {
    pub fn new(renderer: impl Renderer + 'static, cancel: CancelToken) -> Self {
        let stages = AtomicU64::new(0);
        let renderer = Box::new(renderer);
        Self { shared: Arc::new(Shared { renderer, cancel, started: Instant::now(), stages }) }
    }

    /// Tells nobody, and is never cancelled.
    pub fn silent() -> Self {
        Self::new(Silent::default(), CancelToken::new())
    }

    /// Starts a stage; `total` where it is known.
    #[must_use = "a stage that is dropped at once is reported as abandoned"]
    pub fn stage(&self, name: impl Into<String>, unit: Unit, total: Option<u64>) -> Stage {
        let stage = Stage {
            progress: self.clone(),
            id: self.shared.stages.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            unit,
            started: Instant::now(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
            shown_ms: AtomicU64::new(0),
            message: Mutex::new(None),
            is_finished: false,
        };
        self.render(Event::StageStarted(&stage.state()));
        stage
    }

    pub fn note(&self, text: impl AsRef<str>) {
        self.render(Event::Note { level: Level::Info, text: text.as_ref() });
    }

    pub fn warn(&self, text: impl AsRef<str>) {
        self.render(Event::Note { level: Level::Warning, text: text.as_ref() });
    }

    pub fn device_ran(&self, runs: &[KernelRun]) {
        if !runs.is_empty() {
            self.render(Event::DeviceRan { runs });
        }
    }

    /// The job has succeeded and this is what it made.
    pub fn finished(&self, result: &serde_json::Value) {
        self.render(Event::Finished { result });
    }

    pub fn failed(&self, error: &Error) {
        self.render(Event::Failed { error });
    }

    pub fn cancel_token(&self) -> &CancelToken {
        &self.shared.cancel
    }

    /// An error once the job has been cancelled: stages ask between two steps.
    pub fn check(&self) -> Result<(), Cancelled> {
        self.shared.cancel.check()
    }

    fn render(&self, event: Event<'_>) {
        self.shared.renderer.render(event, self.shared.started.elapsed());
    }
}

/// No total.
const UNKNOWN: u64 = u64::MAX;

/// A stage that runs. May be shared between threads; ends with [`Stage::finish`].
pub struct Stage {
    progress: Progress,
    id: u64,
    name: String,
    unit: Unit,
    started: Instant,
    done: AtomicU64,
    total: AtomicU64,
    /// When it was last shown, in milliseconds since its start.
    shown_ms: AtomicU64,
    message: Mutex<Option<String>>,
    is_finished: bool,
}

impl Stage {
    /// `amount` more are done. Cheap enough for each batch, not for each row.
    pub fn inc(&self, amount: u64) {
        self.done.fetch_add(amount, Ordering::Relaxed);
        self.show();
    }

    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.show();
    }

    pub fn set_message(&self, message: impl Into<String>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.into());
        self.show();
    }

    /// As [`Progress::check`].
    pub fn check(&self) -> Result<(), Cancelled> {
        self.progress.check()
    }

    /// The stage has done what it should. How long it took.
    pub fn finish(mut self) -> Duration {
        self.is_finished = true;
        let state = self.state();
        self.progress.render(Event::StageFinished(&state));
        state.elapsed
    }

    pub fn state(&self) -> StageState {
        let total = self.total.load(Ordering::Relaxed);
        StageState {
            id: self.id,
            name: self.name.clone(),
            unit: self.unit,
            done: self.done.load(Ordering::Relaxed),
            total: (total != UNKNOWN).then_some(total),
            elapsed: self.started.elapsed(),
            message: self.message.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Shows the stage if it has not been shown for a while; of several threads, one does.
    fn show(&self) {
        let interval_ms = self.progress.shared.renderer.interval().as_millis();
        let now_ms = self.started.elapsed().as_millis() as u64;
        let shown_ms = self.shown_ms.load(Ordering::Relaxed);
        if u128::from(now_ms.saturating_sub(shown_ms)) >= interval_ms
            && self.shown_ms.compare_exchange(shown_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.progress.render(Event::StageAdvanced(&self.state()));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_finished {
            self.progress.render(Event::StageAbandoned(&self.state()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it was shown.
    #[derive(Clone, Default)]
    struct Recorder {
        interval: Duration,
        events: Arc<Mutex<Vec<String>>>,
    }

    impl Renderer for Recorder {
        fn interval(&self) -> Duration {
            self.interval
        }

        fn render(&self, event: Event<'_>, _: Duration) {
            let text = match event {
                Event::StageStarted(stage) => format!("start {} {:?}", stage.name, stage.total),
                Event::StageAdvanced(stage) => format!("at {}", stage.done),
                Event::StageFinished(stage) => format!("finish {} {}", stage.name, stage.done),
                Event::StageAbandoned(stage) => format!("abandon {}", stage.name),
                Event::Note { level, text } => format!("{level:?} {text}"),
                Event::DeviceRan { runs } => format!("ran {}", runs.len()),
                Event::Finished { result } => format!("result {result}"),
                Event::Failed { error } => format!("failed {error}"),
            };
            self.events.lock().unwrap().push(text);
        }
    }

    #[test]
    fn a_stage_tells_its_start_its_steps_and_its_end() {
        let recorder = Recorder::default();
        let progress = Progress::new(recorder.clone(), CancelToken::new());
        let stage = progress.stage("read", Unit::ROWS, Some(3));
        stage.inc(1);
        stage.inc(2);
        stage.finish();
        drop(progress.stage("train", Unit::STEPS, None));
        progress.warn("w");
        progress.finished(&serde_json::json!({"rows": 3}));
        let events = recorder.events.lock().unwrap().clone();
        let expected = [
            "start read Some(3)",
            "at 1",
            "at 3",
            "finish read 3",
            "start train None",
            "abandon train",
            "Warning w",
            "result {\"rows\":3}",
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn many_small_steps_are_shown_seldom_and_counted_all() {
        let recorder = Recorder { interval: Duration::from_secs(3600), ..Recorder::default() };
        let progress = Progress::new(recorder.clone(), CancelToken::new());
        let stage = progress.stage("encode", Unit::ROWS, Some(40_000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| stage.inc(1)));
            }
        });
        assert_eq!(stage.state().done, 40_000);
        stage.finish();
        assert_eq!(recorder.events.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_cancelled_job_is_told_at_its_next_question() {
        let progress = Progress::new(Silent::default(), CancelToken::new());
        let stage = progress.stage("train", Unit::STEPS, None);
        assert_eq!(stage.check(), Ok(()));
        assert!(!progress.cancel_token().cancel());
        assert_eq!(stage.check(), Err(Cancelled));
        assert!(progress.cancel_token().clone().cancel());
    }

    #[test]
    fn time_left_follows_from_the_rate() {
        let mut state = Progress::silent().stage("s", Unit::ROWS, Some(100)).state();
        assert_eq!((state.rate(), state.left()), (None, None));
        (state.done, state.elapsed) = (25, Duration::from_secs(5));
        assert_eq!((state.rate(), state.left()), (Some(5.0), Some(Duration::from_secs(15))));
        // A total that was estimated too low.
        state.total = Some(20);
        assert_eq!(state.left(), None);
    }
}
