//! What a job leaves behind as it goes, so that one that is killed is gone on with: a folder of entries, each what a stage
//! made, under a hash of all that it was made from. Knows nothing of what is in them.
//!
//! ```text
//! <scratch>/<job's name>-<16 digits of output and store>/
//!   lock                         held by the process that runs the job
//!   run.json                     what tells this run's publications from others'
//!   <stage>-<16 digits of key>/  an entry: entry.json (sealed: files, their sizes and hashes), and those files
//!   <anything>.partial/          an entry that was never finished
//! ```
//!
//! An entry appears whole, by renaming its folder after all of it has been flushed, and is believed only when every byte of it
//! has been hashed again. A stage has one entry: one of other inputs takes its place. Refuses a folder that another process works
//! in.

mod entry;
mod folder;
mod key;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(super) use entry::{Draft, Memory, Taken, vectors_of};
pub(super) use folder::of_job;
pub use folder::{SCRATCH_VARIABLE, default_root};
pub(super) use key::Key;

use super::progress::Progress;
use super::spec::JobSpec;

#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error(
        "another process ({holder}) runs this job: it holds the scratch folder {}; wait for it, or run beside it with \
         --no-resume",
        folder.display()
    )]
    Busy { folder: PathBuf, holder: String },
    #[error("{what} cannot be written to scratch: {error}")]
    Encode { what: &'static str, error: String },
    /// Rows that the budget has no room for, and a folder that cannot be had.
    #[error("the memory budget asks for a scratch folder, and there is none: name one as `scratch`")]
    Needed,
    #[error("scratch {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl ScratchError {
    pub(super) fn of(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.into(), source }
    }
}

type Result<T, E = ScratchError> = std::result::Result<T, E>;

/// A job's scratch folder, held by this process; gone when the job has succeeded, or where there is nothing in it to go on with.
pub(super) struct Scratch {
    /// `None`: nothing is kept.
    place: Option<Place>,
    progress: Progress,
}

struct Place {
    folder: PathBuf,
    /// For as long as it is open.
    lock: File,
    run: folder::Run,
    keeps: bool,
}

impl Scratch {
    /// The job's folder; with `resume = false` a new one of this process alone, for files that it needs while it runs.
    ///
    /// # Errors
    /// [`ScratchError::Busy`]; a folder that the job names and that cannot be made. Of one that it does not name, that is a
    /// warning: the job runs without.
    pub fn open(spec: &JobSpec, progress: &Progress) -> Result<Self> {
        let progress = progress.clone();
        // What is built into a process's memory ends with it.
        if spec.output.uri.resolved().starts_with("memory://") && spec.scratch.is_none() {
            return Ok(Self { place: None, progress });
        }
        let folder = folder::of_job(spec);
        match folder::hold(&folder) {
            Ok((folder, lock, run)) => {
                folder::sweep(&folder);
                let place = Place { folder, lock, run, keeps: spec.resume };
                place.remove_unfinished();
                Ok(Self { place: Some(place), progress })
            }
            Err(ScratchError::Io { path, source }) if spec.scratch.is_none() => {
                progress.warn(format!(
                    "this job cannot be resumed, should it be killed: scratch {}: {source}",
                    path.display()
                ));
                Ok(Self { place: None, progress })
            }
            Err(error) => Err(error),
        }
    }

    /// For whoever only looks.
    pub fn none(progress: &Progress) -> Self {
        Self { place: None, progress: progress.clone() }
    }

