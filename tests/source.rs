//! What a source promises, on Parquet files written here and on real ones.

#![cfg(feature = "polars")]

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use annvil::source::*;
use annvil::store::{Location, LocationError};
use annvil::vectors::{Metric, Neighbor, TopK};
use arrow_array::builder::{
    FixedSizeBinaryBuilder, FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder, StringBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

fn read(spec: SourceSpec) -> Result<Dataset, SourceError> {
    Source::open(spec, RUNTIME.handle())?.read_all(&|_, _| ControlFlow::Continue(()))
}

fn error(spec: SourceSpec) -> String {
    match read(spec) {
        Ok(dataset) => panic!("{} rows were read", dataset.rows()),
        Err(error) => error.to_string(),
    }
}

/// Writes one Parquet file with row groups of at most `group_rows` rows.
fn write(path: impl AsRef<Path>, rows: &RecordBatch, group_rows: usize) -> String {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path.as_ref()).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    path.as_ref().to_str().unwrap().into()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

type Row<'a> = Option<&'a [Option<f32>]>;

fn lists(rows: &[Row<'_>]) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(
        rows.iter().map(|row| row.map(|values| values.to_vec())),
    ))
}

/// `rows × dim` values that differ from each other, as a FixedSizeList of f32.
fn vectors(rows: usize, dim: usize) -> ArrayRef {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), dim as i32);
    for row in 0..rows {
        (0..dim).for_each(|d| builder.values().append_value((row * dim + d) as f32 + 1.0));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn spec(uri: &str) -> SourceSpec {
    SourceSpec { id_column: Some("id".into()), ..SourceSpec::new(uri, "v", Metric::L2) }
}

fn int64s(array: &dyn Array) -> Vec<i64> {
    array.as_primitive::<Int64Type>().values().to_vec()
}

fn strings(array: &dyn Array) -> Vec<Option<String>> {
    let array = arrow_cast::cast(array, &DataType::Utf8).unwrap();
    array.as_string::<i32>().iter().map(|text| text.map(String::from)).collect()
}

// ---------------------------------------------------------------- types

#[test]
fn every_vector_type_gives_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f64> = (0..12).map(|i| f64::from(i) * 0.25 - 1.0).collect();
    let flat = Arc::new(Float64Array::from(values.clone())) as ArrayRef;
    let expected: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    for element in [DataType::Float16, DataType::Float32, DataType::Float64] {
        let flat = arrow_cast::cast(&flat, &element).unwrap();
        let field = Arc::new(Field::new_list_field(element.clone(), true));
        let fixed: ArrayRef = Arc::new(FixedSizeListArray::new(field.clone(), 3, flat, None));
        let types =
            [fixed.data_type().clone(), DataType::List(field.clone()), DataType::LargeList(field.clone())];
        for data_type in types {
            let column = arrow_cast::cast(&fixed, &data_type).unwrap();
            let uri = write(folder.path().join("v.parquet"), &batch(vec![("v", column)]), 3);
            let source = Source::open(SourceSpec::new(&uri, "v", Metric::L2), RUNTIME.handle()).unwrap();
            let is_fixed = matches!(data_type, DataType::FixedSizeList(..));
            assert_eq!(source.dim(), is_fixed.then_some(3), "{data_type}");
            assert_eq!(source.rows_upper_bound(), 4);
            let dataset = source.read_all(&|_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(dataset.vectors.view().as_slice(), expected, "{data_type}");
            assert_eq!(int64s(&dataset.ids), [0, 1, 2, 3]);
        }
    }
}

#[test]
fn every_id_type_is_widened_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut uuids = FixedSizeBinaryBuilder::new(16);
    (1u8..4).for_each(|byte| uuids.append_value([byte; 16]).unwrap());
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "", "déjà"]));
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let cases: Vec<(ArrayRef, DataType)> = vec![
        (Arc::new(Int8Array::from(vec![1, -2, 3])), DataType::Int64),
        (Arc::new(Int32Array::from(vec![1, -2, i32::MAX])), DataType::Int64),
        (Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX])), DataType::Int64),
        (Arc::new(UInt32Array::from(vec![1, 2, u32::MAX])), DataType::UInt64),
        (Arc::new(UInt64Array::from(vec![1, 2, u64::MAX])), DataType::UInt64),
        (text.clone(), DataType::Utf8),
        (arrow_cast::cast(&text, &DataType::LargeUtf8).unwrap(), DataType::Utf8),
        (arrow_cast::cast(&text, &DataType::Utf8View).unwrap(), DataType::Utf8),
        (arrow_cast::cast(&text, &dictionary).unwrap(), DataType::Utf8),
        (Arc::new(uuids.finish()), DataType::FixedSizeBinary(16)),
    ];
    for (ids, canonical) in cases {
        let rows = batch(vec![("id", ids.clone()), ("v", vectors(3, 2))]);
        let dataset = read(spec(&write(folder.path().join("ids.parquet"), &rows, 2))).unwrap();
        assert_eq!(dataset.ids.data_type(), &canonical);
        assert_eq!(&dataset.ids, &arrow_cast::cast(&ids, &canonical).unwrap(), "{}", ids.data_type());
    }
}

