//! Which rows of a segment are whose, as the section `partitions`: rows that share a value of one attribute, a tenant's for
//! example, are a partition.
//!
//! `keys` u8, an Arrow IPC file as `ids.arrow` is one: the values that occur, ascending, each once; `offsets` u64
//! `[partitions + 1]`. Where rows lie partition by partition, partition `p` is the ordinals from `offsets[p]` to `offsets[p + 1]`; where
//! an index has an order of its own, `rows` u32 `[rows]` has the ordinals partition by partition, ascending in each. Metadata: `column`,
//! the attribute.

use std::ops::Range;

use arrow_array::{Array as _, ArrayRef};
use arrow_cast::cast;
use arrow_schema::DataType;

use super::columns;
use super::tensor::{Array, Section, TensorError};
use crate::vectors::{RowId, RowIdError, RowIds};

pub const PARTITIONS_SECTION: &str = "partitions";
pub const PARTITIONS_FILE: &str = "partitions.safetensors";

const KEYS: &str = "keys";
const OFFSETS: &str = "offsets";
const ROWS: &str = "rows";
const COLUMN: &str = "column";

/// The partitions of one segment's rows; every row is in one.
#[derive(Debug, Clone, PartialEq)]
pub struct Partitions {
    column: String,
    /// Ascending, each once.
    keys: RowIds,
    offsets: Vec<u64>,
    /// `None` where rows lie partition by partition.
    rows: Option<Vec<u32>>,
}

/// Rows of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionRows<'a> {
    /// One behind the other.
    Range(Range<u32>),
    /// Ascending.
    List(&'a [u32]),
}

impl PartitionRows<'_> {
    pub fn len(&self) -> usize {
        match self {
            PartitionRows::Range(range) => range.len(),
            PartitionRows::List(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (range, list) = match self {
            PartitionRows::Range(range) => (range.clone(), &[][..]),
            PartitionRows::List(rows) => (0..0, *rows),
        };
        range.chain(list.iter().copied())
    }
}

/// An attribute's values as keys: integers as int64 or uint64, strings, UUIDs.
///
/// # Errors
/// Another type; a null.
pub fn keys_of(values: &ArrayRef) -> Result<RowIds, RowIdError> {
    use DataType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32};
    let widened = match values.data_type() {
        Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 => cast(values, &Int64).ok(),
        _ => None,
    };
    RowIds::from_array(widened.as_ref().unwrap_or(values).as_ref())
}

/// Whether an attribute of this type can tell partitions apart.
pub fn is_key_type(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::FixedSizeBinary(16))
}

impl Partitions {
    /// Of rows, by ordinal, with these values of `column`.
    pub fn of(column: &str, values: &RowIds) -> Self {
        let sorted = values.in_order();
        let starts = (0..sorted.len())
            .filter(|&at| at == 0 || !values.are_equal(sorted[at - 1], sorted[at]))
            .collect::<Vec<_>>();
        let firsts: Vec<u32> = starts.iter().map(|&at| sorted[at]).collect();
        let offsets = starts.iter().map(|&at| at as u64).chain([sorted.len() as u64]).collect();
        let is_in_order = sorted.iter().zip(0..).all(|(&row, at)| row == at);
        let rows = (!is_in_order).then(|| sorted.to_vec());
        Self { column: column.into(), keys: values.gather(&firsts), offsets, rows }
    }

    /// For each row the place of its value among those that occur.
    pub fn ranks(values: &RowIds) -> Vec<u32> {
        let sorted = values.in_order();
        let (mut ranks, mut rank) = (vec![0; sorted.len()], 0);
        for (at, &row) in sorted.iter().enumerate() {
            rank += u32::from(at > 0 && !values.are_equal(sorted[at - 1], row));
            ranks[row as usize] = rank;
        }
        ranks
    }

