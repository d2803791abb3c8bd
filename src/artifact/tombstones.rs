//! Which rows of a version are no longer there, as the section `tombstones` in a folder of its own: `rows` u32, the dead
//! rows by their ordinals within their segment, ascending, segment after segment; `offsets` u64 `[segments + 1]`, where
//! each segment's begin and end.

use super::tensor::{Array, Section, TensorError};

pub const TOMBSTONES_SECTION: &str = "tombstones";

const ROWS: &str = "rows";
const OFFSETS: &str = "offsets";

/// The dead rows of each segment, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstones {
    of_segments: Vec<Vec<u32>>,
}

impl Tombstones {
    /// None of any of so many segments.
    pub fn none(segments: usize) -> Self {
        Self { of_segments: vec![Vec::new(); segments] }
    }

    /// Those of each segment, ascending.
    pub fn of(of_segments: Vec<Vec<u32>>) -> Self {
        Self { of_segments }
    }

    /// Of rows that are numbered through, in any order, where the segments have so many rows each.
    ///
    /// # Panics
    /// If one is no row.
    pub fn of_ordinals(ordinals: impl IntoIterator<Item = u32>, segment_rows: &[u64]) -> Self {
        let mut sorted: Vec<u32> = ordinals.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let (mut first, mut rest) = (0u64, &sorted[..]);
        let mut of_segments = Vec::with_capacity(segment_rows.len());
        for rows in segment_rows {
            let (own, others) = rest.split_at(rest.partition_point(|&row| u64::from(row) < first + rows));
            of_segments.push(own.iter().map(|row| row - first as u32).collect());
            (first, rest) = (first + rows, others);
        }
        assert!(rest.is_empty(), "tombstone of row {} of {first}", rest[0]);
        Self { of_segments }
    }

    /// The dead rows of each segment.
    pub fn of_segments(&self) -> &[Vec<u32>] {
        &self.of_segments
    }

    /// The dead rows, numbered through.
    pub fn ordinals(&self, segment_rows: &[u64]) -> Vec<u32> {
        let mut first = 0;
        let mut ordinals = Vec::with_capacity(self.count() as usize);
        for (own, rows) in self.of_segments.iter().zip(segment_rows) {
            ordinals.extend(own.iter().map(|row| row + first));
            first += *rows as u32;
        }
        ordinals
    }

    pub fn count(&self) -> u64 {
        self.of_segments.iter().map(|rows| rows.len() as u64).sum()
    }

    pub fn to_section(&self) -> Section {
        let rows = Array::from_vec(self.of_segments.concat());
        let ends = self.of_segments.iter().scan(0, |end, rows| {
            *end += rows.len() as u64;
            Some(*end)
        });
        let offsets = Array::from_vec(std::iter::once(0).chain(ends).collect());
        Section::new(TOMBSTONES_SECTION).with(ROWS, &rows, &[rows.len()]).with(
            OFFSETS,
            &offsets,
            &[offsets.len()],
        )
    }

    /// From the section of a version with `count` tombstones whose segments have so many rows each.
    pub fn from_section(section: &Section, count: u64, segment_rows: &[u64]) -> Result<Self, TensorError> {
        let content = |tensor: &str, what| TensorError::Content { tensor: tensor.into(), what };
        let offsets = section.array::<u64>(OFFSETS, &[segment_rows.len() + 1])?;
        let count =
            usize::try_from(count).map_err(|_| content(ROWS, format!("{count} do not fit memory")))?;
        let rows = section.array::<u32>(ROWS, &[count])?;
        let ends = (offsets[0], offsets[segment_rows.len()]);
        if ends != (0, count as u64) || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            let what = format!("expected ascending values from 0 to {count}, got {:?}", &offsets[..]);
            return Err(content(OFFSETS, what));
        }
        let mut of_segments = Vec::with_capacity(segment_rows.len());
        for (segment, (pair, &limit)) in offsets.windows(2).zip(segment_rows).enumerate() {
            let own = &rows[pair[0] as usize..pair[1] as usize];
            if own.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(content(ROWS, format!("segment {segment}: expected ascending rows")));
            }
            if let Some(&last) = own.last().filter(|&&last| u64::from(last) >= limit) {
                let what = format!("segment {segment}: expected rows below {limit}, got {last}");
                return Err(content(ROWS, what));
            }
            of_segments.push(own.to_vec());
        }
        Ok(Self { of_segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_read_back_as_they_were_and_number_rows_through() {
        for (rows, dead) in [
            (vec![5u64], vec![4u32]),
            (vec![5, 3, 0, 7], vec![14, 0, 5, 7, 8, 5]),
            (vec![1, 1], vec![]),
            (vec![4, 4], (0..8).collect()),
        ] {
            let tombstones = Tombstones::of_ordinals(dead.iter().copied(), &rows);
            let mut sorted = dead.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(
                (tombstones.ordinals(&rows), tombstones.count()),
                (sorted.clone(), sorted.len() as u64)
            );
            let section = tombstones.to_section();
            let read = Tombstones::from_section(&section, sorted.len() as u64, &rows);
            assert_eq!(read, Ok(tombstones));
        }
    }

    #[test]
    fn hostile_tombstones_are_refused() {
        let section = |rows: Vec<u32>, offsets: Vec<u64>| {
            let (rows, offsets) = (Array::from_vec(rows), Array::from_vec(offsets));
            Section::new(TOMBSTONES_SECTION).with(ROWS, &rows, &[rows.len()]).with(
                OFFSETS,
                &offsets,
                &[offsets.len()],
            )
        };
        let good = section(vec![1, 4, 0], vec![0, 2, 3]);
        assert!(Tombstones::from_section(&good, 3, &[5, 1]).is_ok());
        for (bad, count, segments) in [
            (good.clone(), 2, vec![5, 1]),
            (good.clone(), u64::MAX, vec![5, 1]),
            (good.clone(), 3, vec![5, 1, 1]),
            (good.clone(), 3, vec![4, 1]),
            (section(vec![4, 1, 0], vec![0, 2, 3]), 3, vec![5, 1]),
            (section(vec![1, 1, 0], vec![0, 2, 3]), 3, vec![5, 1]),
            (section(vec![1, 4, 0], vec![0, 4, 3]), 3, vec![5, 1]),
            (section(vec![1, 4, 0], vec![1, 2, 3]), 3, vec![5, 1]),
            (section(vec![1, 4, 0], vec![0, 2, 2]), 3, vec![5, 1]),
            (section(vec![1, 4, 0], vec![0, u64::MAX, 3]), 3, vec![5, 1]),
            (Section::new(TOMBSTONES_SECTION), 3, vec![5, 1]),
        ] {
            assert!(Tombstones::from_section(&bad, count, &segments).is_err(), "{bad:?} {segments:?}");
        }
    }
}