#[test]
fn attributes_of_every_supported_type_survive_and_are_summarised() {
    let folder = tempfile::tempdir().unwrap();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("x"), None]);
    tags.append_null();
    tags.append_value::<_, &str>([]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("v", vectors(3, 2)),
        ("i8", Arc::new(Int8Array::from(vec![Some(-3), None, Some(5)]))),
        ("u64", Arc::new(UInt64Array::from(vec![7, 7, u64::MAX]))),
        ("f32", Arc::new(Float32Array::from(vec![0.5, 0.5, -1.5]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(true), None]))),
        ("text", Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]))),
        ("day", Arc::new(Date32Array::from(vec![0, 19_723, 1]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 1, 86_400_000]).with_timezone("+02:00"))),
        ("tags", Arc::new(tags.finish())),
        ("none", Arc::new(Int64Array::from(vec![None, None, None]))),
    ];
    let names: Vec<String> = columns[1..].iter().map(|(name, _)| name.to_string()).collect();
    let rows = batch(columns);
    let uri = write(folder.path().join("a.parquet"), &rows, 2);
    let dataset = read(SourceSpec {
        attribute_columns: names.iter().rev().cloned().collect(),
        ..SourceSpec::new(&uri, "v", Metric::L2)
    })
    .unwrap();
    assert_eq!(dataset.attributes.num_columns(), names.len());
    for (index, name) in names.iter().rev().enumerate() {
        assert_eq!(dataset.attributes.schema().field(index).name(), name);
        assert_eq!(dataset.attributes.column(index), rows.column_by_name(name).unwrap(), "{name}");
    }
    let summaries = dataset.attribute_summary().unwrap();
    let summary = |name: &str| {
        let found = summaries.iter().find(|summary| summary.name == name).unwrap();
        (found.nulls, found.distinct, found.min.as_deref(), found.max.as_deref())
    };
    assert_eq!(summary("i8"), (1, Some(2), Some("-3"), Some("5")));
    assert_eq!(summary("u64"), (0, Some(2), Some("7"), Some("18446744073709551615")));
    assert_eq!(summary("f32"), (0, Some(2), Some("-1.5"), Some("0.5")));
    assert_eq!(summary("flag"), (1, Some(1), None, None));
    assert_eq!(summary("text"), (1, Some(1), None, None));
    assert_eq!(summary("day"), (0, Some(3), Some("1970-01-01"), Some("2024-01-01")));
    assert_eq!(summary("at").1, Some(3));
    assert_eq!(summary("tags"), (1, None, None, None));
    assert_eq!(summary("none"), (3, Some(0), None, None));
}

#[test]
fn attribute_encodings_are_brought_to_one_type_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    for (file, data_type) in
        [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary].iter().enumerate()
    {
        let column = arrow_cast::cast(&text, data_type).unwrap();
        let rows = batch(vec![("v", vectors(3, 2)), ("text", column)]);
        write(folder.path().join(format!("{file}.parquet")), &rows, 10);
    }
    let uri = folder.path().to_str().unwrap();
    let dataset = read(SourceSpec {
        attribute_columns: vec!["text".into()],
        predicate: Some("text <> 'b'".into()),
        ..SourceSpec::new(uri, "v", Metric::L2)
    })
    .unwrap();
    assert_eq!(dataset.attributes.column(0).data_type(), &DataType::Utf8);
    assert_eq!(strings(dataset.attributes.column(0)), vec![Some("a".to_string()); 4]);
    assert_eq!(int64s(&dataset.ids), [0, 3, 6, 9]);
}

// ---------------------------------------------------------------- bad rows

/// Rows by place, with the reason each should be rejected for under cosine.
fn bad_rows() -> (Vec<Row<'static>>, Vec<Option<i64>>, Vec<Option<&'static str>>) {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let rows: Vec<(Row<'static>, Option<i64>, Option<&'static str>)> = vec![
        (Some(&[Some(3.0), Some(4.0)]), Some(1), None),
        (None, Some(2), Some("null_vector")),
        (Some(&[Some(1.0), None]), Some(3), Some("null_element")),
        (Some(&[Some(NAN), Some(1.0)]), Some(4), Some("nan")),
        (Some(&[Some(1.0), Some(-INF)]), Some(5), Some("infinite")),
        (Some(&[Some(1.0)]), Some(6), Some("wrong_length")),
        (Some(&[]), Some(7), Some("empty_vector")),
        (Some(&[Some(0.0), Some(-0.0)]), Some(8), Some("zero_vector")),
        (Some(&[Some(1.0), Some(1.0)]), None, Some("null_id")),
        (Some(&[Some(1.0), Some(2.0)]), Some(1), Some("duplicate_id")),
        // A bad row does not take its id: the next row with id 4 is the first good one.
        (Some(&[Some(0.0), Some(2.0)]), Some(4), None),
        (Some(&[Some(5.0), Some(0.0)]), Some(4), Some("duplicate_id")),
        (Some(&[Some(-8.0), Some(6.0)]), Some(99), None),
    ];
    (
        rows.iter().map(|row| row.0).collect(),
        rows.iter().map(|row| row.1).collect(),
        rows.iter().map(|row| row.2).collect(),
    )
}

#[test]
fn skipped_rows_stand_in_the_rejects_file_with_place_id_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, ids, reasons) = bad_rows();
    let (files, group_rows) = (2, 3);
    let per_file = rows.len().div_ceil(files);
    let mut expected = Vec::new();
    let mut uris = Vec::new();
    for file in 0..files {
        let range = file * per_file..((file + 1) * per_file).min(rows.len());
        let part = batch(vec![
            ("id", Arc::new(Int64Array::from(ids[range.clone()].to_vec()))),
            ("v", lists(&rows[range.clone()])),
        ]);
        let uri = write(folder.path().join(format!("{file}.parquet")), &part, group_rows);
        for (place, row) in range.enumerate() {
            if let Some(reason) = reasons[row] {
                let place = ((place / group_rows) as u32, (place % group_rows) as u64);
                expected.push((uri.clone(), place, ids[row].map(|id| id.to_string()), reason.to_string()));
            }
        }
        uris.push(uri);
    }
    let skip = SourceSpec { uris, on_bad_row: OnBadRow::Skip, metric: Metric::Cosine, ..spec("") };
    let dataset = read(skip).unwrap();
    assert_eq!(int64s(&dataset.ids), [1, 4, 99]);
    assert_eq!(dataset.vectors.view().as_slice(), [0.6, 0.8, 0.0, 1.0, -0.8, 0.6]);
    assert_eq!((dataset.counts.read, dataset.counts.kept, dataset.counts.filtered_out), (13, 3, 0));
    assert_eq!(dataset.counts.rejected["duplicate_id"], 2);
    assert_eq!(dataset.counts.rejected_total(), 10);

    // Read the rejects back as anyone would: from the Parquet bytes.
    let bytes = write_rejects(dataset.rejects.as_ref().unwrap()).unwrap();
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes));
    let batches: Vec<RecordBatch> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
    let rejects = arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap();
    let column = |name: &str| rejects.column_by_name(name).unwrap();
    let found: Vec<_> = (0..rejects.num_rows())
        .map(|row| {
            let group = column("row_group").as_primitive::<UInt32Type>().value(row);
            let place = column("row").as_primitive::<UInt64Type>().value(row);
            let text = |name| strings(&column(name).slice(row, 1)).remove(0);
            (text("file").unwrap(), (group, place), text("id"), text("reason").unwrap())
        })
        .collect();
    assert_eq!(found, expected);
    assert!(strings(column("detail"))[2].as_ref().unwrap().contains("element 0 of the vector is NaN"));
}

