use std::cmp::Ordering;
use std::sync::OnceLock;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Int64Array, LargeStringArray, UInt32Array, UInt64Array,
};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize, Serializer};

/// The user's name of a row. Ours is the ordinal, dense and `u32` within a segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowId {
    Int(i64),
    UInt(u64),
    Text(String),
    Uuid([u8; 16]),
}

/// The type that all ids of one index share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowIdKind {
    Int64,
    UInt64,
    Text,
    Uuid,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RowIdError {
    #[error("ids of type {got}: expected int64, uint64, a string type or 16-byte binary (UUID)")]
    Type { got: String },
    #[error("the id of row {row} is null")]
    Null { row: usize },
    #[error("{got} ids: a segment holds at most {max} rows")]
    TooMany { max: usize, got: usize },
    #[error("`{text}` is no {expected:?} id")]
    Text { expected: RowIdKind, text: String },
}

impl RowIdKind {
    /// Reads an id as a person writes it: decimal digits, the text itself, a UUID with or without hyphens.
    pub fn parse(self, text: &str) -> Result<RowId, RowIdError> {
        let id = match self {
            RowIdKind::Int64 => text.parse().ok().map(RowId::Int),
            RowIdKind::UInt64 => text.parse().ok().map(RowId::UInt),
            RowIdKind::Text => Some(RowId::Text(text.into())),
            RowIdKind::Uuid => parse_uuid(text).map(RowId::Uuid),
        };
        id.ok_or_else(|| RowIdError::Text { expected: self, text: text.into() })
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hyphens = [8, 13, 18, 23];
    let digits: Vec<u8> = match text.len() {
        32 => text.bytes().collect(),
        36 if hyphens.iter().all(|&at| text.as_bytes()[at] == b'-') => {
            text.bytes().enumerate().filter(|(at, _)| !hyphens.contains(at)).map(|(_, digit)| digit).collect()
        }
        _ => return None,
    };
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        *byte = (nibble(pair[0])? * 16 + nibble(pair[1])?) as u8;
    }
    Some(uuid)
}

impl RowId {
    pub fn kind(&self) -> RowIdKind {
        match self {
            RowId::Int(_) => RowIdKind::Int64,
            RowId::UInt(_) => RowIdKind::UInt64,
            RowId::Text(_) => RowIdKind::Text,
            RowId::Uuid(_) => RowIdKind::Uuid,
        }
    }

    /// The same id as `kind` writes it, where that loses nothing: JSON and command lines know only numbers and
    /// strings, so a client's `7` may stand for an `Int`, a `UInt`, and its string for a `Text` or a `Uuid`.
    pub fn to_kind(&self, kind: RowIdKind) -> Option<RowId> {
        match (self, kind) {
            (id, kind) if id.kind() == kind => Some(id.clone()),
            (RowId::Int(id), RowIdKind::UInt64) => (*id).try_into().ok().map(RowId::UInt),
            (RowId::UInt(id), RowIdKind::Int64) => (*id).try_into().ok().map(RowId::Int),
            (RowId::Text(text), RowIdKind::Uuid) => parse_uuid(text).map(RowId::Uuid),
            _ => None,
        }
    }
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowId::Int(id) => id.fmt(f),
            RowId::UInt(id) => id.fmt(f),
            RowId::Text(id) => id.fmt(f),
            RowId::Uuid(id) => {
                let digits = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
                let groups = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]];
                f.write_str(&groups.map(digits).join("-"))
            }
        }
    }
}

impl From<&str> for RowId {
    fn from(text: &str) -> Self {
        RowId::Text(text.into())
    }
}

impl From<i64> for RowId {
    fn from(number: i64) -> Self {
        RowId::Int(number)
    }
}

/// As JSON has it: numbers are numbers, text and UUIDs are strings.
impl Serialize for RowId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RowId::Int(id) => serializer.serialize_i64(*id),
            RowId::UInt(id) => serializer.serialize_u64(*id),
            RowId::Text(id) => serializer.serialize_str(id),
            RowId::Uuid(_) => serializer.collect_str(self),
        }
    }
}

