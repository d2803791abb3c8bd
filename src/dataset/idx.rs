//! IDX, the format of MNIST's files: `00 00 08 rank`, then `rank` big-endian u32 extents, then one byte per value.

use super::rows::{Attribute, Column, Rows};
use crate::vectors::VectorBuf;

/// Vectors and their labels; ids run from `first_id`.
///
/// # Errors
/// A message with expected and got where either file is not IDX of bytes, does not have `dim` values per row, holds another
/// number of bytes than its header says, or where the two do not have the same number of rows.
pub fn read(vectors: &[u8], labels: &[u8], dim: usize, first_id: i64) -> Result<Rows, String> {
    let (rows, row_len, values) = parse(vectors)?;
    if row_len != dim as u64 {
        return Err(format!("expected {dim} values per row, got {row_len}"));
    }
    let (label_rows, label_len, labels) = parse(labels)?;
    if label_len != 1 {
        return Err(format!("labels: expected 1 value per row, got {label_len}"));
    }
    if label_rows != rows {
        return Err(format!("labels: expected {rows} rows, got {label_rows}"));
    }
    let embeddings = VectorBuf::new(values.iter().map(|&byte| f32::from(byte)).collect(), dim);
    let labels = Column::Int(labels.iter().map(|&byte| i32::from(byte)).collect());
    let ids = (first_id..).take(rows as usize).collect();
    Ok(Rows::new(ids, embeddings, vec![Attribute { name: "label", column: labels }]))
}

/// Rows, values per row (the product of the further extents), values.
fn parse(file: &[u8]) -> Result<(u64, u64, &[u8]), String> {
    let (magic, rest) = file.split_first_chunk::<4>().ok_or("shorter than an IDX header")?;
    let [0, 0, 8, rank] = *magic else {
        return Err(format!("expected the IDX magic 00 00 08 (bytes), got {magic:02x?}"));
    };
    let (extents, values) = rest
        .split_at_checked(4 * usize::from(rank))
        .ok_or_else(|| format!("cut short in its {rank} extents"))?;
    let mut extents =
        extents.chunks_exact(4).map(|b| u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])));
    let rows = extents.next().ok_or("no extents")?;
    let row_len = extents.try_fold(1u64, u64::checked_mul).ok_or("its extents overflow")?;
    let expected = rows.checked_mul(row_len).ok_or("its extents overflow")?;
    if expected != values.len() as u64 {
        return Err(format!("expected {expected} values, got {}", values.len()));
    }
    Ok((rows, row_len, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(extents: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, extents.len() as u8];
        extents.iter().for_each(|extent| bytes.extend_from_slice(&extent.to_be_bytes()));
        bytes.extend_from_slice(values);
        bytes
    }

    #[test]
    fn images_become_rows_with_labels() {
        let rows = read(&file(&[2, 1, 3], &[0, 1, 255, 7, 8, 9]), &file(&[2], &[5, 0]), 3, 40).unwrap();
        assert_eq!(rows.ids, [40, 41]);
        assert_eq!(rows.embeddings.into_vec(), [0.0, 1.0, 255.0, 7.0, 8.0, 9.0]);
        assert_eq!(rows.attributes[0].column, Column::Int(vec![5, 0]));
    }

    #[test]
    fn hostile_files_are_refused_with_expected_and_got() {
        let (good, labels) = (file(&[2, 1, 3], &[0; 6]), file(&[2], &[0; 2]));
        for cut in 0..good.len() {
            read(&good[..cut], &labels, 3, 0).unwrap_err();
        }
        for cut in 0..labels.len() {
            read(&good, &labels[..cut], 3, 0).unwrap_err();
        }
        for (vectors, labels, expected) in [
            (file(&[2, 3], &[0; 7]), labels.clone(), "expected 6 values, got 7"),
            (file(&[2, 4], &[0; 8]), labels.clone(), "expected 3 values per row, got 4"),
            (good.clone(), file(&[3], &[0; 3]), "expected 2 rows, got 3"),
            (good.clone(), file(&[2, 2], &[0; 4]), "expected 1 value per row, got 2"),
            (file(&[u32::MAX, u32::MAX, u32::MAX], &[]), labels.clone(), "overflow"),
            (file(&[], &[]), labels.clone(), "no extents"),
            (b"\0\0\x0d\x01\0\0\0\0".to_vec(), labels.clone(), "magic"),
        ] {
            let message = read(&vectors, &labels, 3, 0).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
