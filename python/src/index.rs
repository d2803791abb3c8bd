//! Open indexes.

use std::sync::Arc;

use annvil::loader::{self, Check, OpenOptions, Residence};
use annvil::vectors::{RowIdKind, VectorView};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::answers::{Answers, Found};
use crate::errors::{invalid, raised};
use crate::python_of;
use crate::queries::{Asked, Vectors, row_id};

/// What can be searched.
pub enum Searched {
    Index(Arc<loader::Index>),
    Shards(Arc<loader::Shards>),
}

impl Searched {
    fn id_kind(&self) -> RowIdKind {
        match self {
            Searched::Index(index) => index.ids().kind(),
            Searched::Shards(shards) => shards.indexes()[0].ids().kind(),
        }
    }

    fn search(
        self,
        queries: &Bound<'_, PyAny>,
        k: usize,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answers> {
        let py = queries.py();
        let query = Asked::of(options)?.query(k, self.id_kind())?;
        let vectors = Vectors::of(queries)?;
        let view = VectorView::new(vectors.values(), vectors.dim);
        let found = py.detach(|| match &self {
            Searched::Index(index) => Found::in_index(index, view, &query),
            Searched::Shards(shards) => Found::in_shards(shards, view, &query),
        });
        Ok(Answers::new(self, found.map_err(raised)?, vectors.is_single))
    }
}

#[pyclass(module = "annvil", frozen)]
pub struct Index {
    index: Arc<loader::Index>,
}

impl From<Arc<loader::Index>> for Index {
    fn from(index: Arc<loader::Index>) -> Self {
        Self { index }
    }
}

#[pyfunction]
#[pyo3(signature = (uri, *, version=None, residence="resident", check="open", memory_limit=None, filter_cache=None))]
pub fn open(
    py: Python<'_>,
    uri: &str,
    version: Option<u64>,
    residence: &str,
    check: &str,
    memory_limit: Option<u64>,
    filter_cache: Option<usize>,
) -> PyResult<Index> {
    let options = options(residence, check, memory_limit, filter_cache)?;
    let options = version.map_or(options.clone(), |version| options.version(version));
    let index = py.detach(|| options.open(uri)).map_err(raised)?;
    Ok(Arc::new(index).into())
}

/// How to open, as `open` and `watch` are asked.
pub fn options(
    residence: &str,
    check: &str,
    memory_limit: Option<u64>,
    filter_cache: Option<usize>,
) -> PyResult<OpenOptions> {
    let check = match check {
        "open" => Check::AtOpen,
        "background" => Check::InBackground,
        got => return Err(invalid(format!("check is `{got}`, expected `open` or `background`"))),
    };
    let residence = match residence {
        "resident" => Residence::Resident,
        "mapped" => Residence::Mapped(check),
        got => return Err(invalid(format!("residence is `{got}`, expected `resident` or `mapped`"))),
    };
    let mut options = OpenOptions::new().residence(residence);
    if let Some(bytes) = memory_limit {
        options = options.memory_limit_bytes(bytes);
    }
    if let Some(bytes) = filter_cache {
        options = options.filter_cache_bytes(bytes);
    }
    Ok(options)
}

#[pymethods]
impl Index {
    #[getter]
    fn name(&self) -> &str {
        &self.index.manifest().index_name
    }

    #[getter]
    fn version(&self) -> u64 {
        self.index.version()
    }

    #[getter]
    fn kind(&self) -> &str {
        &self.index.manifest().build.kind
    }

    #[getter]
    fn metric(&self) -> String {
        self.index.metric().to_string()
    }

    #[getter]
    fn dim(&self) -> usize {
        self.index.dim()
    }

    fn __len__(&self) -> usize {
        self.index.rows()
    }

    #[getter]
    fn effort_name(&self) -> Option<&'static str> {
        self.index.effort_name()
    }

    #[getter]
    fn attributes(&self) -> Vec<String> {
        let fields = self.index.attributes().map(|batch| batch.schema_ref().fields().clone());
        fields.iter().flat_map(|fields| fields.iter()).map(|field| field.name().clone()).collect()
    }

    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python_of(py, self.index.manifest())
    }

    #[getter]
    fn certificate<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python_of(py, &self.index.manifest().build.certificate)
    }

    #[pyo3(signature = (queries, k=10, **options))]
    fn search(
        &self,
        queries: &Bound<'_, PyAny>,
        k: usize,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answers> {
        Searched::Index(self.index.clone()).search(queries, k, options)
    }

    fn find(&self, id: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
        Ok(self.index.ids().find(&row_id(id, self.index.ids().kind())?))
    }

    fn vector<'py>(&self, id: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        let vector = self.find(id)?.and_then(|ordinal| self.index.vector(ordinal));
        Ok(vector.map(|vector| PyArray1::from_vec(id.py(), vector)))
    }

    fn wait_for_check(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.index.wait_for_check().iter().map(ToString::to_string).collect())
    }

    fn __repr__(&self) -> String {
        let Self { index } = self;
        let rows = index.rows();
        let (kind, name, version) = (self.kind(), self.name(), self.version());
        format!(
            "<annvil.Index {name} version {version}: {kind}, {rows} × {}, {}>",
            index.dim(),
            index.metric()
        )
    }
}

#[pyclass(module = "annvil", frozen)]
pub struct Shards {
    shards: Arc<loader::Shards>,
}

#[pymethods]
impl Shards {
    #[new]
    fn new(indexes: Vec<Bound<'_, Index>>) -> PyResult<Self> {
        let indexes = indexes.iter().map(|index| index.get().index.clone()).collect();
        Ok(Self { shards: Arc::new(loader::Shards::new(indexes).map_err(raised)?) })
    }

    #[getter]
    fn dim(&self) -> usize {
        self.shards.dim()
    }

    fn __len__(&self) -> usize {
        self.shards.rows()
    }

    #[pyo3(signature = (queries, k=10, **options))]
    fn search(
        &self,
        queries: &Bound<'_, PyAny>,
        k: usize,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answers> {
        Searched::Shards(self.shards.clone()).search(queries, k, options)
    }
}