    /// The attribute whose values the keys are.
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Ascending.
    pub fn keys(&self) -> &RowIds {
        &self.keys
    }

    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// A partition's rows; none where no row has this value.
    pub fn find(&self, key: &RowId) -> PartitionRows<'_> {
        self.keys.find_sorted(key).map_or(PartitionRows::Range(0..0), |place| self.rows(place as usize))
    }

    /// # Panics
    /// If there are not so many partitions.
    pub fn rows(&self, partition: usize) -> PartitionRows<'_> {
        let (start, end) = (self.offsets[partition], self.offsets[partition + 1]);
        match &self.rows {
            None => PartitionRows::Range(start as u32..end as u32),
            Some(rows) => PartitionRows::List(&rows[start as usize..end as usize]),
        }
    }

    pub fn to_section(&self) -> Section {
        let keys = columns::encode_ids(&self.keys).expect("ids of one type");
        let section = Section::new(PARTITIONS_SECTION)
            .with(KEYS, &Array::<u8>::from_bytes(keys.clone()), &[keys.len()])
            .with(OFFSETS, &Array::from_vec(self.offsets.clone()), &[self.offsets.len()])
            .with_metadata(COLUMN, &self.column);
        match &self.rows {
            None => section,
            Some(rows) => section.with(ROWS, &Array::from_vec(rows.clone()), &[rows.len()]),
        }
    }

    /// Of a segment of so many rows.
    pub fn from_section(section: &Section, rows: u64) -> Result<Self, TensorError> {
        let content = |tensor: &str, what: String| TensorError::Content { tensor: tensor.into(), what };
        let (offsets, _) = section.array_of_rank::<u64>(OFFSETS, 1)?;
        let ascending = offsets.windows(2).all(|pair| pair[0] < pair[1]);
        if offsets.len() < 2 || offsets[0] != 0 || offsets[offsets.len() - 1] != rows || !ascending {
            let what = format!("expected 2 or more strictly ascending values from 0 to {rows}");
            return Err(content(OFFSETS, what));
        }
        let count = offsets.len() as u64 - 1;
        let (keys, _) = section.array_of_rank::<u8>(KEYS, 1)?;
        let keys = columns::decode_ids(keys.bytes().clone(), count)
            .map_err(|error| content(KEYS, error.to_string()))?;
        if let Some(at) = (1..count as u32).find(|&at| !keys.is_before(at - 1, at)) {
            return Err(content(KEYS, format!("key {at}: expected one above the key before it")));
        }
        let order = match section.tensor(ROWS) {
            Err(_) => None,
            Ok(_) => Some(section.array::<u32>(ROWS, &[rows as usize])?),
        };
        if let Some(order) = &order {
            let mut is_seen = vec![false; order.len()];
            for &row in order.iter() {
                let is_new = is_seen.get_mut(row as usize).is_some_and(|seen| !std::mem::replace(seen, true));
                if !is_new {
                    return Err(content(ROWS, format!("expected each row below {rows} once, got {row}")));
                }
            }
            for pair in offsets.windows(2) {
                if order[pair[0] as usize..pair[1] as usize].windows(2).any(|rows| rows[0] > rows[1]) {
                    return Err(content(ROWS, "expected ascending rows in each partition".into()));
                }
            }
        }
        let column = section.metadata(COLUMN)?;
        let rows = order.map(|order| order.to_vec());
        Ok(Self { column, keys, offsets: offsets.to_vec(), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    fn text(values: &[&str]) -> RowIds {
        values.iter().copied().collect()
    }

    #[test]
    fn every_row_is_in_the_partition_of_its_value_and_reads_back() {
        let mut random = Random::new(1);
        for (rows, tenants) in [(1, 1), (300, 7), (300, 300), (1000, 900)] {
            for sorted in [false, true] {
                let mut values: Vec<i64> = (0..rows).map(|_| random.below(tenants) as i64 - 3).collect();
                if sorted {
                    values.sort_unstable();
                }
                let made = Partitions::of("user", &RowIds::from(values.clone()));
                let read = Partitions::from_section(&made.to_section(), rows as u64).unwrap();
                assert_eq!(read, made);
                assert_eq!(read.rows.is_none(), values.is_sorted());
                for tenant in -5..tenants as i64 {
                    let expected: Vec<u32> =
                        (0..rows as u32).filter(|&row| values[row as usize] == tenant).collect();
                    let found = read.find(&RowId::Int(tenant));
                    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
                    assert_eq!(found.len(), expected.len());
                }
            }
        }
    }

    #[test]
    fn names_are_keys_and_nothing_else() {
        let long = "n".repeat(10 << 10);
        let names = ["../x", "", "a", &long, "A", "a\0", "é"];
        let made = Partitions::of("user", &text(&names));
        let read = Partitions::from_section(&made.to_section(), 7).unwrap();
        for (row, name) in (0..).zip(names) {
            assert_eq!(read.find(&RowId::Text(name.into())).iter().collect::<Vec<_>>(), [row], "{name}");
        }
        assert!(read.find(&RowId::Text("x".into())).is_empty());
        assert!(read.find(&RowId::Int(1)).is_empty());
    }

    #[test]
    fn hostile_partitions_are_refused() {
        let section = |keys: &[&str], offsets: Vec<u64>, rows: Option<Vec<u32>>| {
            let keys = columns::encode_ids(&text(keys)).unwrap();
            let section = Section::new(PARTITIONS_SECTION)
                .with(KEYS, &Array::<u8>::from_bytes(keys.clone()), &[keys.len()])
                .with(OFFSETS, &Array::from_vec(offsets.clone()), &[offsets.len()])
                .with_metadata(COLUMN, "user");
            match rows {
                None => section,
                Some(rows) => section.with(ROWS, &Array::from_vec(rows.clone()), &[rows.len()]),
            }
        };
        assert!(
            Partitions::from_section(&section(&["a", "b"], vec![0, 2, 3], Some(vec![0, 2, 1])), 3).is_ok()
        );
        for (bad, rows) in [
            (section(&["a", "b"], vec![0, 2, 3], None), 4),
            (section(&["a", "b"], vec![0, 2, 3], None), u64::MAX),
            (section(&["a", "b"], vec![0, 0, 3], None), 3),
            (section(&["a", "b"], vec![1, 2, 3], None), 3),
            (section(&["a", "b"], vec![0, u64::MAX, 3], None), 3),
            (section(&["a"], vec![0, 2, 3], None), 3),
            (section(&["a", "a"], vec![0, 2, 3], None), 3),
            (section(&["b", "a"], vec![0, 2, 3], None), 3),
            (section(&[], vec![0], None), 0),
            (section(&["a", "b"], vec![0, 2, 3], Some(vec![0, 1])), 3),
            (section(&["a", "b"], vec![0, 2, 3], Some(vec![0, 1, 3])), 3),
            (section(&["a", "b"], vec![0, 2, 3], Some(vec![0, 1, 1])), 3),
            (section(&["a", "b"], vec![0, 2, 3], Some(vec![2, 1, 0])), 3),
            (Section::new(PARTITIONS_SECTION), 3),
        ] {
            assert!(Partitions::from_section(&bad, rows).is_err(), "{bad:?} {rows}");
        }
    }
}