/// A number becomes `Int` where it fits, else `UInt`; a string becomes `Text`. [`RowId::to_kind`] makes it what the
/// index holds.
impl<'de> Deserialize<'de> for RowId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an integer or a string")]
        enum Json {
            Int(i64),
            UInt(u64),
            Text(String),
        }
        Ok(match Json::deserialize(deserializer)? {
            Json::Int(id) => RowId::Int(id),
            Json::UInt(id) => RowId::UInt(id),
            Json::Text(id) => RowId::Text(id),
        })
    }
}

/// The ids of a segment's rows, by ordinal: one type, no nulls, at most `u32::MAX` of them. That they are distinct is
/// for whoever reads the rows to see to: checking it here would cost a sort each time an artifact is opened.
#[derive(Debug)]
pub struct RowIds {
    column: Column,
    /// Rows that no id finds, ascending.
    hidden: Vec<u32>,
    /// The other ordinals in the order of (id, ordinal); made by the first `find`.
    by_id: OnceLock<Vec<u32>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Column {
    Int(Int64Array),
    UInt(UInt64Array),
    Text(LargeStringArray),
    Uuid(FixedSizeBinaryArray),
}

impl RowIds {
    /// From an int64, uint64, string (any of Arrow's three) or 16-byte binary array.
    pub fn from_array(array: &dyn Array) -> Result<Self, RowIdError> {
        let wrong_type = || RowIdError::Type { got: array.data_type().to_string() };
        if array.len() > u32::MAX as usize {
            return Err(RowIdError::TooMany { max: u32::MAX as usize, got: array.len() });
        }
        if let Some(nulls) = array.logical_nulls()
            && let Some(row) = nulls.iter().position(|valid| !valid)
        {
            return Err(RowIdError::Null { row });
        }
        let column = match array.data_type() {
            DataType::Int64 => Column::Int(array.as_primitive::<Int64Type>().clone()),
            DataType::UInt64 => Column::UInt(array.as_primitive::<UInt64Type>().clone()),
            DataType::LargeUtf8 => Column::Text(array.as_string::<i64>().clone()),
            DataType::Utf8 | DataType::Utf8View => {
                let text = arrow_cast::cast(array, &DataType::LargeUtf8).map_err(|_| wrong_type())?;
                Column::Text(text.as_string::<i64>().clone())
            }
            DataType::FixedSizeBinary(16) => Column::Uuid(array.as_fixed_size_binary().clone()),
            _ => return Err(wrong_type()),
        };
        Ok(column.into())
    }

    /// An array of the type that `from_array` takes: int64, uint64, large UTF-8 or 16-byte binary.
    pub fn to_array(&self) -> ArrayRef {
        match &self.column {
            Column::Int(ids) => std::sync::Arc::new(ids.clone()),
            Column::UInt(ids) => std::sync::Arc::new(ids.clone()),
            Column::Text(ids) => std::sync::Arc::new(ids.clone()),
            Column::Uuid(ids) => std::sync::Arc::new(ids.clone()),
        }
    }

    pub fn kind(&self) -> RowIdKind {
        match self.column {
            Column::Int(_) => RowIdKind::Int64,
            Column::UInt(_) => RowIdKind::UInt64,
            Column::Text(_) => RowIdKind::Text,
            Column::Uuid(_) => RowIdKind::Uuid,
        }
    }

