//! The indexes that are served, by name; each of them moves to new versions as they appear.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::deadline::Deadline;
use super::metrics::Metrics;
use super::points::Points;
use super::{Event, Events, Fault, ServeError};
use crate::loader::{Consistency, Index, LoadError, OpenOptions, Refresh, Watch, Watched};

/// A name and where its index lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub uri: String,
}

impl Source {
    /// `NAME=URI`, or a URI whose last part is the name.
    ///
    /// # Errors
    /// What has no name that can stand in a path.
    pub fn parse(text: &str) -> Result<Self, ServeError> {
        let named = text.split_once('=').filter(|(name, _)| !name.contains(['/', ':']));
        let (name, uri) = named.unwrap_or_else(|| {
            let path = text.trim_end_matches('/');
            (path.rsplit(['/', ':']).next().unwrap_or_default(), text)
        });
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) || uri.is_empty() {
            return Err(ServeError::Name { text: text.into() });
        }
        Ok(Self { name: name.into(), uri: uri.into() })
    }
}

/// An index under its name.
pub(super) struct Hosted {
    pub name: String,
    watched: Arc<Watched>,
    /// The version that Qdrant's clients are answered with: that of `watched`, once it is known how its rows are called.
    collection: RwLock<Collection>,
    /// The last look at the versions that somebody waited for.
    look: Mutex<Option<Look>>,
    metrics: Arc<Metrics>,
    events: Events,
}

/// A version, and how Qdrant's clients call its rows.
#[derive(Clone)]
pub(super) struct Collection {
    pub index: Arc<Index>,
    pub points: Arc<Points>,
}

impl Collection {
    /// Takes its time where the type of the ids does not say how they are called.
    fn of(index: Arc<Index>) -> Self {
        Self { points: Arc::new(Points::of(&index)), index }
    }
}

/// A look at the versions on a thread of its own, which all who need one wait for.
#[derive(Clone)]
struct Look {
    began: Instant,
    /// Whether the store answered, in the end.
    end: watch::Receiver<Option<bool>>,
}

impl Look {
    fn is_over(&self) -> bool {
        // Closed without a word if its thread panicked.
        self.end.borrow().is_some() || self.end.has_changed().is_err()
    }
}

impl Hosted {
    fn new(name: &str, watched: Watched, metrics: &Arc<Metrics>, events: &Events) -> Self {
        let collection = Collection::of(watched.current());
        metrics.serves(name, &collection.index);
        Self {
            name: name.into(),
            watched: Arc::new(watched),
            collection: RwLock::new(collection),
            look: Mutex::default(),
            metrics: metrics.clone(),
            events: events.clone(),
        }
    }

    /// The version to answer with now.
    pub fn current(&self) -> Arc<Index> {
        self.watched.current()
    }

