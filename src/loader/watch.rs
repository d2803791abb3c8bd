//! An index that follows its versions while it is being searched.

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Check, Index, LoadError, OpenOptions, Residence, same};
use crate::store::{IndexStore, StoreError};

/// The version of an index to search now. A new one is opened beside the old, checked, and then handed out in its
/// place; whoever searches the old one goes on doing so, and it is let go when the last of them is done. Both are open
/// for that long: a memory limit is each one's own.
///
/// A version that cannot be opened, or whose dimension or metric is another (queries on their way are made for the
/// old), is not taken: the old one stays, and [`refused`](Self::refused) says why.
pub struct Watched {
    uri: String,
    store: IndexStore,
    options: OpenOptions,
    current: RwLock<Arc<Index>>,
    refused: Mutex<Option<Refused>>,
    /// Held while it is looked for versions and one is opened: one at a time.
    opening: Mutex<()>,
    /// When the last look that succeeded began, if there was one. Never held for long.
    looked: Mutex<Option<Instant>>,
}

/// How new the version must be that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The version in memory, however old: the store is not asked, and need not be there.
    #[default]
    Local,
    /// One that was the latest so long ago or later: the store is asked where the last look is older.
    Eventual(Duration),
    /// The latest when the answer was asked for: whatever had been published by then is seen. Costs a listing of the versions; calls
    /// that wait for one another share it.
    Strong,
}

/// A version that was not taken.
#[derive(Debug, Clone)]
pub struct Refused {
    pub version: u64,
    pub reason: Arc<LoadError>,
}

impl Refused {
    /// A published version never changes: only what lay at the store or at this machine is worth another attempt.
    fn may_pass(&self) -> bool {
        matches!(
            *self.reason,
            LoadError::Store(StoreError::Io { .. } | StoreError::Runtime(_) | StoreError::Location(_))
        )
    }
}

/// What a look at the versions led to.
#[derive(Debug, Clone)]
pub enum Refresh {
    /// The newest version is the one in use, or was refused before.
    Unchanged,
    Taken {
        from: u64,
        to: u64,
    },
    Refused(Refused),
}

impl Watched {
    /// Opens the latest version of the index at `<root>/<index>`. Nothing is looked at again before
    /// [`refresh`](Self::refresh) or [`every`](Self::every).
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(uri: &str, options: OpenOptions) -> Result<Self, LoadError> {
        // A version that was named is not known to be the latest.
        let looked = options.version.is_none().then(Instant::now);
        let current = options.open(uri)?;
        Ok(Self::new(uri, options.store(uri)?, options, (current, looked)))
    }

    /// As [`open`](Self::open), of an index in a store of the caller's; its files are not mapped.
    pub fn of(store: IndexStore, options: OpenOptions) -> Result<Self, LoadError> {
        if matches!(options.residence, Residence::Mapped(_)) {
            return Err(LoadError::NotLocal { uri: store.name().into() });
        }
        let looked = options.version.is_none().then(Instant::now);
        let current = options.open_artifact(store.artifact(options.version)?)?;
        Ok(Self::new("", store, options, (current, looked)))
    }

    fn new(
        uri: &str,
        store: IndexStore,
        options: OpenOptions,
        (current, looked): (Index, Option<Instant>),
    ) -> Self {
        Self {
            uri: uri.into(),
            store,
            options,
            current: RwLock::new(Arc::new(current)),
            refused: Mutex::default(),
            opening: Mutex::default(),
            looked: Mutex::new(looked),
        }
    }

