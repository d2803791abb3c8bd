//! One row's vector, checked and converted to f32. Every way in which a row can be bad has its name here.

use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::DataType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::vectors::{MAX_SQUARED_NORM, Metric, normalize, squared_norm};

/// Why a row cannot be indexed.
#[derive(Debug, Clone, PartialEq)]
pub enum BadRow {
    NullVector,
    EmptyVector,
    NullElement {
        element: usize,
    },
    NotANumber {
        element: usize,
    },
    Infinite {
        element: usize,
    },
    /// A finite f64 beyond the range of f32.
    BeyondF32 {
        element: usize,
        value: f64,
    },
    WrongLength {
        expected: usize,
        got: usize,
    },
    /// Under cosine a vector needs a direction.
    ZeroVector,
    /// Under L2 and inner product, distances between two such vectors may not fit an f32.
    NormOverflow {
        squared_norm: f64,
    },
    NullId,
    DuplicateId,
    /// Of an attribute that indexes are partitioned by.
    NullAttribute {
        column: String,
    },
}

impl BadRow {
    /// The name that counts and the rejects file give it.
    pub fn name(&self) -> &'static str {
        match self {
            BadRow::NullVector => "null_vector",
            BadRow::EmptyVector => "empty_vector",
            BadRow::NullElement { .. } => "null_element",
            BadRow::NotANumber { .. } => "nan",
            BadRow::Infinite { .. } => "infinite",
            BadRow::BeyondF32 { .. } => "beyond_f32",
            BadRow::WrongLength { .. } => "wrong_length",
            BadRow::ZeroVector => "zero_vector",
            BadRow::NormOverflow { .. } => "norm_overflow",
            BadRow::NullId => "null_id",
            BadRow::DuplicateId => "duplicate_id",
            BadRow::NullAttribute { .. } => "null_attribute",
        }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRow::NullVector => write!(f, "the vector is null"),
            BadRow::EmptyVector => write!(f, "the vector is an empty list"),
            BadRow::NullElement { element } => write!(f, "element {element} of the vector is null"),
            BadRow::NotANumber { element } => write!(f, "element {element} of the vector is NaN"),
            BadRow::Infinite { element } => write!(f, "element {element} of the vector is infinite"),
            BadRow::BeyondF32 { element, value } => {
                write!(f, "element {element} of the vector is {value:e}, beyond the range of f32")
            }
            BadRow::WrongLength { expected, got } => {
                write!(f, "expected a vector of {expected} elements, got {got}")
            }
            BadRow::ZeroVector => write!(f, "the vector is zero: cosine needs a direction"),
            BadRow::NormOverflow { squared_norm } => {
                write!(
                    f,
                    "the vector's squared norm is {squared_norm:e}, expected at most {MAX_SQUARED_NORM:e}, so that f32 holds \
                     every distance"
                )
            }
            BadRow::NullId => write!(f, "the id is null"),
            BadRow::DuplicateId => write!(f, "an earlier row has the same id"),
            BadRow::NullAttribute { column } => {
                write!(
                    f,
                    "`{column}` is null: an index is partitioned by it, and the row would be in no partition"
                )
            }
        }
    }
}

/// The vector column of one decoded batch.
pub(super) struct VectorColumn<'a> {
    rows: &'a ArrayRef,
    extents: Extents<'a>,
    elements: Elements<'a>,
    element_nulls: Option<&'a NullBuffer>,
}

