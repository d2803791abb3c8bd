//! Arrow's two Rust implementations, one border: an arrow-rs batch becomes a polars frame without a copy of its
//! buffers, over the Arrow C data interface. Nothing comes back this way: results are read value by value.

use arrow_array::{Array, ArrayRef, RecordBatch, make_array};
use arrow_data::ffi::FFI_ArrowArray;
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType};
use polars::prelude::{Column, DataFrame, PlSmallStr, PolarsResult, Series, polars_err};
use polars_arrow::ffi::{ArrowArray, ArrowSchema, import_array_from_c, import_field_from_c};

const _: () = {
    assert!(size_of::<FFI_ArrowArray>() == size_of::<ArrowArray>());
    assert!(align_of::<FFI_ArrowArray>() == align_of::<ArrowArray>());
    assert!(size_of::<FFI_ArrowSchema>() == size_of::<ArrowSchema>());
    assert!(align_of::<FFI_ArrowSchema>() == align_of::<ArrowSchema>());
};

/// A frame of the same names, rows and values. Types that polars has no counterpart for are its error.
pub(crate) fn to_frame(rows: &RecordBatch) -> PolarsResult<DataFrame> {
    let schema = rows.schema();
    let columns = rows.columns().iter().zip(schema.fields());
    let columns = columns
        .map(|(array, field)| Ok(Column::from(to_series(field.name(), array.as_ref())?)))
        .collect::<PolarsResult<Vec<Column>>>()?;
    DataFrame::new(rows.num_rows(), columns)
}

pub(super) fn to_series(name: &str, array: &dyn Array) -> PolarsResult<Series> {
    let name = PlSmallStr::from_str(name);
    let exported = match array.data_type() {
        // polars knows zones by name only. The instants are the same in any zone.
        DataType::Timestamp(unit, Some(zone)) if zone.starts_with(['+', '-']) => {
            in_zone(array, &DataType::Timestamp(*unit, Some("UTC".into()))).map(|array| array.to_data())
        }
        _ => Ok(array.to_data()),
    };
    let exported = exported.and_then(|data| arrow_array::ffi::to_ffi(&data));
    let (array, schema) = exported.map_err(|error| polars_err!(ComputeError: "{error}"))?;
    // SAFETY: both types are `#[repr(C)]` definitions of the ArrowArray and ArrowSchema structs that the C data
    // interface fixes, field by field; sizes and alignments are compared above. `transmute` moves them, so each
    // has one owner, whose drop calls the producer's release callback once.
    let (array, schema) = unsafe {
        (
            std::mem::transmute::<FFI_ArrowArray, ArrowArray>(array),
            std::mem::transmute::<FFI_ArrowSchema, ArrowSchema>(schema),
        )
    };
    // SAFETY: `schema` and `array` were exported together, from one valid array, by `to_ffi`.
    let array = unsafe {
        let field = import_field_from_c(&schema)?;
        import_array_from_c(array, field.dtype)?
    };
    Series::try_from((name, array))
}

/// The same instants in the time zone of `data_type`, a timestamp of the same unit.
pub(super) fn in_zone(timestamps: &dyn Array, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let relabelled = timestamps.to_data().into_builder().data_type(data_type.clone()).build()?;
    Ok(make_array(relabelled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{BooleanArray, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray};
    use polars::prelude::AnyValue;
    use std::sync::Arc;

    #[test]
    fn values_nulls_and_slices_cross_unchanged_and_outlive_their_source() {
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("x"), None]);
        tags.append_null();
        tags.append_value([Some("y")]);
        tags.append_value::<_, &str>([]);
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(-4)])) as _, true),
            ("s", Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("déjà")])) as _, true),
            ("b", Arc::new(BooleanArray::from(vec![None, Some(true), Some(false), Some(true)])) as _, true),
            ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, -0.0, 1e300])) as _, true),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 1_700_000_000_000_000])) as _, true),
            ("tags", Arc::new(tags.finish()) as _, true),
        ])
        .unwrap();
        let frame = to_frame(&rows.slice(1, 3)).unwrap();
        drop(rows);
        assert_eq!(frame.shape(), (3, 6));
        let value = |column: &str, row: usize| frame.column(column).unwrap().get(row).unwrap().into_static();
        assert_eq!(value("n", 0), AnyValue::Null);
        assert_eq!(value("n", 2), AnyValue::Int32(-4));
        assert_eq!(value("s", 0).get_str(), Some(""));
        assert_eq!(value("s", 1), AnyValue::Null);
        assert_eq!(value("s", 2).get_str(), Some("déjà"));
        assert_eq!(value("b", 0), AnyValue::Boolean(true));
        assert_eq!(value("b", 1), AnyValue::Boolean(false));
        assert_eq!(value("f", 2), AnyValue::Float64(1e300));
        assert_eq!(value("t", 2).to_string(), "2023-11-14 22:13:20");
        assert_eq!(value("tags", 0), AnyValue::Null);
        assert_eq!(value("tags", 1).to_string(), r#"["y"]"#);
        assert_eq!(value("tags", 2).to_string(), "[]");
    }

    #[test]
    fn buffers_are_shared_not_copied_and_released_once() {
        let array = Int32Array::from((0..1000).collect::<Vec<i32>>());
        let address = array.values().as_ptr();
        let series = to_series("n", &array).unwrap();
        assert_eq!(series.i32().unwrap().cont_slice().unwrap().as_ptr(), address);
        let copies = (0..10).map(|_| to_series("n", &array).unwrap()).collect::<Vec<_>>();
        drop(array);
        drop(copies);
        assert_eq!(series.i32().unwrap().get(999), Some(999));
    }
}
