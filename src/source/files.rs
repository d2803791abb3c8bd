//! URIs, folders and patterns become a list of objects, in an order that does not depend on the store.

use std::collections::HashSet;

use futures_util::future::BoxFuture;
use glob::{MatchOptions, Pattern};

use crate::store::{Location, LocationError, Object, StoreOptions};

use super::error::{Result, SourceError};

/// How many names an error shows of what was there instead.
const SHOWN: usize = 8;

/// As in a shell: `*` and `?` stay within one name and skip hidden files; `**` spans folders.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The objects that `uris` name: each URI in turn, what it matches ordered by path, each object once.
///
/// A URI is an object, a folder (its `*.parquet` at any depth, but for names that begin with `.` or `_`, which
/// writers use for unfinished and bookkeeping files), or a pattern with `*`, `?`, `[…]` or `**`. A name that
/// exists as it stands is taken literally.
pub(super) async fn resolve(uris: &[String], store: &StoreOptions) -> Result<Vec<Object>> {
    if uris.is_empty() {
        return Err(SourceError::NoInputs);
    }
    let mut objects = Vec::new();
    let mut seen = HashSet::new();
    for uri in uris {
        for object in resolve_one(uri, store).await? {
            if seen.insert(object.location.clone()) {
                objects.push(object);
            }
        }
    }
    Ok(objects)
}

async fn resolve_one(uri: &str, store: &StoreOptions) -> Result<Vec<Object>> {
    let is_pattern = uri.contains(['*', '?', '[']);
    match Location::parse_with(uri, store) {
        Ok(location) => match location.head().await {
            Ok(object) => return Ok(vec![object]),
            Err(LocationError::NotFound { .. }) => {
                if !is_pattern {
                    return folder(&location).await;
                }
            }
            Err(error) if !is_pattern => return Err(error.into()),
            Err(_) => {}
        },
        Err(error) if !is_pattern => return Err(error.into()),
        Err(_) => {}
    }
    pattern(uri, store).await
}

/// The Parquet files below a folder.
async fn folder(location: &Location) -> Result<Vec<Object>> {
    let mut objects = location.list().await?;
    let anything = !objects.is_empty();
    objects.retain(|object| {
        let relative = &object.location.path().as_ref()[location.path().as_ref().len()..];
        let hidden = relative.split('/').any(|name| name.starts_with(['.', '_']));
        !hidden && relative.ends_with(".parquet")
    });
    if !objects.is_empty() {
        return Ok(objects);
    }
    let found = if anything {
        format!("the folder holds no `*.parquet`, only {}", names(location).await)
    } else {
        "neither a file nor a folder with files in it is there".into()
    };
    Err(SourceError::NoFile { uri: location.uri().into(), found })
}

async fn pattern(uri: &str, store: &StoreOptions) -> Result<Vec<Object>> {
    let first_special = uri.find(['*', '?', '[']).expect("callers hold a pattern");
    let (base, rest) = match uri[..first_special].rfind('/') {
        Some(slash) => (&uri[..=slash], &uri[slash + 1..]),
        None => (".", uri),
    };
    let is_root = base == "/" || base.ends_with("//");
    let location = Location::parse_with(if is_root { base } else { base.trim_end_matches('/') }, store)?;
    let segments: Vec<&str> = rest.split('/').collect();
    let mut objects = Vec::new();
    expand(&location, &segments, &mut objects).await.map_err(|error| match error {
        SourceError::Pattern { what, .. } => SourceError::Pattern { pattern: uri.into(), what },
        error => error,
    })?;
    if objects.is_empty() {
        let found = format!("`{}` holds {}", location.uri(), names(&location).await);
        return Err(SourceError::NoFile { uri: uri.into(), found });
    }
    objects.sort_by(|a, b| a.location.path().cmp(b.location.path()));
    Ok(objects)
}

/// Descends one name of the pattern at a time, so that `/tmp/*.parquet` does not walk all of `/tmp`; from `**`
/// on, the whole subtree is listed once and matched.
fn expand<'a>(
    location: &'a Location,
    segments: &'a [&'a str],
    objects: &'a mut Vec<Object>,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let [segment, rest @ ..] = segments else { return Ok(()) };
        if segment.contains("**") {
            let whole = compiled(&segments.join("/"))?;
            for object in location.list().await? {
                let relative = object.location.path().as_ref()[location.path().as_ref().len()..].to_string();
                if whole.matches_with(relative.trim_start_matches('/'), MATCHING) {
                    objects.push(object);
                }
            }
            return Ok(());
        }
        let name = compiled(segment)?;
        let level = location.level().await?;
        if rest.is_empty() {
            let matching = level
                .objects
                .into_iter()
                .filter(|object| name.matches_with(object.location.name(), MATCHING));
            objects.extend(matching);
        } else {
            for folder in level.folders.iter().filter(|folder| name.matches_with(folder.name(), MATCHING)) {
                expand(folder, rest, objects).await?;
            }
        }
        Ok(())
    })
}

fn compiled(pattern: &str) -> Result<Pattern> {
    Pattern::new(pattern)
        .map_err(|error| SourceError::Pattern { pattern: pattern.into(), what: error.to_string() })
}

/// What an error shows of a folder's contents.
async fn names(location: &Location) -> String {
    let Ok(level) = location.level().await else { return "what cannot be listed".into() };
    let mut names: Vec<String> = level.folders.iter().map(|folder| format!("{}/", folder.name())).collect();
    names.extend(level.objects.iter().map(|object| object.location.name().to_string()));
    match names.len() {
        0 => "nothing".into(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}
