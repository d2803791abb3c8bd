//! The user's ids in their canonical types: as text, and remembered to find duplicates.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{Array, StringArray};
use arrow_schema::DataType;

/// Ids already given to a row. Numbers and UUIDs are kept as they are; strings as the first 128 bits of their
/// blake3, so that memory does not depend on their length: 10⁹ random strings collide with probability 10⁻²¹, and
/// nobody can make two that do.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    numbers: HashSet<u64>,
    wide: HashSet<u128>,
}

impl SeenIds {
    /// Whether the id at `row`, of a canonical type and not null, is new.
    pub fn insert(&mut self, ids: &dyn Array, row: usize) -> bool {
        match ids.data_type() {
            DataType::Int64 => self.numbers.insert(ids.as_primitive::<Int64Type>().value(row) as u64),
            DataType::UInt64 => self.numbers.insert(ids.as_primitive::<UInt64Type>().value(row)),
            DataType::FixedSizeBinary(_) => self.wide.insert(uuid(ids, row)),
            _ => {
                let hash = blake3::hash(ids.as_string::<i32>().value(row).as_bytes());
                let (head, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
                self.wide.insert(u128::from_le_bytes(*head))
            }
        }
    }
}

/// The id at `row` as errors and the rejects file show it; `None` for a null.
pub(super) fn text(ids: &dyn Array, row: usize) -> Option<String> {
    if ids.is_null(row) {
        return None;
    }
    Some(match ids.data_type() {
        DataType::Int64 => ids.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt64 => ids.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::FixedSizeBinary(_) => uuid_text(uuid(ids, row)),
        DataType::LargeUtf8 => ids.as_string::<i64>().value(row).into(),
        _ => ids.as_string::<i32>().value(row).into(),
    })
}

fn uuid(ids: &dyn Array, row: usize) -> u128 {
    let bytes = ids.as_fixed_size_binary().value(row);
    u128::from_be_bytes(bytes.try_into().expect("the column's type is FixedSizeBinary(16)"))
}

/// RFC 9562: lower-case hexadecimal in groups of 8-4-4-4-12.
fn uuid_text(uuid: u128) -> String {
    let group = |shift: u32, digits: u32| (uuid >> shift) & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        group(96, 8),
        group(80, 4),
        group(64, 4),
        group(48, 4),
        group(0, 12)
    )
}

pub(super) fn uuids_as_text(uuids: &dyn Array) -> StringArray {
    (0..uuids.len()).map(|row| uuids.is_valid(row).then(|| uuid_text(uuid(uuids, row)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{FixedSizeBinaryArray, Int64Array, UInt64Array};

    #[test]
    fn a_uuid_is_written_as_the_rfc_writes_it() {
        let bytes = (0u8..16).map(|i| i * 17).collect::<Vec<_>>();
        let ids = FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).unwrap();
        assert_eq!(text(&ids, 0).unwrap(), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn an_id_is_new_exactly_once() {
        let numbers = Int64Array::from(vec![i64::MIN, -1, 0, -1, i64::MAX, i64::MIN]);
        let unsigned = UInt64Array::from(vec![u64::MAX, 0, u64::MAX]);
        let strings = StringArray::from(vec!["", "a", "A", "a", ""]);
        let news = |ids: &dyn Array| {
            let mut seen = SeenIds::default();
            (0..ids.len()).map(|row| seen.insert(ids, row)).collect::<Vec<_>>()
        };
        assert_eq!(news(&numbers), [true, true, true, false, true, false]);
        assert_eq!(news(&unsigned), [true, true, false]);
        assert_eq!(news(&strings), [true, true, true, false, false]);
    }
}