enum Extents<'a> {
    Fixed(usize),
    Offsets(&'a OffsetBuffer<i32>),
    LargeOffsets(&'a OffsetBuffer<i64>),
}

enum Elements<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> VectorColumn<'a> {
    /// `None` for a type that is no vector column: those are refused when the source is opened.
    pub fn new(rows: &'a ArrayRef) -> Option<Self> {
        let (extents, values) = match rows.data_type() {
            DataType::FixedSizeList(_, dim) => {
                (Extents::Fixed(*dim as usize), rows.as_fixed_size_list().values())
            }
            DataType::List(_) => {
                let lists = rows.as_list::<i32>();
                (Extents::Offsets(lists.offsets()), lists.values())
            }
            DataType::LargeList(_) => {
                let lists = rows.as_list::<i64>();
                (Extents::LargeOffsets(lists.offsets()), lists.values())
            }
            _ => return None,
        };
        let elements = match values.data_type() {
            DataType::Float16 => Elements::F16(values.as_primitive::<Float16Type>().values()),
            DataType::Float32 => Elements::F32(values.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Elements::F64(values.as_primitive::<Float64Type>().values()),
            _ => return None,
        };
        let element_nulls = values.nulls().filter(|nulls| nulls.null_count() > 0);
        Some(Self { rows, extents, elements, element_nulls })
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The elements of row `row` as a range of the child array; `None` for a null row.
    fn extent(&self, row: usize) -> Option<std::ops::Range<usize>> {
        if self.rows.is_null(row) {
            return None;
        }
        Some(match &self.extents {
            Extents::Fixed(dim) => row * dim..(row + 1) * dim,
            Extents::Offsets(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Extents::LargeOffsets(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
        })
    }

    /// The length of a row's vector; `None` where it is null.
    pub fn row_len(&self, row: usize) -> Option<usize> {
        self.extent(row).map(|extent| extent.len())
    }

    /// Appends row `row` to `out`, converted and, for cosine, normalised; a bad row leaves `out` as it was.
    pub fn push_row(
        &self,
        row: usize,
        dim: usize,
        metric: Metric,
        out: &mut Vec<f32>,
    ) -> std::result::Result<(), BadRow> {
        let start = out.len();
        let pushed = self.convert_row(row, dim, out).and_then(|()| prepare(&mut out[start..], metric));
        if pushed.is_err() {
            out.truncate(start);
        }
        pushed
    }

    fn convert_row(&self, row: usize, dim: usize, out: &mut Vec<f32>) -> std::result::Result<(), BadRow> {
        let extent = self.extent(row).ok_or(BadRow::NullVector)?;
        if extent.is_empty() {
            return Err(BadRow::EmptyVector);
        }
        if extent.len() != dim {
            return Err(BadRow::WrongLength { expected: dim, got: extent.len() });
        }
        if let Some(nulls) = self.element_nulls
            && let Some(element) = extent.clone().position(|index| nulls.is_null(index))
        {
            return Err(BadRow::NullElement { element });
        }
        let start = out.len();
        match self.elements {
            Elements::F16(values) => {
                out.resize(start + dim, 0.0);
                values[extent.clone()].convert_to_f32_slice(&mut out[start..]);
            }
            Elements::F32(values) => out.extend_from_slice(&values[extent.clone()]),
            Elements::F64(values) => out.extend(values[extent.clone()].iter().map(|&value| value as f32)),
        }
        match out[start..].iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(element) => Err(match self.elements {
                Elements::F64(values) if values[extent.start + element].is_finite() => {
                    BadRow::BeyondF32 { element, value: values[extent.start + element] }
                }
                _ if out[start + element].is_nan() => BadRow::NotANumber { element },
                _ => BadRow::Infinite { element },
            }),
        }
    }
}

/// Checks the norm of a finite vector and normalises it for cosine. Norms are taken in f64, where the square of
/// no f32 overflows or vanishes: 1e-30 and 1e30 have directions as good as any.
fn prepare(vector: &mut [f32], metric: Metric) -> std::result::Result<(), BadRow> {
    if metric == Metric::Cosine {
        return if normalize(vector) { Ok(()) } else { Err(BadRow::ZeroVector) };
    }
    let squared_norm = squared_norm(vector);
    if squared_norm > MAX_SQUARED_NORM { Err(BadRow::NormOverflow { squared_norm }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{FixedSizeListBuilder, Float64Builder, ListBuilder};
    use arrow_array::types::ArrowPrimitiveType;
    use arrow_array::{FixedSizeListArray, ListArray, PrimitiveArray};
    use std::sync::Arc;

    fn check(column: &ArrayRef, row: usize, metric: Metric) -> Result<Vec<f32>, BadRow> {
        let mut out = vec![7.0];
        let pushed = VectorColumn::new(column).unwrap().push_row(row, 2, metric, &mut out);
        assert_eq!(out.len(), if pushed.is_ok() { 3 } else { 1 }, "a bad row leaves nothing behind");
        pushed.map(|()| out[1..].to_vec())
    }

    fn lists<T: ArrowPrimitiveType>(rows: Vec<Option<Vec<Option<T::Native>>>>) -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<T, _, _>(rows))
    }

    #[test]
    fn every_reason_is_found_in_lists_of_f64() {
        let inf = f64::INFINITY;
        let rows: Vec<Option<Vec<Option<f64>>>> = vec![
            None,
            Some(vec![Some(1.0), None]),
            Some(vec![Some(1.0), Some(f64::NAN)]),
            Some(vec![Some(-inf), Some(1.0)]),
            Some(vec![Some(1.0), Some(-1e39)]),
            Some(vec![Some(1.0)]),
            Some(vec![]),
            Some(vec![Some(0.0), Some(-0.0)]),
            Some(vec![Some(3e19), Some(0.0)]),
            Some(vec![Some(3.0), Some(4.0)]),
        ];
        let column = lists::<Float64Type>(rows);
        let expected = [
            BadRow::NullVector,
            BadRow::NullElement { element: 1 },
            BadRow::NotANumber { element: 1 },
            BadRow::Infinite { element: 0 },
            BadRow::BeyondF32 { element: 1, value: -1e39 },
            BadRow::WrongLength { expected: 2, got: 1 },
            BadRow::EmptyVector,
        ];
        for metric in Metric::ALL {
            for (row, expected) in expected.iter().enumerate() {
                assert_eq!(check(&column, row, metric).as_ref(), Err(expected), "row {row}, {metric}");
            }
        }
        assert_eq!(check(&column, 7, Metric::Cosine), Err(BadRow::ZeroVector));
        assert_eq!(check(&column, 7, Metric::L2), Ok(vec![0.0, 0.0]));
        for metric in [Metric::L2, Metric::InnerProduct] {
            assert!(matches!(check(&column, 8, metric), Err(BadRow::NormOverflow { .. })));
        }
        assert_eq!(check(&column, 8, Metric::Cosine), Ok(vec![1.0, 0.0]));
        assert_eq!(check(&column, 9, Metric::Cosine), Ok(vec![0.6, 0.8]));
        assert_eq!(check(&column, 9, Metric::InnerProduct), Ok(vec![3.0, 4.0]));
    }

    /// A row that is read is one that an index can be built of.
    #[test]
    fn what_training_refuses_for_its_length_is_refused_when_it_is_read() {
        let longest = MAX_SQUARED_NORM.sqrt() as f32;
        let lengths = [longest / 1.0001, longest * 1.0001, longest * 1.2, longest * 2.0];
        let column = lists::<Float32Type>(lengths.map(|x| Some(vec![Some(x), Some(0.0)])).to_vec());
        for (row, length) in lengths.into_iter().enumerate() {
            let values = [length, 0.0];
            let is_trained =
                crate::train::check_magnitude(crate::vectors::VectorView::new(&values, 2)).is_ok();
            assert_eq!(check(&column, row, Metric::L2).is_ok(), is_trained, "{length:e}");
        }
    }

    #[test]
    fn tiny_and_huge_vectors_have_a_direction_under_cosine() {
        let tiny = f32::from_bits(1); // the smallest subnormal: its square is 0 in f32
        let rows = vec![Some(vec![Some(tiny), Some(tiny)]), Some(vec![Some(f32::MAX), Some(-f32::MAX)])];
        let column = lists::<Float32Type>(rows);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(check(&column, 0, Metric::Cosine), Ok(vec![half, half]));
        assert_eq!(check(&column, 1, Metric::Cosine), Ok(vec![half, -half]));
    }

    #[test]
    fn a_null_row_of_a_fixed_size_list_is_a_null_vector_whatever_lies_under_it() {
        let mut builder = FixedSizeListBuilder::new(Float64Builder::new(), 2);
        for (values, valid) in [([1.0, 2.0], true), ([f64::NAN, 0.0], false), ([5.0, 6.0], true)] {
            builder.values().append_slice(&values);
            builder.append(valid);
        }
        let whole = builder.finish();
        let column: ArrayRef = Arc::new(whole.clone());
        assert_eq!(check(&column, 1, Metric::L2), Err(BadRow::NullVector));
        let sliced: ArrayRef = Arc::new(whole.slice(1, 2));
        assert_eq!(check(&sliced, 0, Metric::L2), Err(BadRow::NullVector));
        assert_eq!(check(&sliced, 1, Metric::L2), Ok(vec![5.0, 6.0]));
    }

    #[test]
    fn element_types_and_sliced_lists_give_the_same_rows() {
        let values = [1.5, -2.25, 0.125, 1024.0, -0.5, 3.0];
        let f16s: PrimitiveArray<Float16Type> = values.iter().map(|&v| Some(f16::from_f64(v))).collect();
        let f64s: PrimitiveArray<Float64Type> = values.iter().map(|&v| Some(v)).collect();
        let f32s: PrimitiveArray<Float32Type> = values.iter().map(|&v| Some(v as f32)).collect();
        let arrays: [ArrayRef; 3] = [Arc::new(f16s), Arc::new(f32s), Arc::new(f64s)];
        for array in arrays {
            let field = Arc::new(arrow_schema::Field::new_list_field(array.data_type().clone(), true));
            let fixed = FixedSizeListArray::new(field.clone(), 2, array.clone(), None);
            let list = ListArray::new(field, OffsetBuffer::from_lengths([2, 2, 2]), array, None);
            let columns: [ArrayRef; 2] = [Arc::new(fixed), Arc::new(list)];
            for column in columns {
                let column = column.slice(1, 2);
                assert_eq!(check(&column, 0, Metric::L2), Ok(vec![0.125, 1024.0]));
                assert_eq!(check(&column, 1, Metric::L2), Ok(vec![-0.5, 3.0]));
            }
        }
        let mut builder = ListBuilder::new(Float64Builder::new());
        builder.append(false);
        let nulls: ArrayRef = Arc::new(builder.finish());
        assert_eq!(VectorColumn::new(&nulls).unwrap().row_len(0), None);
    }
}