#[test]
fn a_bad_row_fails_the_reading_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, ids, reasons) = bad_rows();
    for (row, reason) in reasons.iter().enumerate().filter_map(|(row, reason)| Some((row, (*reason)?))) {
        // Two good rows, the good ones that an id may clash with, then the bad one, in row group 1.
        let chosen: Vec<usize> = vec![0, 10, 12, row];
        let part = batch(vec![
            ("id", Arc::new(Int64Array::from_iter(chosen.iter().map(|&row| ids[row])))),
            ("v", lists(&chosen.iter().map(|&row| rows[row]).collect::<Vec<_>>())),
        ]);
        let uri = write(folder.path().join("bad.parquet"), &part, 2);
        let failed = read(SourceSpec { metric: Metric::Cosine, ..spec(&uri) });
        match failed {
            Err(SourceError::BadRow { file, row_group, row: place, id, reason: found }) => {
                // Row 3 is a NaN row with the id of row 10; its vector is looked at first.
                assert_eq!((file.as_str(), row_group, place, found.name()), (uri.as_str(), 1, 1, reason));
                assert_eq!(id, ids[row].map(|id| id.to_string()));
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn norms_beyond_f32_are_bad_where_distances_would_overflow() {
    let folder = tempfile::tempdir().unwrap();
    let huge = 1.5e19f32; // its square fits an f32, four times its square does not
    let rows = batch(vec![("v", lists(&[Some(&[Some(1.0), Some(0.0)]), Some(&[Some(huge), Some(0.0)])]))]);
    let uri = write(folder.path().join("huge.parquet"), &rows, 10);
    for metric in [Metric::L2, Metric::InnerProduct] {
        let failed = error(SourceSpec::new(&uri, "v", metric));
        assert!(failed.contains("row group 0, row 1") && failed.contains("squared norm"), "{failed}");
    }
    let dataset = read(SourceSpec::new(&uri, "v", Metric::Cosine)).unwrap();
    assert_eq!(dataset.vectors.row(1), [1.0, 0.0]);
}

#[test]
fn string_and_uuid_duplicates_are_found_across_files_and_the_first_row_wins() {
    let folder = tempfile::tempdir().unwrap();
    let uuids = |bytes: &[u8]| -> ArrayRef {
        let mut builder = FixedSizeBinaryBuilder::new(16);
        bytes.iter().for_each(|&byte| builder.append_value([byte; 16]).unwrap());
        Arc::new(builder.finish())
    };
    let text = |ids: &[&str]| -> ArrayRef { Arc::new(StringArray::from(ids.to_vec())) };
    for (first, second) in [(text(&["a", "b"]), text(&["b", "c"])), (uuids(&[1, 2]), uuids(&[2, 3]))] {
        write(folder.path().join("1.parquet"), &batch(vec![("id", first), ("v", vectors(2, 1))]), 9);
        let two = batch(vec![("id", second), ("v", lists(&[Some(&[Some(7.0)]), Some(&[Some(8.0)])]))]);
        write(folder.path().join("2.parquet"), &two, 9);
        let all = folder.path().join("*.parquet");
        let skip = SourceSpec { on_bad_row: OnBadRow::Skip, ..spec(all.to_str().unwrap()) };
        let dataset = read(skip).unwrap();
        // FixedSizeList(1) in one file, List in the other: one dimension.
        assert_eq!(dataset.vectors.view().as_slice(), [1.0, 2.0, 8.0]);
        assert_eq!(dataset.counts.rejected["duplicate_id"], 1);
        let failed = error(spec(all.to_str().unwrap()));
        assert!(failed.contains("2.parquet") && failed.contains("same id"), "{failed}");
    }
}

#[test]
fn a_broken_first_row_does_not_decide_the_dimension() {
    let folder = tempfile::tempdir().unwrap();
    let good: Row<'_> = Some(&[Some(1.0), Some(2.0)]);
    let rows = batch(vec![("v", lists(&[None, Some(&[Some(9.0)]), good, good]))]);
    let uri = write(folder.path().join("v.parquet"), &rows, 10);
    let skip = SourceSpec { on_bad_row: OnBadRow::Skip, ..SourceSpec::new(&uri, "v", Metric::L2) };
    let dataset = read(skip.clone()).unwrap();
    assert_eq!((dataset.vectors.dim(), int64s(&dataset.ids)), (2, vec![2, 3]));
    assert_eq!(dataset.counts.rejected["wrong_length"], 1);
    // Unless the job says what it is.
    let dataset = read(SourceSpec { dim: Some(1), ..skip }).unwrap();
    assert_eq!((dataset.vectors.dim(), int64s(&dataset.ids)), (1, vec![1]));
}

// ---------------------------------------------------------------- predicates

#[test]
fn the_predicate_filters_before_rows_are_checked_and_may_use_columns_that_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bad: Row<'_> = Some(&[Some(f32::NAN)]);
    let rows: Vec<Row<'_>> =
        vec![Some(&[Some(0.0)]), bad, Some(&[Some(2.0)]), Some(&[Some(3.0)]), bad, Some(&[Some(5.0)])];
    let columns = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![10, 11, 10, 13, 14, 15])) as ArrayRef),
        ("v", lists(&rows)),
        ("lang", Arc::new(StringArray::from(vec!["de", "de", "en", "en", "en", "en"]))),
        (
            "year",
            Arc::new(Int32Array::from(vec![Some(2020), None, Some(2020), Some(2024), None, Some(2025)])),
        ),
        ("title", Arc::new(StringArray::from(vec!["a", "b", "c", "d", "e", "f"]))),
    ]);
    let uri = write(folder.path().join("p.parquet"), &columns, 2);
    let filtered = SourceSpec {
        predicate: Some("lang = 'en' AND year BETWEEN 2020 AND 2024".into()),
        attribute_columns: vec!["title".into()],
        ..spec(&uri)
    };
    // Row 0 has row 2's id and rows 1 and 4 are NaN: all filtered out, so no error.
    let dataset = read(filtered.clone()).unwrap();
    assert_eq!(int64s(&dataset.ids), [10, 13]);
    assert_eq!(dataset.vectors.view().as_slice(), [2.0, 3.0]);
    assert_eq!(strings(dataset.attributes.column(0)), [Some("c".into()), Some("d".into())]);
    assert_eq!(dataset.attributes.num_columns(), 1);
    assert_eq!((dataset.counts.read, dataset.counts.filtered_out, dataset.counts.kept), (6, 4, 2));
    // Row numbers count rows that are filtered out: they name rows of the files.
    let numbered = SourceSpec { id_column: None, ..filtered };
    assert_eq!(int64s(&read(numbered.clone()).unwrap().ids), [2, 3]);
    let by_id = SourceSpec { predicate: Some("id >= 13 AND id <> 14".into()), ..spec(&uri) };
    assert_eq!(int64s(&read(by_id).unwrap().ids), [13, 15]);

    let nothing = error(SourceSpec { predicate: Some("year = 1".into()), ..numbered.clone() });
    assert!(nothing.contains("6 filtered out") && nothing.contains("6 read"), "{nothing}");
    for (predicate, says) in [
        ("yaer > 3", "`title` Utf8"),
        ("lang = ", "predicate"),
        ("year + 1", "boolean"),
        ("year > MAX(year)", "one row"),
        ("v = 3", "the predicate must be"),
    ] {
        let failed = Source::open(
            SourceSpec { predicate: Some(predicate.into()), ..numbered.clone() },
            RUNTIME.handle(),
        );
        let failed = failed.err().expect(predicate).to_string();
        assert!(failed.contains(says), "`{predicate}`: {failed}");
    }
}

