//! Open indexes.

use std::path::PathBuf;
use std::sync::Arc;

use annvil::loader::{self, Check, OpenOptions, Residence};
use annvil::store::KeyReference;
use annvil::vectors::{RowIdKind, VectorView};
use numpy::PyArray1;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::answers::{Answers, Found};
use crate::errors::{invalid, raised};
use crate::python_of;
use crate::queries::{Asked, Vectors, row_id};

/// For blocks on disk, where no other size is given.
const DISK_CACHE_BYTES: u64 = 1 << 30;

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

    pub fn search(
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
#[pyo3(signature = (uri, *, version=None, **options))]
pub fn open(
    py: Python<'_>,
    uri: &str,
    version: Option<u64>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Index> {
    let options = open_options(options)?;
    let options = version.map_or(options.clone(), |version| options.version(version));
    let index = py.detach(|| options.open(uri)).map_err(raised)?;
    Ok(Arc::new(index).into())
}

/// How to open, as `open` and `watch` are asked by name.
pub fn open_options(given: Option<&Bound<'_, PyDict>>) -> PyResult<OpenOptions> {
    let (mut residence, mut check) = (String::from("resident"), String::from("open"));
    let (mut cache_dir, mut cache_dir_bytes) = (None::<PathBuf>, DISK_CACHE_BYTES);
    let mut options = OpenOptions::new();
    for (name, value) in given.into_iter().flatten() {
        let name: String = name.extract()?;
        match name.as_str() {
            "residence" => residence = value.extract()?,
            "check" => check = value.extract()?,
            "memory_limit" => options = options.memory_limit_bytes(value.extract()?),
            "filter_cache" => options = options.filter_cache_bytes(value.extract()?),
            "cache" => options = options.cache_bytes(value.extract()?),
            "cache_dir" => cache_dir = Some(value.extract()?),
            "cache_dir_bytes" => cache_dir_bytes = value.extract()?,
            "key" => {
                let text: String = value.extract()?;
                // What stands there may be a key: it is not repeated.
                let key =
                    text.parse::<KeyReference>().map_err(|allowed| invalid(format!("key: {allowed}")))?;
                options = options.key(key);
            }
            _ => return Err(PyTypeError::new_err(format!("`{name}`: unexpected keyword argument"))),
        }
    }
    let check = match check.as_str() {
        "open" => Check::AtOpen,
        "background" => Check::InBackground,
        got => return Err(invalid(format!("check is `{got}`, expected `open` or `background`"))),
    };
    let residence = match residence.as_str() {
        "resident" => Residence::Resident,
        "mapped" => Residence::Mapped(check),
        "lazy" => Residence::Lazy,
        got => return Err(invalid(format!("residence is `{got}`, expected `resident`, `mapped` or `lazy`"))),
    };
    let options = options.residence(residence);
    Ok(match cache_dir {
        Some(folder) => options.disk_cache(folder, cache_dir_bytes),
        None => options,
    })
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
        self.index.live_rows()
    }

    #[getter]
    fn effort_name(&self) -> Option<&'static str> {
        self.index.effort_name()
    }

    #[getter]
    fn attributes(&self) -> Vec<String> {
        let fields = self.index.attribute_schema().into_iter().flat_map(|schema| schema.fields());
        fields.map(|field| field.name().clone()).collect()
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
        let Some(ordinal) = self.find(id)? else { return Ok(None) };
        let vector = id.py().detach(|| self.index.fetch_vector(ordinal)).map_err(raised)?;
        Ok(vector.map(|vector| PyArray1::from_vec(id.py(), vector)))
    }

    fn wait_for_check(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.index.wait_for_check().iter().map(ToString::to_string).collect())
    }

    fn __repr__(&self) -> String {
        let Self { index } = self;
        let rows = index.live_rows();
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
        self.shards.live_rows()
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
