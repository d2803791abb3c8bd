//! What a search found, as numpy arrays and as an Arrow record batch. Arrays are made when they are first asked for.

use std::sync::Arc;

use annvil::loader::{self, Hit, Match, Query, QueryError};
use annvil::vectors::{Metric, RowId, RowIdKind, VectorView};
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StructArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use numpy::ndarray::Array2;
use numpy::{Element, IntoPyArray};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

use crate::errors::internal;
use crate::index::Searched;

/// The loader's answers, with the attributes that were asked for.
pub struct Found {
    answers: loader::Answers,
    attributes: RecordBatch,
}

impl Found {
    pub fn in_index(
        index: &loader::Index,
        queries: VectorView<'_>,
        query: &Query,
    ) -> Result<Self, QueryError> {
        let prepared = index.prepare(query)?;
        let mut answers = loader::Answers::new();
        prepared.search(queries, &mut answers)?;
        let attributes = prepared.attributes(&answers);
        Ok(Self { answers, attributes })
    }

    pub fn in_shards(
        shards: &loader::Shards,
        queries: VectorView<'_>,
        query: &Query,
    ) -> Result<Self, QueryError> {
        let prepared = shards.prepare(query)?;
        let mut answers = loader::Answers::new();
        prepared.search(queries, &mut answers)?;
        let attributes = prepared.attributes(&answers);
        Ok(Self { answers, attributes })
    }
}

#[pyclass(module = "annvil", frozen)]
pub struct Answers {
    searched: Searched,
    found: Found,
    is_single: bool,
    ids: PyOnceLock<Py<PyAny>>,
    distances: PyOnceLock<Py<PyAny>>,
}

impl Answers {
    pub fn new(searched: Searched, found: Found, is_single: bool) -> Self {
        Self { searched, found, is_single, ids: PyOnceLock::new(), distances: PyOnceLock::new() }
    }

    fn hit(&self, found: Match) -> Hit {
        match &self.searched {
            Searched::Index(index) => index.hit(found),
            Searched::Shards(shards) => shards.hit(found),
        }
    }

    fn first_index(&self) -> &loader::Index {
        match &self.searched {
            Searched::Index(index) => index,
            Searched::Shards(shards) => &shards.indexes()[0],
        }
    }

    fn metric(&self) -> Metric {
        self.first_index().metric()
    }

    fn width(&self) -> usize {
        self.found.answers.iter().map(<[Match]>::len).max().unwrap_or(0)
    }