#[test]
fn uuids_are_text_to_the_predicate() {
    let folder = tempfile::tempdir().unwrap();
    let mut uuids = FixedSizeBinaryBuilder::new(16);
    (1u8..4).for_each(|byte| uuids.append_value([byte; 16]).unwrap());
    let rows = batch(vec![("id", Arc::new(uuids.finish())), ("v", vectors(3, 1))]);
    let uri = write(folder.path().join("u.parquet"), &rows, 9);
    let predicate = "id <> '02020202-0202-0202-0202-020202020202'";
    let dataset = read(SourceSpec { predicate: Some(predicate.into()), ..spec(&uri) }).unwrap();
    assert_eq!(dataset.vectors.view().as_slice(), [1.0, 3.0]);
    assert_eq!(dataset.ids.data_type(), &DataType::FixedSizeBinary(16));
}

// ---------------------------------------------------------------- files

#[test]
fn folders_and_patterns_name_files_in_order_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let names =
        ["b.parquet", "a.parquet", "sub/c.parquet", "sub/deep/d.parquet", "[x].parquet", "_tmp/e.parquet"];
    for (value, name) in names.iter().enumerate() {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        write(root.join(name), &batch(vec![("v", lists(&[Some(&[Some(value as f32)])]))]), 9);
    }
    std::fs::write(root.join("readme.txt"), "not Parquet").unwrap();
    std::fs::write(root.join(".hidden.parquet"), "not Parquet").unwrap();
    let values = |uris: &[&str]| -> Vec<f32> {
        let uris = uris.iter().map(|uri| format!("{}/{uri}", root.display())).collect();
        let dataset = read(SourceSpec { uris, ..SourceSpec::new("", "v", Metric::L2) }).unwrap();
        dataset.vectors.into_vec()
    };
    assert_eq!(values(&["*.parquet"]), [4.0, 1.0, 0.0]);
    assert_eq!(values(&["[ab].parquet"]), [1.0, 0.0]);
    assert_eq!(values(&["?.parquet"]), [1.0, 0.0]);
    assert_eq!(values(&["[x].parquet"]), [4.0]);
    assert_eq!(values(&["sub/*"]), [2.0]);
    assert_eq!(values(&["s*/d*/d.parquet"]), [3.0]);
    assert_eq!(values(&["sub/**/*.parquet"]), [2.0, 3.0]);
    assert_eq!(values(&["sub"]), [2.0, 3.0]);
    assert_eq!(values(&[""]), [4.0, 1.0, 0.0, 2.0, 3.0]);
    assert_eq!(values(&["b.parquet", "*.parquet", "sub/../a.parquet"]), [0.0, 4.0, 1.0]);
    let absolute = format!("file://{}/b.parquet", root.display());
    assert_eq!(read(SourceSpec::new(&absolute, "v", Metric::L2)).unwrap().vectors.into_vec(), [0.0]);

    for (uri, says) in [
        ("*.orc", "a.parquet"),
        ("nowhere/*.parquet", "holds nothing"),
        ("nowhere.parquet", "neither a file nor a folder"),
        ("a[.parquet", "no valid pattern"),
        ("***.parquet", "no valid pattern"),
        ("readme.txt", "no readable Parquet"),
    ] {
        let failed = error(SourceSpec::new(&format!("{}/{uri}", root.display()), "v", Metric::L2));
        assert!(failed.contains(uri) && failed.contains(says), "`{uri}`: {failed}");
    }
    std::fs::create_dir(root.join("text")).unwrap();
    std::fs::write(root.join("text/data.csv"), "").unwrap();
    let failed = error(SourceSpec::new(&format!("{}/text", root.display()), "v", Metric::L2));
    assert!(failed.contains("only data.csv"), "{failed}");
    let failed = error(SourceSpec { uris: vec![], ..SourceSpec::new("", "v", Metric::L2) });
    assert!(failed.contains("no input files"), "{failed}");
    let failed = error(SourceSpec::new("ftp://host/*.parquet", "v", Metric::L2));
    assert!(failed.contains("`ftp`"), "{failed}");
}

