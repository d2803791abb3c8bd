//! Points as they are returned: payload and vector beside the id.

use std::sync::Arc;

use arrow_array::ArrayRef;
use serde::de::IgnoredAny;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};

use super::Asked;
use crate::loader::{Index, QueryError, json_value};
use crate::serve::points::PointId;
use crate::serve::{Fault, Limits};
use crate::vectors::{Metric, RowId, VectorBuf};

/// `true`, names of keys, or keys to take or to leave out.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false, a list of keys, or an object with `include` or `exclude`"
)]
pub(super) enum WithPayload {
    All(bool),
    Keys(Vec<String>),
    Include { include: Vec<String> },
    Exclude { exclude: Vec<String> },
}

/// `true`, or names of vectors: the only one here has no name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a list of names of vectors")]
pub(super) enum WithVector {
    All(bool),
    Named(Vec<String>),
}

/// What of each point is returned.
#[derive(Clone)]
pub(super) struct Selection {
    payload: Option<Node>,
    with_row_id: bool,
    with_vector: bool,
}

/// A part of the payload: `metadata.source` is the column `source` of the branch `metadata`.
#[derive(Clone)]
enum Node {
    Column(ArrayRef),
    Branch(Vec<(String, Node)>),
}

impl Selection {
    pub fn new(
        index: &Index,
        payload: Option<&WithPayload>,
        is_default: bool,
        vector: Option<&WithVector>,
    ) -> Result<Self, Fault> {
        let with_vector = match vector {
            None | Some(WithVector::All(false)) => false,
            Some(WithVector::All(true)) => true,
            Some(WithVector::Named(names)) => names.iter().any(String::is_empty),
        };
        if with_vector && index.rows() > 0 && !index.keeps_vectors() {
            return Err(QueryError::NoVectors.into());
        }
        let default = WithPayload::All(is_default);
        let wanted = payload.unwrap_or(&default);
        if let WithPayload::All(false) = wanted {
            return Ok(Self { payload: None, with_row_id: false, with_vector });
        }
        let with_row_id = wanted.takes(crate::loader::ROW_ID);
        Ok(Self { payload: Some(tree(index, wanted)), with_row_id, with_vector })
    }
}

impl WithPayload {
    fn takes(&self, column: &str) -> bool {
        let is_among = |keys: &[String]| keys.iter().any(|key| is_below(column, key));
        match self {
            Self::All(all) => *all,
            Self::Keys(keys) | Self::Include { include: keys } => is_among(keys),
            Self::Exclude { exclude: keys } => !is_among(keys),
        }
    }
}

/// Whether a column belongs to what a key names: is it, or lies below it.
fn is_below(name: &str, key: &str) -> bool {
    let key = key.strip_suffix("[]").unwrap_or(key);
    name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn tree(index: &Index, wanted: &WithPayload) -> Node {
    let mut root = Vec::new();
    let Some(batch) = index.attributes() else { return Node::Branch(root) };
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    for (field, column) in columns.filter(|(field, _)| wanted.takes(field.name())) {
        let name = field.name();
        // Where a column is called as a branch would be, both stay as they are.
        let ancestors = || name.match_indices('.').map(|(at, _)| &name[..at]);
        let is_nested = ancestors().all(|above| !above.is_empty() && batch.column_by_name(above).is_none());
        match is_nested && !name.ends_with('.') {
            true => insert(&mut root, name, column),
            false => root.push((name.clone(), Node::Column(column.clone()))),
        }
    }
    Node::Branch(root)
}

fn insert(branch: &mut Vec<(String, Node)>, path: &str, column: &ArrayRef) {
    let Some((first, rest)) = path.split_once('.') else {
        branch.push((path.into(), Node::Column(column.clone())));
        return;
    };
    let place = branch.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
        branch.push((first.into(), Node::Branch(Vec::new())));
        branch.len() - 1
    });
    if let Node::Branch(below) = &mut branch[place].1 {
        insert(below, rest, column);
    }
}

/// Points of one collection, written one after the other.
pub(super) struct Listed<'a> {
    pub asked: &'a Asked,
    pub selection: Selection,
    points: Vec<Scored>,
    vectors: Option<Told>,
}

