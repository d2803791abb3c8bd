//! Rows as Qdrant calls them: a point's id is an unsigned number or a UUID.
//!
//! An index's ids are its points' where they are such: unsigned numbers, numbers of which none is negative, UUIDs, and strings that are
//! all UUIDs as Qdrant writes them. Other strings and negative numbers are not: there a point's id is the row's ordinal,
//! which is another in each version, and its payload has the row's id as `row_id`, unless an attribute is called so.

use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize};

use crate::loader::{Index, ROW_ID};
use crate::vectors::{RowId, RowIdKind, RowIds};

/// As it stands in JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(super) enum PointId {
    Number(u64),
    Uuid(String),
}

impl std::fmt::Display for PointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PointId::Number(number) => number.fmt(f),
            PointId::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

impl PointId {
    /// From a path, or a string in JSON: digits or a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::Number(number));
        }
        let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
        RowIdKind::Uuid.parse(text).ok().map(|uuid| Self::Uuid(uuid.to_string()))
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a point's id: an unsigned integer or a UUID")]
        enum Json {
            Number(u64),
            Text(String),
        }
        let uuid = |text: String| match RowIdKind::Uuid.parse(text.strip_prefix("urn:uuid:").unwrap_or(&text))
        {
            Ok(uuid) => Ok(Self::Uuid(uuid.to_string())),
            Err(_) => {
                let message = format!("`{text}` is no point's id: expected an unsigned integer or a UUID");
                Err(serde::de::Error::custom(message))
            }
        };
        match Json::deserialize(deserializer)? {
            Json::Number(number) => Ok(Self::Number(number)),
            Json::Text(text) => uuid(text),
        }
    }
}

/// How one version's rows are called.
pub(super) struct Points {
    are_ordinals: bool,
    /// Ordinals in the order of the points' ids; made when someone first pages through them.
    in_order: OnceLock<Vec<u32>>,
}

impl Points {
    /// Looks at every id where their type does not say it.
    pub fn of(index: &Index) -> Self {
        let ids = index.ids();
        let are_own = match ids.kind() {
            RowIdKind::UInt64 | RowIdKind::Uuid => true,
            RowIdKind::Int64 | RowIdKind::Text => (0..ids.len() as u32).all(|row| own(ids, row).is_some()),
        };
        Self { are_ordinals: !are_own, in_order: OnceLock::new() }
    }

    pub fn id(&self, index: &Index, ordinal: u32) -> PointId {
        match own(index.ids(), ordinal) {
            Some(id) if !self.are_ordinals => id,
            _ => PointId::Number(u64::from(ordinal)),
        }
    }

    pub fn ordinal(&self, index: &Index, id: &PointId) -> Option<u32> {
        if self.are_ordinals {
            return match id {
                PointId::Number(number) => {
                    u32::try_from(*number).ok().filter(|&ordinal| index.is_live(ordinal))
                }
                PointId::Uuid(_) => None,
            };
        }
        index.ids().find(&match id {
            PointId::Number(number) => RowId::UInt(*number),
            PointId::Uuid(uuid) => RowId::Text(uuid.clone()),
        })
    }

    /// The row's id where it is not the point's: the name and value that stand in its payload.
    pub fn row_id(&self, index: &Index, ordinal: u32) -> Option<(&'static str, RowId)> {
        let is_taken = || index.attributes().is_some_and(|batch| batch.column_by_name(ROW_ID).is_some());
        (self.are_ordinals && !is_taken()).then(|| (ROW_ID, index.ids().get(ordinal)))
    }

    pub fn in_order(&self, index: &Index) -> &[u32] {
        self.in_order.get_or_init(|| {
            let mut ordinals = index.live_ordinals();
            if !self.are_ordinals {
                // UUIDs are in order as they are written.
                ordinals.sort_by_cached_key(|&ordinal| self.id(index, ordinal));
            }
            ordinals
        })
    }
}

/// A row's id as a point's, where it is one.
fn own(ids: &RowIds, ordinal: u32) -> Option<PointId> {
    match ids.get(ordinal) {
        RowId::UInt(number) => Some(PointId::Number(number)),
        RowId::Int(number) => u64::try_from(number).ok().map(PointId::Number),
        RowId::Uuid(uuid) => Some(PointId::Uuid(RowId::Uuid(uuid).to_string())),
        RowId::Text(text) => {
            let is_canonical = RowIdKind::Uuid.parse(&text).is_ok_and(|uuid| uuid.to_string() == text);
            is_canonical.then_some(PointId::Uuid(text))
        }
    }
}
