//! When what ran, as a Chrome trace: stages of the job on one track for each that run at a time, kernels of a device on
//! another. `chrome://tracing` and ui.perfetto.dev draw it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Event, Renderer, StageState};
use crate::compute::KernelRun;
use crate::error::Error;

#[derive(Debug, thiserror::Error)]
#[error("{}: the trace cannot be written: {source}", path.display())]
pub struct TraceError {
    path: PathBuf,
    source: io::Error,
}

impl From<TraceError> for Error {
    fn from(error: TraceError) -> Self {
        Error::BadInput(Box::new(error))
    }
}

/// A trace that is being written. Cloning shares it.
#[derive(Clone)]
pub struct Trace {
    path: PathBuf,
    shared: Arc<Mutex<Spans>>,
}

struct Spans {
    /// None once writing has failed, and why.
    out: Result<BufWriter<File>, io::Error>,
    /// Which stage is drawn on which track: by its id.
    tracks: Vec<Option<u64>>,
    is_first: bool,
}

/// Processes of a trace: what the host does, and what the device.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// Times in microseconds since the job's start.
#[derive(Serialize)]
#[serde(tag = "ph")]
enum TraceEvent<'a> {
    #[serde(rename = "X")]
    Complete { name: &'a str, pid: u32, tid: usize, ts: f64, dur: f64, args: Args<'a> },
    #[serde(rename = "M")]
    Metadata { name: &'a str, pid: u32, args: Args<'a> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Name { name: &'a str },
    Stage { done: u64, unit: &'a str, finished: bool },
    Kernel { gflops: f64, gb_per_s: f64 },
}

impl Trace {
    /// # Errors
    /// Where the file cannot be made: before anything has run.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let out = File::create(path).map_err(|source| TraceError { path: path.into(), source })?;
        let spans = Spans { out: Ok(BufWriter::new(out)), tracks: Vec::new(), is_first: true };
        let trace = Self { path: path.into(), shared: Arc::new(Mutex::new(spans)) };
        let mut spans = trace.spans();
        for (pid, name) in [(HOST, "stages"), (DEVICE, "device")] {
            spans.write(&TraceEvent::Metadata { name: "process_name", pid, args: Args::Name { name } });
        }
        drop(spans);
        Ok(trace)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The first that writing it met with.
    pub fn finish(self) -> Result<(), Error> {
        let mut spans = self.spans();
        let ended = match &mut spans.out {
            Ok(out) => out.write_all(b"\n]\n").and_then(|()| out.flush()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        ended.map_err(|source| TraceError { path: self.path.clone(), source }.into())
    }

    fn spans(&self) -> std::sync::MutexGuard<'_, Spans> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spans {
    fn write(&mut self, event: &TraceEvent<'_>) {
        let Ok(out) = &mut self.out else { return };
        let separator = if self.is_first { "[\n" } else { ",\n" };
        self.is_first = false;
        let line = serde_json::to_string(event).expect("strings and numbers");
        if let Err(error) = write!(out, "{separator}{line}") {
            self.out = Err(error);
        }
    }

    /// The first free track is the stage's until its end.
    fn start(&mut self, stage: &StageState) {
        match self.tracks.iter().position(Option::is_none) {
            Some(free) => self.tracks[free] = Some(stage.id),
            None => self.tracks.push(Some(stage.id)),
        }
    }

    fn end(&mut self, stage: &StageState, finished: bool, now: Duration) {
        let Some(tid) = self.tracks.iter().position(|&track| track == Some(stage.id)) else { return };
        self.tracks[tid] = None;
        let dur = microseconds(stage.elapsed);
        let args = Args::Stage { done: stage.done, unit: stage.unit.name(), finished };
        let ts = (microseconds(now) - dur).max(0.0);
        self.write(&TraceEvent::Complete { name: &stage.name, pid: HOST, tid, ts, dur, args });
    }

    fn ran(&mut self, run: &KernelRun, job_started: Instant) {
        let ts = microseconds(run.started.saturating_duration_since(job_started));
        let seconds = run.took.as_secs_f64().max(1e-9);
        let args = Args::Kernel { gflops: run.flops / seconds * 1e-9, gb_per_s: run.bytes / seconds * 1e-9 };
        let dur = microseconds(run.took);
        self.write(&TraceEvent::Complete { name: run.kernel, pid: DEVICE, tid: 0, ts, dur, args });
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Traces events, and shows them as `shown` does.
pub struct Traced<R> {
    pub trace: Trace,
    pub shown: R,
}

impl<R: Renderer> Renderer for Traced<R> {
    fn interval(&self) -> Duration {
        self.shown.interval()
    }

    fn render(&self, event: Event<'_>, since_start: Duration) {
        match event {
            Event::StageStarted(stage) => self.trace.spans().start(stage),
            Event::StageFinished(stage) => self.trace.spans().end(stage, true, since_start),
            Event::StageAbandoned(stage) => self.trace.spans().end(stage, false, since_start),
            Event::DeviceRan { runs } => {
                let now = Instant::now();
                let job_started = now.checked_sub(since_start).unwrap_or(now);
                let mut spans = self.trace.spans();
                runs.iter().for_each(|run| spans.ran(run, job_started));
            }
            Event::StageAdvanced(_) | Event::Note { .. } | Event::Finished { .. } | Event::Failed { .. } => {}
        }
        self.shown.render(event, since_start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::progress::{CancelToken, Progress, Silent, Unit};

    #[test]
    fn a_trace_has_every_stage_and_kernel_and_stages_of_one_time_have_tracks_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.trace.json");
        let trace = Trace::create(&path).unwrap();
        let traced = Traced { trace: trace.clone(), shown: Silent::default() };
        let progress = Progress::new(traced, CancelToken::new());
        let outer = progress.stage("outer", Unit::ROWS, None);
        let inner = progress.stage("inner \"quoted\"", Unit::ROWS, Some(3));
        inner.inc(3);
        inner.finish();
        drop(progress.stage("abandoned", Unit::STEPS, None));
        let took = Duration::from_millis(2);
        let run = KernelRun { kernel: "top_k", started: Instant::now(), took, flops: 4e9, bytes: 2e6 };
        progress.device_ran(&[run]);
        outer.finish();
        trace.finish().unwrap();

        let text = std::fs::read_to_string(&path).unwrap();
        let events: serde_json::Value = serde_json::from_str(&text).unwrap();
        let complete: Vec<&serde_json::Value> =
            events.as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
        let of = |name: &str| complete.iter().find(|event| event["name"] == name).unwrap();
        assert_eq!(complete.len(), 4);
        let (outer, inner, kernel) = (of("outer"), of("inner \"quoted\""), of("top_k"));
        assert_eq!(
            (&outer["tid"], &inner["tid"], &of("abandoned")["tid"]),
            (&0.into(), &1.into(), &1.into())
        );
        assert_eq!(
            (&inner["args"]["done"], &of("abandoned")["args"]["finished"]),
            (&3.into(), &false.into())
        );
        let end = |event: &serde_json::Value| event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap();
        assert!(inner["ts"].as_f64() >= outer["ts"].as_f64() && end(inner) <= end(outer), "{text}");
        assert_eq!((&kernel["pid"], kernel["dur"].as_f64()), (&2.into(), Some(2000.0)));
        let rate = |name: &str| kernel["args"][name].as_f64().map(f64::round);
        assert_eq!((rate("gflops"), rate("gb_per_s")), (Some(2000.0), Some(1.0)));
    }

    #[test]
    fn a_trace_that_cannot_be_made_is_told_before_the_job_begins() {
        let error = Trace::create(Path::new("/nowhere/at/all.json")).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all.json"), "{error}");
    }
}