    /// The version that Qdrant's clients are answered with now.
    pub fn collection(&self) -> Collection {
        self.collection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A version as new as whoever asked at `asked` wants, where it is known without asking the store.
    pub fn seen(&self, consistency: Consistency, asked: Instant) -> Option<Result<Arc<Index>, Fault>> {
        let seen = self.watched.seen(consistency, asked)?;
        Some(seen.map_err(|error| match error {
            LoadError::Refused { version, current, .. } => Fault::Behind { version, current },
            _ => Fault::Unseen,
        }))
    }

    /// A version as new as is asked for. Whoever waits holds no thread.
    pub async fn read(
        self: &Arc<Self>,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Arc<Index>, Fault> {
        let asked = deadline.start();
        loop {
            if let Some(seen) = self.seen(consistency, asked) {
                return seen;
            }
            let Look { began, mut end } = self.look()?;
            let over = tokio::time::timeout_at(deadline.end().into(), end.wait_for(Option::is_some)).await;
            let has_answered = match over {
                Err(_) => return Err(deadline.fault()),
                Ok(Ok(has_answered)) => *has_answered == Some(true),
                Ok(Err(_)) => false,
            };
            // One that had begun before says too little, whatever it says.
            if !has_answered && began >= asked {
                return Err(Fault::Unseen);
            }
        }
    }

    /// The look that is under way, or another.
    fn look(self: &Arc<Self>) -> Result<Look, Fault> {
        let mut last = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = last.as_ref().filter(|look| !look.is_over()) {
            return Ok(look.clone());
        }
        let (tell, end) = watch::channel(None);
        let look = Look { began: Instant::now(), end };
        let hosted = self.clone();
        let thread = std::thread::Builder::new().name("annvil-look".into()).spawn(move || {
            let has_answered = hosted.note(hosted.watched.refresh());
            // Whoever waited may have gone.
            let _ = tell.send(Some(has_answered));
        });
        thread.map_err(|_| Fault::Internal)?;
        *last = Some(look.clone());
        Ok(look)
    }

    /// Takes note of what a look at the versions led to: whether the store answered.
    fn note(&self, refresh: Result<Refresh, LoadError>) -> bool {
        let index = self.name.clone();
        let has_answered = refresh.is_ok();
        match refresh {
            Ok(Refresh::Unchanged) => {}
            Ok(Refresh::Taken { from, to }) => {
                let taken = Collection::of(self.current());
                let mut collection = self.collection.write().unwrap_or_else(PoisonError::into_inner);
                let old = (taken.index.version() > collection.index.version())
                    .then(|| std::mem::replace(&mut *collection, taken.clone()));
                // Letting go of a whole version is nothing to wait for.
                drop(collection);
                drop(old);
                self.metrics.took(&index, &taken.index);
                (self.events)(Event::Taken { index, from, to });
            }
            Ok(Refresh::Refused(refused)) => {
                self.metrics.refused(&index);
                let reason = refused.reason.to_string();
                (self.events)(Event::Refused { index, version: refused.version, reason });
            }
            Err(error) => (self.events)(Event::Unseen { index, reason: error.to_string() }),
        }
        has_answered
    }

    /// A version that was not taken, and why.
    pub fn refused(&self) -> Option<(u64, String)> {
        self.watched.refused().map(|refused| (refused.version, refused.reason.to_string()))
    }
}

/// All of them.
pub(super) struct Indexes(BTreeMap<String, Arc<Hosted>>);

impl Indexes {
    /// Opens all indexes, in order.
    pub fn open(
        sources: &[Source],
        options: &OpenOptions,
        metrics: &Arc<Metrics>,
        events: &Events,
    ) -> Result<Self, ServeError> {
        let mut indexes = BTreeMap::new();
        for Source { name, uri } in sources {
            let watched = Watched::open(uri, options.clone())
                .map_err(|source| ServeError::Open { name: name.clone(), source: Box::new(source) })?;
            let hosted = Hosted::new(name, watched, metrics, events);
            if indexes.insert(name.clone(), Arc::new(hosted)).is_some() {
                return Err(ServeError::Twice { name: name.clone() });
            }
        }
        if indexes.is_empty() {
            return Err(ServeError::NoIndex);
        }
        Ok(Self(indexes))
    }

    pub fn get(&self, name: &str) -> Result<&Arc<Hosted>, Fault> {
        self.0.get(name).ok_or_else(|| {
            let known = self.0.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Fault::NoIndex { name: name.into(), known }
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Hosted>> {
        self.0.values()
    }

    /// Looks for new versions at this interval, until what is returned is dropped.
    pub fn watch(&self, interval: Duration) -> Result<Vec<Watch>, LoadError> {
        let watch = |hosted: &Arc<Hosted>| {
            let noting = hosted.clone();
            hosted.watched.every(interval, move |refresh| {
                noting.note(refresh);
            })
        };
        self.iter().map(watch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_uri_is_its_name_unless_one_is_given() {
        for (text, name, uri) in [
            ("out/news", "news", "out/news"),
            ("s3://bucket/a/words-2/", "words-2", "s3://bucket/a/words-2/"),
            ("w=out/news", "w", "out/news"),
            ("w=s3://bucket/a?x=y", "w", "s3://bucket/a?x=y"),
            ("file:///out/k=v/news", "news", "file:///out/k=v/news"),
            ("news", "news", "news"),
        ] {
            let expected = Source { name: name.into(), uri: uri.into() };
            assert_eq!(Source::parse(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", "/", "a b", "..", "x=", "=out/news", "out/a?b"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