#[test]
fn a_memory_store_is_read_like_any_other() {
    use object_store::ObjectStoreExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.parquet");
    write(&path, &batch(vec![("v", vectors(10, 3))]), 4);
    let bytes = std::fs::read(path).unwrap();
    for name in ["part/2.parquet", "part/1.parquet"] {
        let location = Location::parse(&format!("memory://source-test/{name}")).unwrap();
        RUNTIME.block_on(location.store().put(location.path(), bytes.clone().into())).unwrap();
    }
    for uri in ["memory://source-test/part/*.parquet", "memory://source-test/part", "memory://source-test/**"]
    {
        let source = Source::open(SourceSpec::new(uri, "v", Metric::L2), RUNTIME.handle()).unwrap();
        let inputs: Vec<(&str, u64)> =
            source.inputs().iter().map(|input| (input.uri.as_str(), input.rows)).collect();
        assert_eq!(
            inputs,
            [("memory://source-test/part/1.parquet", 10), ("memory://source-test/part/2.parquet", 10)]
        );
        assert!(source.inputs().iter().all(|input| input.e_tag.is_some()));
        assert_eq!(source.read_all(&|_, _| ControlFlow::Continue(())).unwrap().rows(), 20);
    }
}

#[test]
fn columns_that_are_missing_or_of_a_wrong_type_are_named_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("v", vectors(2, 4)),
        ("price", Arc::new(Decimal128Array::from(vec![1, 2]))),
        ("blob", Arc::new(BinaryArray::from(vec![&b"a"[..], b"b"]))),
        ("score", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
    ]);
    let uri = write(folder.path().join("t.parquet"), &rows, 9);
    let attribute = |name: &str| SourceSpec { attribute_columns: vec![name.into()], ..spec(&uri) };
    let cases: Vec<(SourceSpec, &[&str])> = vec![
        (
            SourceSpec { vector_column: "embedding".into(), ..spec(&uri) },
            &["`embedding`", "`v` FixedSizeList", "vectors"],
        ),
        (
            SourceSpec { vector_column: "id".into(), ..spec(&uri) },
            &["`id`", "FixedSizeList or List", "Int64"],
        ),
        (SourceSpec { id_column: Some("key".into()), ..spec(&uri) }, &["`key`", "ids", "`id` Int64"]),
        (SourceSpec { id_column: Some("score".into()), ..spec(&uri) }, &["`score`", "UUID", "Float64"]),
        (attribute("nothing"), &["`nothing`", "attribute"]),
        (attribute("price"), &["`price`", "Decimal"]),
        (attribute("blob"), &["`blob`", "Binary"]),
        (attribute("v"), &["`v`", "list of strings"]),
        (SourceSpec { attribute_columns: vec!["id".into(), "id".into()], ..spec(&uri) }, &["`id`", "twice"]),
        (SourceSpec { dim: Some(3), ..spec(&uri) }, &["expected 3-dimensional", "got 4"]),
        (SourceSpec { dim: Some(0), vector_column: "v".into(), ..spec(&uri) }, &["expected 0"]),
    ];
    for (spec, says) in cases {
        let failed = Source::open(spec, RUNTIME.handle()).err().expect("opened").to_string();
        assert!(failed.contains("t.parquet") || failed.contains("twice"), "{failed}");
        says.iter().for_each(|part| assert!(failed.contains(part), "{part}: {failed}"));
    }
}

