//! The indexes that are served, by name; each of them moves to new versions as they appear.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Of the version that was asked last.
    points: Mutex<Option<(u64, Arc<Points>)>>,
}

impl Hosted {
    /// The version to answer with now.
    pub fn current(&self) -> Arc<Index> {
        self.watched.current()
    }

    /// A version as new as is asked for.
    pub fn read(&self, consistency: Consistency, metrics: &Metrics) -> Result<Arc<Index>, Fault> {
        let read = self.watched.read_telling(consistency, &mut |refresh| match refresh {
            Refresh::Taken { .. } => metrics.took(&self.name, &self.watched.current()),
            Refresh::Refused(_) => metrics.refused(&self.name),
            Refresh::Unchanged => {}
        });
        read.map_err(|error| match error {
            LoadError::Refused { version, current, .. } => Fault::Behind { version, current },
            _ => Fault::Unseen,
        })
    }

    /// A version that was not taken, and why.
    pub fn refused(&self) -> Option<(u64, String)> {
        self.watched.refused().map(|refused| (refused.version, refused.reason.to_string()))
    }

    /// How Qdrant's clients call the rows of a version.
    pub fn points(&self, index: &Index) -> Arc<Points> {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        match &*points {
            Some((version, points)) if *version == index.version() => points.clone(),
            known => {
                let made = Arc::new(Points::of(index));
                // A request that still holds the old version does not displace the new one's.
                if known.as_ref().is_none_or(|(version, _)| *version < index.version()) {
                    *points = Some((index.version(), made.clone()));
                }
                made
            }
        }
    }
}

/// All of them.
pub(super) struct Indexes(BTreeMap<String, Arc<Hosted>>);

impl Indexes {
    /// Opens all indexes, in order.
    pub fn open(sources: &[Source], options: &OpenOptions, metrics: &Metrics) -> Result<Self, ServeError> {
        let mut indexes = BTreeMap::new();
        for Source { name, uri } in sources {
            let watched = Watched::open(uri, options.clone())
                .map_err(|source| ServeError::Open { name: name.clone(), source: Box::new(source) })?;
            metrics.serves(name, &watched.current());
            let hosted = Hosted { name: name.clone(), watched: Arc::new(watched), points: Mutex::default() };
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
    pub fn watch(
        &self,
        interval: Duration,
        metrics: &Arc<Metrics>,
        events: &Events,
    ) -> Result<Vec<Watch>, LoadError> {
        let watch = |hosted: &Arc<Hosted>| {
            let (name, watched) = (hosted.name.clone(), hosted.watched.clone());
            let (metrics, events) = (metrics.clone(), events.clone());
            hosted.watched.every(interval, move |refresh| {
                let index = name.clone();
                match refresh {
                    Ok(Refresh::Unchanged) => {}
                    Ok(Refresh::Taken { from, to }) => {
                        metrics.took(&index, &watched.current());
                        events(Event::Taken { index, from, to });
                    }
                    Ok(Refresh::Refused(refused)) => {
                        metrics.refused(&index);
                        let reason = refused.reason.to_string();
                        events(Event::Refused { index, version: refused.version, reason });
                    }
                    Err(error) => events(Event::Unseen { index, reason: error.to_string() }),
                }
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