    /// Where files may be made that are of no use to another run.
    pub fn folder(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| &*place.folder)
    }

    /// What publications of this run, and of those that it goes on with, are known by; `None` where none went before.
    pub fn run_id(&self) -> Option<&str> {
        self.place.as_ref().filter(|place| place.keeps).map(|place| place.run.id.as_str())
    }

    pub fn is_resumed(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.keeps && place.run.is_resumed)
    }

    /// What `stage` made of just this, every byte of it checked. What is damaged is said, removed, and not there.
    pub fn take(&self, stage: &str, key: &Key, memory: Memory) -> Option<Taken> {
        let place = self.place.as_ref().filter(|place| place.keeps)?;
        let folder = place.entry(stage, key);
        if !folder.is_dir() {
            return None;
        }
        match Taken::read(&folder, stage, key, memory) {
            Ok(taken) => {
                self.progress.note(format!(
                    "{stage}: taken from scratch ({})",
                    super::quantity::bytes(taken.size_bytes())
                ));
                Some(taken)
            }
            Err(damage) => {
                self.refuse(stage, key, &damage);
                None
            }
        }
    }

    /// Forgets an entry whose bytes are whole and make no sense.
    pub fn refuse(&self, stage: &str, key: &Key, why: &dyn std::fmt::Display) {
        let Some(place) = &self.place else { return };
        self.progress.warn(format!("{stage}: what lies in scratch is damaged ({why}): it is done again"));
        let _ = fs::remove_dir_all(place.entry(stage, key));
    }

    /// Begins an entry for what is kept where it can be; that it cannot is a warning, as for [`Scratch::keep`].
    pub fn draft_if_kept(&self, stage: &str, key: &Key) -> Option<Draft> {
        self.draft(stage, key).unwrap_or_else(|error| {
            self.not_kept(stage, &error);
            None
        })
    }

    /// Says that what a stage made is not there for a later run.
    pub fn not_kept(&self, stage: &str, error: &ScratchError) {
        let why = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
        self.progress.warn(format!("{stage}: not kept for a later run: {error}{why}"));
    }

    /// Begins an entry; `None` where nothing is kept.
    fn draft(&self, stage: &str, key: &Key) -> Result<Option<Draft>> {
        match &self.place {
            Some(place) if place.keeps => {
                place.remove_others(stage, key);
                Draft::begin(place.entry(stage, key), stage, *key).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// An entry that is needed by this run itself.
    pub fn draft_of_need(&self, stage: &str, key: &Key) -> Result<Draft> {
        let place = self.place.as_ref().ok_or(ScratchError::Needed)?;
        place.remove_others(stage, key);
        Draft::begin(place.entry(stage, key), stage, *key)
    }

    /// Keeps what a stage made. That it cannot be kept is a warning: the job loses nothing but the means to be resumed here.
    pub fn keep(&self, stage: &str, key: &Key, write: impl FnOnce(&mut Draft) -> Result<serde_json::Value>) {
        let kept = self.draft(stage, key).and_then(|draft| {
            let Some(mut draft) = draft else { return Ok(()) };
            let meta = write(&mut draft)?;
            draft.seal(meta)
        });
        if let Err(error) = kept {
            self.not_kept(stage, &error);
        }
    }

    /// The job is done: nothing is left.
    pub fn remove(mut self) {
        if let Some(place) = self.place.take() {
            place.remove();
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(place) = self.place.take()
            && (!place.keeps || place.is_empty())
        {
            place.remove();
        }
    }
}

impl Place {
    fn entry(&self, stage: &str, key: &Key) -> PathBuf {
        self.folder.join(format!("{stage}-{}", key.short()))
    }

    fn entries(&self) -> Vec<PathBuf> {
        let read = fs::read_dir(&self.folder).into_iter().flatten();
        read.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// What a killed run had begun.
    fn remove_unfinished(&self) {
        let is_finished = |path: &Path| path.extension().is_none_or(|extension| extension != "partial");
        for path in self.entries().iter().filter(|path| !is_finished(path)) {
            let _ = fs::remove_dir_all(path);
        }
    }

    /// The stage's entries of other inputs: nothing will ask for them again.
    fn remove_others(&self, stage: &str, key: &Key) {
        let own = self.entry(stage, key);
        let is_of_stage = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.rsplit_once('-').is_some_and(|(of, _)| of == stage)
        };
        for path in self.entries().iter().filter(|path| **path != own).filter(is_of_stage) {
            let _ = fs::remove_dir_all(path);
        }
    }

    /// While it is held: whoever waits for the lock finds that the file is no longer there. All at once, so that a run that is
    /// killed here has either ended or has all that it had.
    fn remove(self) {
        let removed = folder::removed(&self.folder);
        if fs::rename(&self.folder, &removed).is_ok() {
            let _ = fs::remove_dir_all(&removed);
        }
        drop(self.lock);
    }
}