    pub fn len(&self) -> usize {
        match &self.column {
            Column::Int(ids) => ids.len(),
            Column::UInt(ids) => ids.len(),
            Column::Text(ids) => ids.len(),
            Column::Uuid(ids) => ids.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Panics
    /// If there is no such row.
    pub fn get(&self, ordinal: u32) -> RowId {
        let row = ordinal as usize;
        match &self.column {
            Column::Int(ids) => RowId::Int(ids.value(row)),
            Column::UInt(ids) => RowId::UInt(ids.value(row)),
            Column::Text(ids) => RowId::Text(ids.value(row).into()),
            Column::Uuid(ids) => {
                let mut uuid = [0; 16];
                uuid.copy_from_slice(ids.value(row));
                RowId::Uuid(uuid)
            }
        }
    }

    /// The rows named by `ordinals`, in that order.
    ///
    /// # Panics
    /// If one of them is no row.
    pub fn gather(&self, ordinals: &[u32]) -> RowIds {
        let ordinals = UInt32Array::from(ordinals.to_vec());
        let taken = arrow_select::take::take(&self.to_array(), &ordinals, None).expect("ordinals of rows");
        Self::from_array(&taken).expect("the same type, without nulls")
    }

    /// The same ids, none of which finds these rows any more: those that were deleted, and may have come back as others.
    #[must_use]
    pub fn hiding(mut self, mut ordinals: Vec<u32>) -> Self {
        ordinals.sort_unstable();
        self.hidden = ordinals;
        self.by_id = OnceLock::new();
        self
    }

    /// The ordinal of the row that bears this id, the lowest if several do. Numbers and strings are found as
    /// [`RowId::to_kind`] has it. The first call sorts: 4 bytes per row are kept from then on.
    pub fn find(&self, id: &RowId) -> Option<u32> {
        let id = id.to_kind(self.kind())?;
        let by_id = self.in_order();
        let at = by_id.partition_point(|&row| self.compare(row, &id) == Ordering::Less);
        by_id.get(at).copied().filter(|&row| self.compare(row, &id) == Ordering::Equal)
    }

    /// The ordinals that ids find, in the order of (id, ordinal). The first call sorts: 4 bytes per row are kept from then on.
    pub fn in_order(&self) -> &[u32] {
        self.by_id.get_or_init(|| {
            let mut ordinals: Vec<u32> = (0..self.len() as u32).collect();
            if !self.hidden.is_empty() {
                ordinals.retain(|row| self.hidden.binary_search(row).is_err());
            }
            // A stable sort: equal ids stay in the order of their ordinals.
            match &self.column {
                Column::Int(ids) => ordinals.sort_by_key(|&row| ids.value(row as usize)),
                Column::UInt(ids) => ordinals.sort_by_key(|&row| ids.value(row as usize)),
                Column::Text(ids) => {
                    ordinals.sort_by(|&a, &b| ids.value(a as usize).cmp(ids.value(b as usize)))
                }
                Column::Uuid(ids) => {
                    ordinals.sort_by(|&a, &b| ids.value(a as usize).cmp(ids.value(b as usize)));
                }
            }
            ordinals
        })
    }

    /// As [`find`](Self::find) where the ids ascend and none occurs twice: nothing is sorted.
    pub fn find_sorted(&self, id: &RowId) -> Option<u32> {
        let id = id.to_kind(self.kind())?;
        let (mut low, mut high) = (0, self.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.compare(middle, &id) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    pub fn are_equal(&self, a: u32, b: u32) -> bool {
        self.compare_rows(a, b) == Ordering::Equal
    }

    pub fn is_before(&self, a: u32, b: u32) -> bool {
        self.compare_rows(a, b) == Ordering::Less
    }

    fn compare_rows(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (a as usize, b as usize);
        match &self.column {
            Column::Int(ids) => ids.value(a).cmp(&ids.value(b)),
            Column::UInt(ids) => ids.value(a).cmp(&ids.value(b)),
            Column::Text(ids) => ids.value(a).cmp(ids.value(b)),
            Column::Uuid(ids) => ids.value(a).cmp(ids.value(b)),
        }
    }

    fn compare(&self, ordinal: u32, id: &RowId) -> Ordering {
        let row = ordinal as usize;
        match (&self.column, id) {
            (Column::Int(ids), RowId::Int(id)) => ids.value(row).cmp(id),
            (Column::UInt(ids), RowId::UInt(id)) => ids.value(row).cmp(id),
            (Column::Text(ids), RowId::Text(id)) => ids.value(row).cmp(id.as_str()),
            (Column::Uuid(ids), RowId::Uuid(id)) => ids.value(row).cmp(&id[..]),
            _ => unreachable!("compared with an id of the column's kind"),
        }
    }
}

impl Clone for RowIds {
    fn clone(&self) -> Self {
        Self { column: self.column.clone(), hidden: self.hidden.clone(), by_id: OnceLock::new() }
    }
}

impl PartialEq for RowIds {
    fn eq(&self, other: &Self) -> bool {
        self.column == other.column && self.hidden == other.hidden
    }
}

impl From<Column> for RowIds {
    fn from(column: Column) -> Self {
        Self { column, hidden: Vec::new(), by_id: OnceLock::new() }
    }
}

impl From<Vec<i64>> for RowIds {
    fn from(ids: Vec<i64>) -> Self {
        Column::Int(ids.into()).into()
    }
}

impl From<Vec<u64>> for RowIds {
    fn from(ids: Vec<u64>) -> Self {
        Column::UInt(ids.into()).into()
    }
}

impl<'a> FromIterator<&'a str> for RowIds {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        Column::Text(LargeStringArray::from_iter_values(ids)).into()
    }
}

impl From<Vec<[u8; 16]>> for RowIds {
    fn from(ids: Vec<[u8; 16]>) -> Self {
        let bytes = arrow_buffer::Buffer::from_vec(ids.concat());
        Column::Uuid(FixedSizeBinaryArray::new(16, bytes, None)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(last: u8) -> [u8; 16] {
        let mut uuid = [0xab; 16];
        uuid[15] = last;
        uuid
    }

    #[test]
    fn every_row_is_found_by_its_id_whatever_the_type() {
        let columns = [
            RowIds::from(vec![7i64, -1, i64::MIN, i64::MAX, 0]),
            RowIds::from(vec![7u64, 0, u64::MAX, 1 << 63]),
            ["b", "", "ä", "a", "aa"].into_iter().collect(),
            RowIds::from(vec![uuid(3), uuid(1), [0; 16], [255; 16]]),
        ];
        for ids in columns {
            for ordinal in 0..ids.len() as u32 {
                let id = ids.get(ordinal);
                assert_eq!(ids.find(&id), Some(ordinal), "{id}");
                assert_eq!(ids.kind().parse(&id.to_string()), Ok(id.clone()));
                let json: RowId = serde_json::from_str(&serde_json::to_string(&id).unwrap()).unwrap();
                assert_eq!(ids.find(&json), Some(ordinal), "{id} by way of JSON");
            }
            assert_eq!(RowIds::from_array(&ids.to_array()), Ok(ids));
        }
    }

    #[test]
    fn an_absent_id_or_one_of_another_kind_is_not_found() {
        let ids = RowIds::from(vec![5i64, 3]);
        assert_eq!(ids.find(&RowId::Int(4)), None);
        assert_eq!(ids.find(&RowId::UInt(u64::MAX)), None);
        assert_eq!(ids.find(&RowId::UInt(3)), Some(1));
        assert_eq!(ids.find(&RowId::Text("3".into())), None);
        assert_eq!(RowIds::from(Vec::<u64>::new()).find(&RowId::UInt(0)), None);
    }

    #[test]
    fn of_two_rows_with_one_id_the_lowest_ordinal_is_found() {
        assert_eq!(RowIds::from(vec![9u64, 4, 9, 4]).find(&RowId::UInt(4)), Some(1));
    }

    #[test]
    fn a_hidden_row_is_found_by_nobody_and_keeps_its_id() {
        let ids = RowIds::from(vec![9u64, 4, 9, 5]).hiding(vec![3, 0]);
        assert_eq!(ids.find(&RowId::UInt(9)), Some(2));
        assert_eq!(ids.find(&RowId::UInt(5)), None);
        assert_eq!((ids.find(&RowId::UInt(4)), ids.get(3)), (Some(1), RowId::UInt(5)));
    }

    #[test]
    fn a_uuid_is_read_with_and_without_hyphens_and_nothing_else_is() {
        let id = RowId::Uuid(uuid(0x0f));
        assert_eq!(id.to_string(), "abababab-abab-abab-abab-ababababab0f");
        assert_eq!(RowIdKind::Uuid.parse("ABABABABABABABABABABABABABABAB0F"), Ok(id));
        for wrong in
            ["", "abab", "abababab-abab-abab-abab-ababababab0", "g".repeat(32).as_str(), &"é".repeat(18)]
        {
            assert!(RowIdKind::Uuid.parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_null_or_an_unusable_type_is_named() {
        let with_null = Int64Array::from(vec![Some(1), None]);
        assert_eq!(RowIds::from_array(&with_null), Err(RowIdError::Null { row: 1 }));
        let floats = arrow_array::Float32Array::from(vec![1.0]);
        assert_eq!(RowIds::from_array(&floats), Err(RowIdError::Type { got: "Float32".into() }));
    }
}