    /// The version to search now. Keep it for as long as answers must agree with each other, and no longer.
    pub fn current(&self) -> Arc<Index> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest version, if it was not taken.
    pub fn refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for a version above the current one and moves over to the highest. One that was refused is not opened
    /// again, unless the store or the network was at fault.
    ///
    /// # Errors
    /// The versions could not be listed.
    pub fn refresh(&self) -> Result<Refresh, LoadError> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.look()
    }

    /// A version as new as `consistency` asks for. Waits for a look under way only where the last one was too long ago.
    ///
    /// # Errors
    /// The store did not answer; [`LoadError::Refused`] where the latest version is one that was not taken.
    pub fn read(&self, consistency: Consistency) -> Result<Arc<Index>, LoadError> {
        let asked = Instant::now();
        if let Some(seen) = self.seen(consistency, asked) {
            return seen;
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waited for another's look may have what he asks for.
        if let Some(seen) = self.seen(consistency, asked) {
            return seen;
        }
        self.look()?;
        self.latest_seen()
    }

    /// What [`read`](Self::read) answers to whoever asked at `asked`, where that is known without asking the store. Waits for
    /// nothing: for whoever looks on a thread of his own.
    pub fn seen(&self, consistency: Consistency, asked: Instant) -> Option<Result<Arc<Index>, LoadError>> {
        let since = match consistency {
            Consistency::Local => return Some(Ok(self.current())),
            // A time before this machine was started: any look will do.
            Consistency::Eventual(age) => asked.checked_sub(age),
            Consistency::Strong => Some(asked),
        };
        let looked = (*self.looked.lock().unwrap_or_else(PoisonError::into_inner))?;
        since.is_none_or(|since| looked >= since).then(|| self.latest_seen())
    }

    fn latest_seen(&self) -> Result<Arc<Index>, LoadError> {
        match self.refused() {
            Some(Refused { version, reason }) => {
                Err(LoadError::Refused { version, current: self.current().version(), reason })
            }
            None => Ok(self.current()),
        }
    }

    /// By whoever holds `opening`.
    fn look(&self) -> Result<Refresh, LoadError> {
        let began = Instant::now();
        let refresh = self.take_latest()?;
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        Ok(refresh)
    }

    fn take_latest(&self) -> Result<Refresh, LoadError> {
        let current = self.current();
        let from = current.version();
        let latest = match self.store.latest()? {
            Some(latest) if latest > from => latest,
            Some(_) => return Ok(Refresh::Unchanged),
            // What is in memory was published there.
            None => {
                let what = format!("a published version of index `{}`", self.store.name());
                return Err(StoreError::NotFound { what }.into());
            }
        };
        if self.refused().is_some_and(|refused| refused.version == latest && !refused.may_pass()) {
            return Ok(Refresh::Unchanged);
        }
        match self.open_beside(&current, latest) {
            Ok(index) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(Refresh::Taken { from, to: latest })
            }
            Err(reason) => {
                let refused = Refused { version: latest, reason: Arc::new(reason) };
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused.clone());
                Ok(Refresh::Refused(refused))
            }
        }
    }

    fn open_beside(&self, current: &Index, version: u64) -> Result<Index, LoadError> {
        let options = self.options.clone().version(version);
        let index = match options.residence {
            Residence::Resident | Residence::Lazy => {
                options.open_artifact(self.store.artifact(Some(version))?)?
            }
            // The old version answers meanwhile: there is time to check all of the new one first.
            Residence::Mapped(_) => options.residence(Residence::Mapped(Check::AtOpen)).open(&self.uri)?,
        };
        same("dim of a new version", current.dim(), index.dim())?;
        same("metric of a new version", current.metric(), index.metric())?;
        Ok(index)
    }

    /// Refreshes at this interval, on a thread of its own, until what is returned is dropped. `on_refresh` is told
    /// each result; a listing that failed is tried again at the next turn.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn every(
        self: &Arc<Self>,
        interval: Duration,
        mut on_refresh: impl FnMut(Result<Refresh, LoadError>) + Send + 'static,
    ) -> Result<Watch, LoadError> {
        let stop = Arc::new(Stop::default());
        let (watched, stopped) = (self.clone(), stop.clone());
        let watch = move || {
            while !stopped.within(interval) {
                on_refresh(watched.refresh());
            }
        };
        let thread = std::thread::Builder::new().name("annvil-watch".into()).spawn(watch);
        let thread = thread.map_err(|error| StoreError::Runtime(error.to_string()))?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

/// A thread that refreshes. Dropping it ends the thread, and waits for a refresh under way.
pub struct Watch {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Ends the thread after a refresh under way, which is not waited for.
    pub fn detach(mut self) {
        self.stop.ask();
        self.thread = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take() {
            // A panic of the caller's `on_refresh` is that thread's own, and has been printed.
            let _ = thread.join();
        }
    }
}

#[derive(Default)]
struct Stop {
    asked: Mutex<bool>,
    change: Condvar,
}

impl Stop {
    fn ask(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.change.notify_all();
    }

    /// Waits for this long, or until someone asks: whether someone did.
    fn within(&self, time: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.change.wait_timeout_while(asked, time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