#[test]
fn files_that_disagree_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let one = batch(vec![("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef), ("v", vectors(1, 2))]);
    write(folder.path().join("1.parquet"), &one, 9);
    let uri = folder.path().to_str().unwrap().to_string();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let number: ArrayRef = Arc::new(Int32Array::from(vec![2]));
    for (second, says) in [
        (batch(vec![("id", text), ("v", vectors(1, 2))]), "Utf8"),
        (batch(vec![("id", number.clone()), ("v", vectors(1, 3))]), "expected 2-dimensional vectors, got 3"),
        (batch(vec![("id", number.clone())]), "no column `v`"),
    ] {
        write(folder.path().join("2.parquet"), &second, 9);
        let failed = error(spec(&uri));
        assert!(failed.contains("2.parquet") && failed.contains(says), "{failed}");
    }
    // Int32 beside Int64 is no disagreement: both become Int64.
    write(folder.path().join("2.parquet"), &batch(vec![("id", number), ("v", vectors(1, 2))]), 9);
    assert_eq!(int64s(&read(spec(&uri)).unwrap().ids), [1, 2]);
}

#[test]
fn empty_inputs_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let none =
        batch(vec![("id", Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef), ("v", vectors(0, 2))]);
    let uri = write(folder.path().join("none.parquet"), &none, 9);
    let failed = error(spec(&uri));
    assert!(failed.contains("no rows") && failed.contains("none.parquet"), "{failed}");
    let bad = batch(vec![("v", lists(&[None, Some(&[]), Some(&[Some(f32::NAN)])]))]);
    let uri = write(folder.path().join("bad.parquet"), &bad, 1);
    let skip = SourceSpec { on_bad_row: OnBadRow::Skip, ..SourceSpec::new(&uri, "v", Metric::L2) };
    let failed = error(skip);
    assert!(failed.contains("3 rejected (empty_vector: 1, nan: 1, null_vector: 1)"), "{failed}");
    let nulls = batch(vec![("v", lists(&[None, None]))]);
    let uri = write(folder.path().join("nulls.parquet"), &nulls, 1);
    let skip = SourceSpec { on_bad_row: OnBadRow::Skip, ..SourceSpec::new(&uri, "v", Metric::L2) };
    assert!(error(skip).contains("null_vector: 2"));
}

// ---------------------------------------------------------------- damage

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.parquet");
    let words = (0..300).map(|i| Some(format!("word {}", i % 17))).collect::<StringArray>();
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..300)) as ArrayRef),
        ("v", vectors(300, 4)),
        ("word", Arc::new(words)),
    ]);
    let uri = write(&path, &rows, 100);
    let whole = std::fs::read(&path).unwrap();
    let spec =
        SourceSpec { attribute_columns: vec!["word".into()], on_bad_row: OnBadRow::Skip, ..spec(&uri) };
    let intact = read(spec.clone()).unwrap().digest();
    for length in (0..whole.len()).step_by(97).chain(whole.len() - 16..whole.len()) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let failed = read(spec.clone()).err().unwrap_or_else(|| panic!("{length} bytes were read"));
        assert!(failed.to_string().contains("d.parquet"), "{failed}");
    }
    // Parquet has no checksum that writers use by default, so a flipped bit may pass as other data; but what it
    // makes is rows or an error, and the decoder's own assertions do not escape.
    let mut differing = 0;
    for position in (0..whole.len()).step_by(std::env::var("STEP").map_or(11, |s| s.parse().unwrap())) {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (position % 8);
        std::fs::write(&path, &damaged).unwrap();
        match read(spec.clone()) {
            Ok(dataset) => differing += usize::from(dataset.digest() != intact),
            Err(error) => {
                differing += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(differing > 0, "flipped bits were not read at all");
}

#[test]
fn a_file_replaced_between_footer_and_data_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.parquet");
    let uri = write(&path, &batch(vec![("v", vectors(50, 4))]), 10);
    let source = Source::open(SourceSpec::new(&uri, "v", Metric::L2), RUNTIME.handle()).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(&path, &batch(vec![("v", vectors(51, 4))]), 10);
    match source.read_all(&|_, _| ControlFlow::Continue(())) {
        Err(SourceError::Location(LocationError::Changed { uri: changed })) => assert_eq!(changed, uri),
        other => panic!("{:?}", other.map(|dataset| dataset.rows())),
    }
}

// ---------------------------------------------------------------- streaming

#[test]
fn reading_ahead_is_bounded_and_stops_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.parquet");
    // One row group of 64 MiB that does not compress: pyarrow writes such by default.
    let (rows, dim) = (1 << 17, 128);
    let mut random = annvil::vectors::Random::new(1);
    let values =
        (0..rows * dim).map(|_| f32::from_bits((random.next_u64() as u32 & 0x007f_ffff) | 0x3f00_0000));
    let element = Arc::new(Field::new_list_field(DataType::Float32, false));
    let column =
        FixedSizeListArray::new(element, dim as i32, Arc::new(Float32Array::from_iter_values(values)), None);
    let uri = write(&path, &batch(vec![("v", Arc::new(column))]), usize::MAX);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size > 60 << 20);

    let mut batches =
        Source::open(SourceSpec::new(&uri, "v", Metric::L2), RUNTIME.handle()).unwrap().batches().unwrap();
    let first = batches.next().unwrap().unwrap();
    assert!(first.vectors.rows() * dim * 4 <= 4 << 20);
    let mut read = 0;
    loop {
        std::thread::sleep(std::time::Duration::from_millis(100));
        if batches.bytes_read() == read {
            break;
        }
        read = batches.bytes_read();
    }
    assert!(read <= 28 << 20, "{read} of {size} bytes were read ahead of a consumer that waits");
    drop(batches);

    let rows_told = std::cell::Cell::new(0);
    let source = Source::open(SourceSpec::new(&uri, "v", Metric::L2), RUNTIME.handle()).unwrap();
    let cancelled = source.read_all(&|rows, bytes| {
        assert!(rows > rows_told.get() && bytes > 0 && bytes <= size);
        rows_told.set(rows);
        if rows > 20_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(cancelled, Err(SourceError::Cancelled)));
    assert!(rows_told.get() < 40_000);
}

#[derive(Debug, Clone)]
struct Generated {
    vector: Option<Vec<Option<f32>>>,
    id: Option<i64>,
    year: Option<i32>,
}

fn generated_row() -> impl Strategy<Value = Generated> {
    let element = prop_oneof![
        20 => (-100i32..100).prop_map(|value| Some(value as f32 * 0.5)),
        1 => Just(None),
        1 => Just(Some(f32::NAN)),
        1 => Just(Some(f32::NEG_INFINITY)),
        1 => Just(Some(0.0)),
    ];
    let vector = prop_oneof![
        20 => prop::collection::vec(element.clone(), 3),
        1 => prop::collection::vec(element, 0..5),
    ];
    let id = prop_oneof![10 => (0i64..200).prop_map(Some), 1 => Just(None)];
    (prop::option::weighted(0.95, vector), id, prop::option::weighted(0.9, 2018..2026))
        .prop_map(|(vector, id, year)| Generated { vector, id, year })
}