    /// A value for each match, a row per query, `none` where a query found fewer than another.
    fn array<'py, T: Element + Clone>(
        &self,
        py: Python<'py>,
        none: T,
        value: impl Fn(Match) -> T,
    ) -> PyResult<Bound<'py, PyAny>> {
        let answers = &self.found.answers;
        let mut array = Array2::from_elem((answers.queries(), self.width()), none);
        for (mut row, found) in array.rows_mut().into_iter().zip(answers.iter()) {
            row.iter_mut().zip(found).for_each(|(slot, &found)| *slot = value(found));
        }
        if self.is_single {
            return Ok(array.into_flat().into_pyarray(py).into_any());
        }
        Ok(array.into_pyarray(py).into_any())
    }

    fn matches(&self) -> impl Iterator<Item = (usize, usize, Match)> {
        let answers = self.found.answers.iter().enumerate();
        answers.flat_map(|(query, found)| {
            found.iter().enumerate().map(move |(rank, &found)| (query, rank, found))
        })
    }

    fn new_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.first_index().ids().kind() {
            RowIdKind::Int64 => self.array(py, i64::MIN, |found| match self.hit(found).id {
                RowId::Int(id) => id,
                _ => i64::MIN,
            }),
            RowIdKind::UInt64 => self.array(py, u64::MAX, |found| match self.hit(found).id {
                RowId::UInt(id) => id,
                _ => u64::MAX,
            }),
            RowIdKind::Text | RowIdKind::Uuid => self.object_ids(py),
        }
    }

    /// An array of `str` or `uuid.UUID`, `None` where a query found fewer than another.
    fn object_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let uuid = py.import("uuid")?.getattr("UUID")?;
        let numpy = py.import("numpy")?;
        let answers = &self.found.answers;
        let shape = (answers.queries(), self.width());
        let array = numpy.call_method1("full", (shape, py.None(), "O"))?;
        for (query, rank, found) in self.matches() {
            let id = match self.hit(found).id {
                RowId::Uuid(bytes) => uuid.call1((py.None(), bytes.as_slice()))?,
                id => id.to_string().into_pyobject(py)?.into_any(),
            };
            array.set_item((query, rank), id)?;
        }
        if self.is_single { array.get_item(0) } else { Ok(array) }
    }

    /// One row per match. Attributes keep their names: columns of our own make way, see [`loader::own_column`].
    fn batch(&self) -> Result<RecordBatch, arrow_schema::ArrowError> {
        let (mut queries, mut ranks, mut distances, mut ids) = (vec![], vec![], vec![], vec![]);
        for (query, rank, found) in self.matches() {
            queries.push(query as u32);
            ranks.push(rank as u32);
            distances.push(found.distance);
            ids.push(found);
        }
        let attributes = self.found.attributes.schema_ref();
        let own = |name: &str, data_type: DataType| {
            Field::new(loader::own_column(name, attributes), data_type, false)
        };
        let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
        let mut add = |field: Field, column: ArrayRef| {
            fields.push(field);
            columns.push(column);
        };
        add(own("_query", DataType::UInt32), Arc::new(UInt32Array::from(queries)));
        add(own("_rank", DataType::UInt32), Arc::new(UInt32Array::from(ranks)));
        let ids = self.gathered_ids(&ids);
        add(own("row_id", ids.data_type().clone()), ids);
        if self.metric().similarity(0.0).is_some() {
            let similarities = distances.iter().filter_map(|&distance| self.metric().similarity(distance));
            let similarities: Float32Array = similarities.collect::<Vec<_>>().into();
            add(own("_similarity", DataType::Float32), Arc::new(similarities));
        }
        add(own("_distance", DataType::Float32), Arc::new(Float32Array::from(distances)));
        for (field, column) in
            self.found.attributes.schema_ref().fields().iter().zip(self.found.attributes.columns())
        {
            add(field.as_ref().clone(), column.clone());
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }

    /// The ids of matches, as the index keeps ids.
    fn gathered_ids(&self, matches: &[Match]) -> ArrayRef {
        let indexes: &[Arc<loader::Index>] = match &self.searched {
            Searched::Index(index) => std::slice::from_ref(index),
            Searched::Shards(shards) => shards.indexes(),
        };
        let kept: Vec<ArrayRef> = indexes.iter().map(|index| index.ids().to_array()).collect();
        let kept: Vec<&dyn Array> = kept.iter().map(AsRef::as_ref).collect();
        let rows: Vec<(usize, usize)> =
            matches.iter().map(|found| (found.shard as usize, found.ordinal as usize)).collect();
        arrow_select::interleave::interleave(&kept, &rows).expect("ids of one type, and rows of theirs")
    }
}

#[pymethods]
impl Answers {
    #[getter]
    fn ids<'py>(&'py self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.ids.get_or_try_init(py, || Ok::<_, PyErr>(self.new_ids(py)?.unbind()))?.bind(py).clone())
    }

    #[getter]
    fn distances<'py>(&'py self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let make = || Ok::<_, PyErr>(self.array(py, f32::INFINITY, |found| found.distance)?.unbind());
        Ok(self.distances.get_or_try_init(py, make)?.bind(py).clone())
    }

    #[getter]
    fn similarities<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let metric = self.metric();
        if metric.similarity(0.0).is_none() {
            return Ok(None);
        }
        let similarity = |found: Match| metric.similarity(found.distance).unwrap_or(f32::NEG_INFINITY);
        self.array(py, f32::NEG_INFINITY, similarity).map(Some)
    }

    #[getter]
    fn ordinals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, -1i64, |found| i64::from(found.ordinal))
    }

    #[getter]
    fn shards<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, -1i64, |found| i64::from(found.shard))
    }

    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let counts: Vec<i64> = self.found.answers.iter().map(|found| found.len() as i64).collect();
        counts.into_pyarray(py).into_any()
    }

    fn __len__(&self) -> usize {
        self.found.answers.queries()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.batch().map_err(internal)?.schema_ref().as_ref());
        PyCapsule::new_with_value(py, schema.map_err(internal)?, c"arrow_schema")
    }

    /// The Arrow PyCapsule interface: `pyarrow.record_batch(answers)`, `polars.DataFrame(answers)`.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // A schema that is asked for is a wish; consumers cast.
        drop(requested_schema);
        let batch = StructArray::from(self.batch().map_err(internal)?);
        let schema = FFI_ArrowSchema::try_from(batch.data_type()).map_err(internal)?;
        let array = FFI_ArrowArray::new(&batch.to_data());
        Ok((
            PyCapsule::new_with_value(py, schema, c"arrow_schema")?,
            PyCapsule::new_with_value(py, array, c"arrow_array")?,
        ))
    }

    fn __repr__(&self) -> String {
        let (queries, rows) = (self.found.answers.queries(), self.matches().count());
        format!("<annvil.Answers to {queries} queries: {rows} rows>")
    }
}
