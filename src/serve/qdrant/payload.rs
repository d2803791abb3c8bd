//! Points as they are returned: payload and vector beside the id.

use arrow_array::ArrayRef;
use serde::de::IgnoredAny;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};

use super::Asked;
use crate::loader::{Index, QueryError, json_value};
use crate::serve::Fault;
use crate::serve::points::PointId;
use crate::vectors::{Metric, RowId};

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
        if with_vector && index.rows() > 0 && index.vector(0).is_none() {
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
    /// Ordinals, with a score where they were searched for.
    pub points: Vec<(u32, Option<f32>)>,
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
    vector: Option<Vec<f32>>,
}

struct Payload<'a> {
    root: &'a Node,
    row: usize,
    row_id: Option<(&'static str, RowId)>,
}

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.points.iter().map(|&(ordinal, score)| self.point(ordinal, score)))
    }
}

impl Listed<'_> {
    fn point(&self, ordinal: u32, score: Option<f32>) -> Point<'_> {
        let Asked { index, points, .. } = self.asked;
        let Selection { payload, with_row_id, with_vector } = &self.selection;
        let row_id = if *with_row_id { points.row_id(index, ordinal) } else { None };
        Point {
            id: points.id(index, ordinal),
            version: score.map(|_| index.version()),
            score,
            payload: payload.as_ref().map(|root| Payload { root, row: ordinal as usize, row_id }),
            vector: with_vector.then(|| index.vector(ordinal)).flatten(),
        }
    }

    /// The only one, of a list of one.
    pub fn only(&self) -> impl Serialize {
        self.points.first().map(|&(ordinal, score)| self.point(ordinal, score))
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