/// What should become of each row: kept, filtered out, or rejected; by the definition.
fn expected_rows(rows: &[Generated], metric: Metric) -> (Vec<usize>, usize, usize) {
    let (mut kept, mut filtered, mut rejected) = (Vec::new(), 0, 0);
    let mut taken = HashSet::new();
    for (index, row) in rows.iter().enumerate() {
        if row.year.is_none_or(|year| year < 2020) {
            filtered += 1;
            continue;
        }
        let good = row.vector.as_ref().is_some_and(|vector| {
            vector.len() == 3
                && vector.iter().all(|value| value.is_some_and(f32::is_finite))
                && (metric != Metric::Cosine || vector.iter().any(|value| *value != Some(0.0)))
        });
        if good && row.id.is_some_and(|id| taken.insert(id)) { kept.push(index) } else { rejected += 1 }
    }
    (kept, filtered, rejected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_kept_in_order_or_filtered_or_rejected_however_the_files_are_cut(
        rows in prop::collection::vec(generated_row(), 1..120),
        cuts in prop::collection::vec(0.0f64..1.0, 0..4),
        group_rows in 1usize..50,
        metric in prop::sample::select(Metric::ALL.to_vec()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let table = batch(vec![
            ("id", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.id))) as ArrayRef),
            ("year", Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.year)))),
            ("n", Arc::new(UInt32Array::from_iter_values(0..rows.len() as u32))),
            ("v", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows.iter().map(|row| row.vector.clone())))),
        ]);
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| (cut * rows.len() as f64) as usize).collect();
        bounds.extend([0, rows.len()]);
        bounds.sort_unstable();
        for (file, pair) in bounds.windows(2).enumerate() {
            let part = table.slice(pair[0], pair[1] - pair[0]);
            write(folder.path().join(format!("{file}.parquet")), &part, group_rows);
        }
        let spec = SourceSpec {
            attribute_columns: vec!["n".into()],
            predicate: Some("year >= 2020".into()),
            on_bad_row: OnBadRow::Skip,
            dim: Some(3),
            metric,
            ..spec(folder.path().to_str().unwrap())
        };
        let (kept, filtered, rejected) = expected_rows(&rows, metric);
        let dataset = match read(spec) {
            Ok(dataset) => dataset,
            Err(SourceError::NothingKept { .. }) => {
                prop_assert!(kept.is_empty());
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        let counts = &dataset.counts;
        prop_assert_eq!((counts.read, counts.kept), (rows.len() as u64, kept.len() as u64));
        prop_assert_eq!((counts.filtered_out, counts.rejected_total()), (filtered as u64, rejected as u64));
        prop_assert_eq!(dataset.rejects.as_ref().map_or(0, RecordBatch::num_rows), rejected);
        let numbers = dataset.attributes.column(0).as_primitive::<UInt32Type>().values();
        prop_assert_eq!(numbers.iter().map(|&n| n as usize).collect::<Vec<_>>(), kept.clone());
        let ids: Vec<i64> = kept.iter().map(|&row| rows[row].id.unwrap()).collect();
        prop_assert_eq!(int64s(&dataset.ids), ids);
        for (ordinal, &row) in kept.iter().enumerate() {
            let vector: Vec<f32> = rows[row].vector.as_ref().unwrap().iter().map(|value| value.unwrap()).collect();
            let norm = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let vector = match metric {
                Metric::Cosine => vector.iter().map(|&value| (f64::from(value) / norm) as f32).collect(),
                _ => vector,
            };
            prop_assert_eq!(dataset.vectors.row(ordinal), &vector[..]);
        }
    }
}

// ---------------------------------------------------------------- queries and ground truth

#[test]
fn ground_truth_is_checked_and_follows_the_queries_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("truth.parquet");
    let neighbors = |rows: &[&[Option<i64>]]| -> ArrayRef {
        let mut builder = ListBuilder::new(Int64Builder::new());
        rows.iter().for_each(|row| builder.append_value(row.iter().copied()));
        Arc::new(builder.finish())
    };
    let ids = |ids: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(ids.to_vec())) };
    let good = batch(vec![
        ("query_id", ids(&[7, 8, 9])),
        ("neighbors", neighbors(&[&[Some(1), Some(2)], &[Some(3), Some(4)], &[Some(5), Some(6)]])),
        (
            "distances",
            lists(&[
                Some(&[Some(0.1), Some(0.2)]),
                Some(&[Some(0.3), Some(0.4)]),
                Some(&[Some(0.5), Some(0.6)]),
            ]),
        ),
    ]);
    let uri = write(&path, &good, 2);
    let truth = read_ground_truth(&uri, RUNTIME.handle()).unwrap();
    assert_eq!((truth.k, int64s(&truth.query_ids)), (2, vec![7, 8, 9]));
    let asked = truth.for_queries(&Int64Array::from(vec![9, 7])).unwrap();
    assert_eq!(int64s(&asked.neighbors), [5, 6, 1, 2]);
    assert_eq!(asked.distances.unwrap(), [0.5, 0.6, 0.1, 0.2]);
    assert!(truth.for_queries(&Int64Array::from(vec![10])).unwrap_err().to_string().contains("query 10"));
    assert!(truth.for_queries(&StringArray::from(vec!["7"])).unwrap_err().to_string().contains("Utf8"));

    for (rows, says) in [
        (vec![("query_id", ids(&[1])), ("nearest", neighbors(&[&[Some(1)]]))], "`neighbors`"),
        (vec![("neighbors", neighbors(&[&[Some(1)]]))], "`query_id`"),
        (
            vec![("query_id", ids(&[1, 2])), ("neighbors", neighbors(&[&[Some(1)], &[Some(1), Some(2)]]))],
            "1 and 2",
        ),
        (vec![("query_id", ids(&[1])), ("neighbors", neighbors(&[&[None]]))], "null"),
        (vec![("query_id", ids(&[1])), ("neighbors", neighbors(&[&[]]))], "empty"),
        (
            vec![
                ("query_id", ids(&[1])),
                ("neighbors", neighbors(&[&[Some(1)]])),
                ("distances", lists(&[Some(&[Some(f32::NAN)])])),
            ],
            "not finite",
        ),
    ] {
        let uri = write(&path, &batch(rows), 9);
        let failed = read_ground_truth(&uri, RUNTIME.handle()).unwrap_err().to_string();
        assert!(failed.contains(says) && failed.contains("truth.parquet"), "{says}: {failed}");
    }
    let twice = batch(vec![("query_id", ids(&[1, 1])), ("neighbors", neighbors(&[&[Some(1)], &[Some(2)]]))]);
    let truth = read_ground_truth(&write(&path, &twice, 9), RUNTIME.handle()).unwrap();
    assert!(truth.for_queries(&Int64Array::from(vec![1])).unwrap_err().to_string().contains("twice"));
}

