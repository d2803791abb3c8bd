//! Digests of contents: the same rows give the same digest, whatever files, row groups, writers or string layouts
//! they came from.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, downcast_primitive_array};
use arrow_buffer::ToByteSlice;
use arrow_schema::DataType;
use blake3::Hasher;

use crate::vectors::VectorView;

use super::InputFile;

/// Bytes gathered before they are hashed: blake3 is fast on long inputs only.
const GATHERED: usize = 64 << 10;

pub(super) fn of_rows(vectors: VectorView<'_>, ids: &dyn Array, attributes: &RecordBatch) -> String {
    let mut hasher = Hasher::new();
    hasher.update(b"annvil rows 1");
    hasher.update(&(vectors.rows() as u64).to_le_bytes());
    hasher.update(&(vectors.dim() as u64).to_le_bytes());
    hasher.update(bytemuck::cast_slice(vectors.as_slice()));
    column("", ids, &mut hasher);
    for (values, field) in attributes.columns().iter().zip(attributes.schema().fields()) {
        column(field.name(), values.as_ref(), &mut hasher);
    }
    hasher.finalize().to_hex().to_string()
}

pub(super) fn of_inputs(inputs: &[InputFile]) -> String {
    let mut hasher = Hasher::new();
    hasher.update(b"annvil inputs 1");
    for input in inputs {
        text(&input.uri, &mut hasher);
        hasher.update(&input.size_bytes.to_le_bytes());
        text(input.e_tag.as_deref().unwrap_or(""), &mut hasher);
    }
    hasher.finalize().to_hex().to_string()
}

fn text(text: &str, hasher: &mut Hasher) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn column(name: &str, values: &dyn Array, hasher: &mut Hasher) {
    text(name, hasher);
    // How wide offsets are is no part of the contents.
    text(
        &match values.data_type() {
            DataType::LargeUtf8 => "Utf8".to_string(),
            DataType::List(_) | DataType::LargeList(_) => "List(Utf8)".to_string(),
            other => other.to_string(),
        },
        hasher,
    );
    let mut gathered = Vec::with_capacity(GATHERED + 256);
    for start in (0..values.len()).step_by(1024) {
        gather(&values.slice(start, 1024.min(values.len() - start)), &mut gathered);
        if gathered.len() >= GATHERED {
            hasher.update(&gathered);
            gathered.clear();
        }
    }
    hasher.update(&gathered);
}

/// Each value as a byte that says whether it is null, then, if it is not, its bytes; a length before what has no
/// fixed one. What lies under a null does not count.
fn gather(values: &dyn Array, out: &mut Vec<u8>) {
    let mut value = |row: usize, write: &mut dyn FnMut(&mut Vec<u8>)| {
        out.push(u8::from(values.is_valid(row)));
        if values.is_valid(row) {
            write(out);
        }
    };
    let sized = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let list = |elements: &dyn Array, out: &mut Vec<u8>| {
        out.extend_from_slice(&(elements.len() as u64).to_le_bytes());
        gather(elements, out);
    };
    let rows = 0..values.len();
    downcast_primitive_array! {
        values => rows.for_each(|row| value(row, &mut |out| out.extend_from_slice(values.value(row).to_byte_slice()))),
        DataType::Boolean => rows.for_each(|row| value(row, &mut |out| out.push(u8::from(values.as_boolean().value(row))))),
        DataType::Utf8 => {
            rows.for_each(|row| value(row, &mut |out| sized(values.as_string::<i32>().value(row).as_bytes(), out)))
        }
        DataType::LargeUtf8 => {
            rows.for_each(|row| value(row, &mut |out| sized(values.as_string::<i64>().value(row).as_bytes(), out)))
        }
        DataType::FixedSizeBinary(_) => {
            rows.for_each(|row| value(row, &mut |out| out.extend_from_slice(values.as_fixed_size_binary().value(row))))
        }
        DataType::List(_) => rows.for_each(|row| value(row, &mut |out| list(&values.as_list::<i32>().value(row), out))),
        DataType::LargeList(_) => {
            rows.for_each(|row| value(row, &mut |out| list(&values.as_list::<i64>().value(row), out)))
        }
        other => unreachable!("{other} is no canonical column type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
    use arrow_schema::Field;
    use std::sync::Arc;

    fn digest(column: ArrayRef) -> String {
        let vectors = vec![1.0f32; column.len()];
        let ids = Int64Array::from_iter_values(0..column.len() as i64);
        let attributes = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
        of_rows(VectorView::new(&vectors, 1), &ids, &attributes)
    }

    #[test]
    fn layout_does_not_count_and_content_does() {
        let strings: ArrayRef = Arc::new(StringArray::from(vec![Some("ab"), None, Some("c"), Some("")]));
        let large = arrow_cast::cast(&strings, &DataType::LargeUtf8).unwrap();
        assert_eq!(digest(strings.clone()), digest(large));
        let padded: ArrayRef =
            Arc::new(StringArray::from(vec![Some("x"), Some("ab"), None, Some("c"), Some("")]));
        assert_eq!(digest(strings.clone()), digest(padded.slice(1, 4)));
        for other in [
            vec![Some("a"), None, Some("bc"), Some("")],
            vec![Some("ab"), Some(""), Some("c"), Some("")],
            vec![Some("ab"), None, Some("c"), None],
        ] {
            assert_ne!(digest(strings.clone()), digest(Arc::new(StringArray::from(other))));
        }

        let list = |rows: &[Option<&[&str]>]| -> ArrayRef {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for row in rows {
                match row {
                    Some(tags) => builder.append_value(tags.iter().map(Some)),
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        };
        let tags = list(&[Some(&["a", "b"]), None, Some(&[])]);
        let element = Arc::new(Field::new_list_field(DataType::LargeUtf8, true));
        let large = arrow_cast::cast(&tags, &DataType::LargeList(element)).unwrap();
        assert_eq!(digest(tags.clone()), digest(large));
        assert_ne!(digest(tags.clone()), digest(list(&[Some(&["a"]), None, Some(&["b"])])));
        assert_ne!(digest(tags), digest(list(&[Some(&["a", "b"]), Some(&[]), None])));

        let bools = |values: &[Option<bool>]| digest(Arc::new(BooleanArray::from(values.to_vec())));
        assert_ne!(bools(&[Some(true), None]), bools(&[Some(true), Some(false)]));
    }

    #[test]
    fn what_lies_under_a_null_does_not_count() {
        let with = |hidden: i64| -> ArrayRef {
            let nulls = arrow_buffer::NullBuffer::from(vec![true, false]);
            Arc::new(Int64Array::new(vec![5, hidden].into(), Some(nulls)))
        };
        assert_eq!(digest(with(0)), digest(with(99)));
    }
}