/// An ordinal, with its score where it was searched for.
pub(super) type Scored = (u32, Option<f32>);

/// The vectors of a list's points: these from one on.
struct Told {
    of_all: Arc<VectorBuf>,
    first: usize,
}

#[derive(Serialize)]
struct Point<'a> {
    id: PointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<&'a [f32]>,
}

struct Payload<'a> {
    root: &'a Node,
    row: usize,
    row_id: Option<(&'static str, RowId)>,
}

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.points.len()).map(|place| self.point(place)))
    }
}

impl<'a> Listed<'a> {
    /// # Errors
    /// The vectors that are to be told could not be read, or are more than an answer may have.
    pub fn new(
        asked: &'a Asked,
        selection: Selection,
        points: Vec<Scored>,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        let vectors = Self::told(asked, &selection, &[&points], limits)?;
        Ok(Self { asked, selection, points, vectors: vectors.map(|of_all| Told { of_all, first: 0 }) })
    }

    /// Several lists alike, whose vectors are read together.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn several(
        asked: &'a Asked,
        selection: &Selection,
        lists: Vec<Vec<Scored>>,
        limits: &Limits,
    ) -> Result<Vec<Self>, Fault> {
        let parts: Vec<&[Scored]> = lists.iter().map(Vec::as_slice).collect();
        let vectors = Self::told(asked, selection, &parts, limits)?;
        let mut first = 0;
        let listed = lists.into_iter().map(|points| {
            let told = vectors.as_ref().map(|of_all| Told { of_all: of_all.clone(), first });
            first += points.len();
            Self { asked, selection: selection.clone(), points, vectors: told }
        });
        Ok(listed.collect())
    }

    fn told(
        asked: &Asked,
        selection: &Selection,
        lists: &[&[Scored]],
        limits: &Limits,
    ) -> Result<Option<Arc<VectorBuf>>, Fault> {
        let ordinals: Vec<u32> =
            lists.iter().flat_map(|points| points.iter().map(|&(ordinal, _)| ordinal)).collect();
        // An index without rows may keep vectors or not.
        if !selection.with_vector || ordinals.is_empty() {
            return Ok(None);
        }
        asked.vectors_to_tell(&ordinals, limits).map(|vectors| Some(Arc::new(vectors)))
    }

    fn point(&self, place: usize) -> Point<'_> {
        let (ordinal, score) = self.points[place];
        let Asked { index, points, .. } = self.asked;
        let Selection { payload, with_row_id, .. } = &self.selection;
        let row_id = if *with_row_id { points.row_id(index, ordinal) } else { None };
        Point {
            id: points.id(index, ordinal),
            version: score.map(|_| index.version()),
            score,
            payload: payload.as_ref().map(|root| Payload { root, row: ordinal as usize, row_id }),
            vector: self.vectors.as_ref().map(|told| told.of_all.row(told.first + place)),
        }
    }

    /// The only one, of a list of one.
    pub fn only(&self) -> impl Serialize {
        (!self.points.is_empty()).then(|| self.point(0))
    }
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Node::Branch(parts) = self.root {
            for (name, node) in parts {
                map.serialize_entry(name, &Part { node, row: self.row })?;
            }
        }
        if let Some((name, id)) = &self.row_id {
            map.serialize_entry(name, id)?;
        }
        map.end()
    }
}

struct Part<'a> {
    node: &'a Node,
    row: usize,
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.node {
            Node::Column(column) => {
                json_value(column, self.row).map_err(S::Error::custom)?.serialize(serializer)
            }
            Node::Branch(parts) => {
                serializer.collect_map(parts.iter().map(|(name, node)| (name, Part { node, row: self.row })))
            }
        }
    }
}

/// As Qdrant scores: similarities, and for L2 the distance itself, not squared.
pub(super) fn score(metric: Metric, distance: f32) -> f32 {
    metric.similarity(distance).unwrap_or_else(|| distance.max(0.0).sqrt())
}

/// A part of a request that is given but not answered.
pub(super) fn refuse(what: &str, given: Option<&IgnoredAny>) -> Result<(), Fault> {
    match given {
        None => Ok(()),
        Some(_) => Err(Fault::Unsupported { what: format!("`{what}`"), allowed: "leaving it out" }),
    }
}