#[test]
fn queries_have_the_indexs_dimension_and_no_bad_rows() {
    let folder = tempfile::tempdir().unwrap();
    let query = |rows: ArrayRef, dim: usize| {
        let uri = write(folder.path().join("q.parquet"), &batch(vec![("v", rows)]), 9);
        let spec = QuerySpec { uri, vector_column: "v".into(), id_column: None, dim, metric: Metric::Cosine };
        read_queries(spec, RUNTIME.handle())
    };
    assert_eq!(query(vectors(5, 3), 3).unwrap().rows(), 5);
    let failed = query(vectors(5, 3), 4).err().unwrap().to_string();
    assert!(failed.contains("expected 4-dimensional vectors, got 3"), "{failed}");
    let failed =
        query(lists(&[Some(&[Some(1.0), Some(1.0)]), Some(&[Some(1.0)])]), 2).err().unwrap().to_string();
    assert!(failed.contains("row 1 (id 1): expected a vector of 2 elements, got 1"), "{failed}");
}

// ---------------------------------------------------------------- real files

/// A folder of a dataset in the repository or beside it.
fn dataset_folder(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [root.join("datasets").join(name), root.join("../shared/data").join(name)];
    let found = places.into_iter().find(|place| place.join("base.parquet").exists());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is neither in datasets/ nor in ../shared/data/");
    }
    found
}

/// Reads base, queries and ground truth of a set, and checks the truth of some queries by the definition.
fn check_real(folder: &Path, rows: usize, dim: usize, queries_to_check: usize) -> Dataset {
    let uri = |file: &str| folder.join(file).to_str().unwrap().to_string();
    let base = read(SourceSpec {
        id_column: Some("id".into()),
        ..SourceSpec::new(&uri("base.parquet"), "embedding", Metric::Cosine)
    })
    .unwrap();
    assert_eq!((base.rows(), base.vectors.dim()), (rows, dim));
    assert_eq!((base.counts.read, base.counts.kept), (rows as u64, rows as u64));
    for row in base.vectors.view().iter() {
        let norm: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
    let queries = QuerySpec {
        uri: uri("queries.parquet"),
        vector_column: "embedding".into(),
        id_column: Some("id".into()),
        dim,
        metric: Metric::Cosine,
    };
    let queries = read_queries(queries, RUNTIME.handle()).unwrap();
    let truth = read_ground_truth(&uri("groundtruth.parquet"), RUNTIME.handle()).unwrap();
    let truth = truth.for_queries(&queries.ids).unwrap();
    assert_eq!((truth.k, truth.neighbors.len()), (100, 100 * queries.rows()));
    let (ids, found) = (int64s(&base.ids), int64s(&truth.neighbors));
    for query in (0..queries.rows()).step_by(queries.rows() / queries_to_check) {
        let mut top = TopK::new(10);
        for (ordinal, row) in base.vectors.view().iter().enumerate() {
            let distance = Metric::Cosine.distance(queries.vectors.row(query), row);
            top.push(Neighbor::new(ordinal as u32, distance as f32));
        }
        for (rank, neighbor) in top.sorted().iter().enumerate() {
            let expected = truth.distances.as_ref().unwrap()[query * 100 + rank];
            // Rows are normalised in f32 here and in f64 there, so close neighbours may swap; distances may not.
            assert!((neighbor.distance - expected).abs() < 1e-5, "query {query}, rank {rank}");
            if rank == 0 {
                assert_eq!(ids[neighbor.ordinal as usize], found[query * 100]);
            }
        }
    }
    base
}

#[test]
fn glove10k_is_read_whole_and_agrees_with_its_ground_truth() {
    let Some(folder) = dataset_folder("glove10k") else { return };
    let base = check_real(&folder, 10_000, 100, 10);
    let uri = folder.join("base.parquet");
    let short = SourceSpec {
        id_column: Some("id".into()),
        attribute_columns: vec!["word".into(), "word_len".into()],
        predicate: Some("word_len BETWEEN 2 AND 3 AND word LIKE 'a%'".into()),
        ..SourceSpec::new(uri.to_str().unwrap(), "embedding", Metric::Cosine)
    };
    let short = read(short).unwrap();
    let words = strings(short.attributes.column(0));
    assert!(!words.is_empty() && short.counts.filtered_out > 9_000);
    assert!(
        words.iter().flatten().all(|word| word.starts_with('a') && (2..=3).contains(&word.chars().count()))
    );
    let ids = int64s(&base.ids);
    for (row, id) in int64s(&short.ids).iter().enumerate() {
        let ordinal = ids.iter().position(|other| other == id).unwrap();
        assert_eq!(short.vectors.row(row), base.vectors.row(ordinal));
    }
}

#[test]
fn minilm100k_in_f16_is_read_whole_and_agrees_with_its_ground_truth() {
    let Some(folder) = dataset_folder("minilm100k") else { return };
    check_real(&folder, 100_000, 384, 2);
}
