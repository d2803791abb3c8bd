//! Builds from Python. The job runs on a thread of its own; the caller's thread hands its events to a callback and
//! looks for Ctrl-C, which Python delivers to the main thread only.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use annvil::job::{
    self, Backend, BuildSummary, CancelToken, JobSpec, JsonLines, Outcome, Overrides, Progress, Silent,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{internal, invalid, raised};
use crate::python_of;

/// How long Ctrl-C may wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[pyfunction]
#[pyo3(signature = (
    job, *, backend=None, threads=None, seed=None, output=None, memory_budget=None, scratch=None, resume=true,
    progress=None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub fn build<'py>(
    py: Python<'py>,
    job: &Bound<'py, PyAny>,
    backend: Option<&str>,
    threads: Option<u64>,
    seed: Option<u64>,
    output: Option<String>,
    memory_budget: Option<u64>,
    scratch: Option<PathBuf>,
    resume: bool,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let named = |name: &str| {
        let allowed = Backend::NAMES.join(", ");
        Backend::from_name(name)
            .ok_or_else(|| invalid(format!("backend is `{name}`, expected one of {allowed}")))
    };
    let backend = backend.map(named).transpose()?;
    let text = |path: PathBuf| {
        path.into_os_string()
            .into_string()
            .map_err(|path| invalid(format!("scratch is {path:?}, expected UTF-8")))
    };
    let scratch = scratch.map(text).transpose()?;
    let no_resume = !resume;
    let overrides = Overrides {
        backend,
        threads,
        seed,
        output,
        memory_budget,
        scratch,
        no_resume,
        ..Overrides::default()
    };
    let spec = read(job)?.override_with(&overrides).map_err(raised)?;
    let summary = run(py, spec, progress)?;
    let below = summary.indexes.iter().find(|index| matches!(index.outcome, Outcome::BelowGate { .. }));
    match below {
        Some(index) => {
            let Outcome::BelowGate { recall } = index.outcome else { unreachable!("it is below its gate") };
            let error =
                format!("`{}` is not published: its recall of {recall:.4} is below its gate", index.name);
            Err(raised(annvil::Error::BelowGate(error.into())))
        }
        None => python_of(py, &summary),
    }
}

#[pyfunction]
pub fn check<'py>(py: Python<'py>, job: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    python_of(py, &read(job)?)
}

/// A job by its file, or as a dict of what the file would say, with paths from the current folder.
fn read(job: &Bound<'_, PyAny>) -> PyResult<JobSpec> {
    let Ok(dict) = job.cast::<PyDict>() else {
        return JobSpec::from_path(job.extract::<PathBuf>()?).map_err(raised);
    };
    let json: String = dict.py().import("json")?.call_method1("dumps", (dict,))?.extract()?;
    let mut value: serde_json::Value = serde_json::from_str(&json).map_err(internal)?;
    drop_none(&mut value);
    let text = toml::to_string(&value).map_err(|error| invalid(format!("the job is no table: {error}")))?;
    JobSpec::parse(&text, "job.toml").map_err(raised)
}

/// TOML has no null: a key without a value is a key that is not there.
fn drop_none(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(table) => {
            table.retain(|_, value| !value.is_null());
            table.values_mut().for_each(drop_none);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_none),
        _ => {}
    }
}

fn run(py: Python<'_>, spec: JobSpec, callback: Option<Bound<'_, PyAny>>) -> PyResult<BuildSummary> {
    let (sender, mut events) = channel();
    let cancel = CancelToken::new();
    let progress = match callback {
        // The sender is kept here too, so that where nothing is told the loop below waits.
        Some(_) => {
            Progress::new(JsonLines::new(Lines { sender: sender.clone(), line: Vec::new() }), cancel.clone())
        }
        None => Progress::new(Silent { warn: true }, cancel.clone()),
    };
    let thread = std::thread::Builder::new().name("annvil-build".into());
    let job = thread.spawn(move || job::run(&spec, &progress)).map_err(internal)?;
    let mut interrupted = None;
    while !job.is_finished() {
        let waiting = &mut events;
        let told = match py.detach(move || waiting.recv_timeout(LOOK_EVERY)) {
            Ok(line) => tell(py, callback.as_ref(), &line),
            Err(_) => Ok(()),
        };
        if let Err(error) = told.and_then(|()| py.check_signals())
            && interrupted.is_none()
        {
            cancel.cancel();
            interrupted = Some(error);
        }
    }
    let outcome = py.detach(|| job.join()).map_err(|_| internal("the build panicked"))?;
    match interrupted {
        Some(error) => Err(error),
        None => {
            // What was said between the last look and the end.
            events.try_iter().try_for_each(|line| tell(py, callback.as_ref(), &line))?;
            outcome.map_err(raised)
        }
    }
}

fn tell(py: Python<'_>, callback: Option<&Bound<'_, PyAny>>, line: &[u8]) -> PyResult<()> {
    let Some(callback) = callback else { return Ok(()) };
    let event = py.import("json")?.call_method1("loads", (line,))?;
    callback.call1((event,)).map(drop)
}

/// Sends what is written to it, line by line.
struct Lines {
    sender: Sender<Vec<u8>>,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                // Nobody listens any more once the caller was interrupted.
                let _ = self.sender.send(std::mem::take(&mut self.line));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
