//! A Qdrant collection by scroll, point after point into a file of JSON lines: a point's id, its vector, and its payload's keys as
//! columns. Scrolling is no snapshot, so points are counted before and after: a collection that was written to meanwhile is refused.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ForeignError, ForeignOptions, Wanted, Watch, shown, uri_problem};
use crate::store::{HttpError, JsonClient};

/// Points asked for at a time: 4 MiB of JSON at 1,024 dimensions, about.
const PAGE: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The variable that Qdrant's own tools take the key from.
const KEY_VARIABLE: &str = "QDRANT_API_KEY";

pub(super) async fn spool(
    uri: &str,
    options: &ForeignOptions,
    wanted: &Wanted,
    spool: &Path,
    watch: Watch<'_>,
) -> Result<(), ForeignError> {
    let collection = Collection::of(uri, options)?;
    let before = collection.count().await?;
    let io = |source| ForeignError::Staging { folder: spool.display().to_string(), source };
    let mut file = BufWriter::new(File::create(spool).map_err(io)?);
    let (mut points, mut bytes) = (0, 0);
    let mut offset = Value::Null;
    loop {
        let asked = json!({ "limit": PAGE, "offset": offset, "with_payload": true, "with_vector": wanted.text.is_none() });
        let page: Page = collection.ask("scroll", &asked, points).await?;
        for point in page.points {
            let row =
                serde_json::to_vec(&row_of(point, wanted, &collection.uri, points)?).expect("it was JSON");
            file.write_all(&row).and_then(|()| file.write_all(b"\n")).map_err(io)?;
            points += 1;
            bytes += row.len() as u64;
        }
        if watch(points, bytes) == ControlFlow::Break(()) {
            return Err(ForeignError::Cancelled);
        }
        match page.next_page_offset {
            Some(next) if next == offset => {
                let what = format!("it goes on after {offset} with {next}");
                return Err(ForeignError::Refused { uri: collection.uri, what });
            }
            Some(next) => offset = next,
            None => break,
        }
    }
    file.flush().map_err(io)?;
    let after = collection.count().await?;
    if before != points || after != points {
        let what = format!("{before} points before, {points} read, {after} after");
        return Err(ForeignError::Changed { uri: collection.uri, what });
    }
    Ok(())
}

/// Id, vector and payload side by side.
fn row_of(point: Point, wanted: &Wanted, uri: &str, at: u64) -> Result<Map<String, Value>, ForeignError> {
    let id = wanted.id.as_deref().unwrap_or("id");
    let value = |column: &str, what: String| ForeignError::Value {
        uri: uri.into(),
        row: at,
        column: column.into(),
        what,
    };
    let mut row = point.payload.unwrap_or_default();
    for taken in [Some(id), wanted.text.is_none().then_some(wanted.vector.as_str())].into_iter().flatten() {
        if row.contains_key(taken) {
            let what = "the payload has a key of this name too: name the column otherwise".into();
            return Err(value(taken, what));
        }
    }
    if wanted.text.is_none() {
        let vector = match point.vector {
            // Named vectors, or the one without a name.
            Value::Object(mut named) => named.remove(&wanted.vector).ok_or_else(|| {
                let names = named.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                value(&wanted.vector, format!("the point has no vector of this name, only {names}"))
            })?,
            vector => vector,
        };
        row.insert(wanted.vector.clone(), vector);
    }
    row.insert(id.into(), point.id);
    Ok(row)
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

#[derive(Deserialize)]
struct Page {
    points: Vec<Point>,
    next_page_offset: Option<Value>,
}

#[derive(Deserialize)]
struct Point {
    id: Value,
    #[serde(default)]
    vector: Value,
    #[serde(default)]
    payload: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

struct Collection {
    /// As the user wrote it.
    uri: String,
    /// `http://host:6333/collections/<name>/points`.
    points: String,
    client: JsonClient,
}

impl Collection {
    fn of(uri: &str, options: &ForeignOptions) -> Result<Self, ForeignError> {
        let shown = shown(uri);
        let wrong = |what: &str| ForeignError::Uri { uri: shown.clone(), what: what.into() };
        if let Some(problem) = uri_problem(uri) {
            return Err(wrong(problem));
        }
        let place = uri.trim_start_matches("qdrant+").trim_end_matches('/');
        let name = options.table.clone().or_else(|| {
            let (_, rest) = place.split_once("://")?;
            rest.split_once('/').map(|(_, name)| name.to_string())
        });
        let host_ends =
            place.find("://").map(|at| at + 3).and_then(|from| place[from..].find('/').map(|at| from + at));
        let base = &place[..host_ends.unwrap_or(place.len())];
        let name =
            name.ok_or_else(|| wrong("names no collection, as in `qdrant+http://host:6333/memories`"))?;
        if name.is_empty() || name.contains(['/', '?', '#', '%']) || name.starts_with('.') {
            return Err(wrong("the collection's name is none that Qdrant takes"));
        }
        let key = match &options.credential {
            Some(secret) => {
                let refused = |what| ForeignError::Credential { uri: shown.clone(), what };
                Some(secret.resolve().map_err(refused)?)
            }
            None => std::env::var(KEY_VARIABLE).ok(),
        };
        let client = JsonClient::new(key.map(|key| ("api-key", key)), TIMEOUT);
        let client =
            client.map_err(|error| ForeignError::Connect { uri: shown.clone(), what: error.to_string() })?;
        Ok(Self { points: format!("{base}/collections/{name}/points"), uri: shown, client })
    }

    async fn count(&self) -> Result<u64, ForeignError> {
        Ok(self.ask::<Count>("count", &json!({ "exact": true }), 0).await?.count)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        what: &str,
        question: &Value,
        rows: u64,
    ) -> Result<T, ForeignError> {
        let body = serde_json::to_vec(question).expect("made of JSON");
        let answer = self.client.post(&format!("{}/{what}", self.points), body).await;
        let answer = answer.map_err(|error| match error {
            HttpError::Status { .. } => {
                ForeignError::Refused { uri: self.uri.clone(), what: error.to_string() }
            }
            _ if rows == 0 => ForeignError::Connect { uri: self.uri.clone(), what: error.to_string() },
            _ => ForeignError::Interrupted { uri: self.uri.clone(), rows, what: error.to_string() },
        })?;
        let answer = serde_json::from_slice::<Envelope<T>>(&answer);
        let no_answer = |error| format!("the answer to `{what}` is not Qdrant's: {error}");
        Ok(answer
            .map_err(|error| ForeignError::Refused { uri: self.uri.clone(), what: no_answer(error) })?
            .result)
    }
}
