//! What Python asks, as the loader understands it.

use std::time::Duration;

use annvil::loader::{Filter, Query};
use annvil::vectors::{RowId, RowIdKind};
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyString};

use crate::errors::{invalid, raised};

/// Query vectors: one, or a row each.
pub struct Vectors<'py> {
    array: PyReadonlyArrayDyn<'py, f32>,
    pub dim: usize,
    /// A single vector was given, not rows of them.
    pub is_single: bool,
}

impl<'py> Vectors<'py> {
    /// An array of f32, contiguous and aligned, is read where it lies; anything else that numpy understands is
    /// copied first.
    pub fn of(queries: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = match queries.cast::<PyArrayDyn<f32>>().map(PyArrayMethods::readonly) {
            // Column after column is contiguous too.
            Ok(array) if array.is_c_contiguous() && array.as_slice().is_ok() => array,
            _ => copied(queries)?.readonly(),
        };
        let (dim, is_single) = match *array.shape() {
            [dim] => (dim, true),
            [_, dim] => (dim, false),
            ref shape => {
                return Err(invalid(format!("queries: expected 1 or 2 axes, got shape {shape:?}")));
            }
        };
        if dim == 0 {
            return Err(invalid("queries: expected 1 dimension or more, got 0".into()));
        }
        Ok(Self { array, dim, is_single })
    }

    pub fn values(&self) -> &[f32] {
        self.array.as_slice().expect("a contiguous and aligned array")
    }
}

fn copied<'py>(queries: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let numpy = queries.py().import("numpy")?;
    let kwargs = PyDict::new(queries.py());
    kwargs.set_item("dtype", numpy.getattr("float32")?)?;
    kwargs.set_item("order", "C")?;
    let array = numpy.call_method("array", (queries,), Some(&kwargs)).map_err(|error| {
        invalid(format!("queries: expected one vector, or a row of numbers for each query: {error}"))
    })?;
    array.cast_into().map_err(PyErr::from)
}

/// An integer, a string, or what reads as one, such as a UUID.
fn partition_key(key: &Bound<'_, PyAny>) -> PyResult<RowId> {
    if let Ok(number) = key.extract::<i64>() {
        return Ok(RowId::Int(number));
    }
    if let Ok(number) = key.extract::<u64>() {
        return Ok(RowId::UInt(number));
    }
    Ok(RowId::Text(key.str()?.extract()?))
}

/// The keyword arguments of a search.
#[derive(Default)]
pub struct Asked<'py> {
    effort: Option<usize>,
    refine: Option<usize>,
    recall: Option<f64>,
    exact: bool,
    partition: Option<Bound<'py, PyAny>>,
    filter: Option<String>,
    max_distance: Option<f32>,
    min_similarity: Option<f32>,
    exclude: Option<Bound<'py, PyAny>>,
    offset: usize,
    attributes: Option<Bound<'py, PyAny>>,
    timeout: Option<f64>,
}

impl<'py> Asked<'py> {
    /// One list of names for whatever can be searched.
    ///
    /// # Errors
    /// `TypeError` for a name that is none of them, or a value of another type.
    pub fn of(options: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let mut asked = Self::default();
        for (name, value) in options.into_iter().flatten() {
            let name: String = name.extract()?;
            let taken = match name.as_str() {
                "effort" => set(&mut asked.effort, &value),
                "refine" => set(&mut asked.refine, &value),
                "recall" => set(&mut asked.recall, &value),
                "exact" => set(&mut asked.exact, &value),
                "partition" => set(&mut asked.partition, &value),
                "filter" => set(&mut asked.filter, &value),
                "max_distance" => set(&mut asked.max_distance, &value),
                "min_similarity" => set(&mut asked.min_similarity, &value),
                "exclude" => set(&mut asked.exclude, &value),
                "offset" => set(&mut asked.offset, &value),
                "attributes" => set(&mut asked.attributes, &value),
                "timeout" => set(&mut asked.timeout, &value),
                _ => Err(PyTypeError::new_err("unexpected keyword argument")),
            };
            taken.map_err(|error| {
                PyTypeError::new_err(format!("search() argument `{name}`: {}", error.value(value.py())))
            })?;
        }
        Ok(asked)
    }

    /// For `k` rows of an index with ids of this kind.
    pub fn query(self, k: usize, ids: RowIdKind) -> PyResult<Query> {
        let ways = [self.effort.is_some(), self.recall.is_some(), self.exact];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(invalid("of `effort`, `recall` and `exact` one may be given".into()));
        }
        if self.max_distance.is_some() && self.min_similarity.is_some() {
            return Err(invalid("of `max_distance` and `min_similarity` one may be given".into()));
        }
        let mut query = Query::new(k).offset(self.offset);
        if let Some(effort) = self.effort {
            query = query.effort(effort);
        }
        if let Some(recall) = self.recall {
            query = query.recall(recall);
        }
        if self.exact {
            query = query.exact();
        }
        if let Some(candidates) = self.refine {
            query = query.refine(candidates);
        }
        if let Some(partition) = &self.partition {
            query = query.partition(partition_key(partition)?);
        }
        if let Some(filter) = &self.filter {
            query = query.filter(Filter::parse(filter).map_err(raised)?);
        }
        if let Some(distance) = self.max_distance {
            query = query.max_distance(distance);
        }
        if let Some(similarity) = self.min_similarity {
            query = query.min_similarity(similarity);
        }
        if let Some(exclude) = &self.exclude {
            let ids = exclude.try_iter()?.map(|id| row_id(&id?, ids));
            query = query.exclude(ids.collect::<PyResult<Vec<_>>>()?);
        }
        if let Some(seconds) = self.timeout {
            let timeout = Duration::try_from_secs_f64(seconds)
                .map_err(|_| invalid(format!("timeout is {seconds}, expected seconds, 0 or more")))?;
            query = query.timeout(timeout);
        }
        match &self.attributes {
            None => Ok(query),
            Some(asked) => match asked.cast::<PyBool>() {
                Ok(all) if all.is_true() => Ok(query.all_attributes()),
                Ok(_) => Ok(query),
                // A string is a sequence of strings too, of one letter each.
                Err(_) if asked.is_instance_of::<PyString>() => {
                    Err(invalid("attributes: expected a list of columns, or True for all; got a str".into()))
                }
                Err(_) => Ok(query.attributes(asked.extract::<Vec<String>>()?)),
            },
        }
    }
}

fn set<'a, 'py, T: FromPyObject<'a, 'py>>(slot: &mut T, value: &'a Bound<'py, PyAny>) -> PyResult<()> {
    *slot = value.extract().map_err(Into::into)?;
    Ok(())
}

/// An id as Python has it: an int, a str, a `uuid.UUID` or its 16 bytes.
pub fn row_id(id: &Bound<'_, PyAny>, kind: RowIdKind) -> PyResult<RowId> {
    let named = || invalid(format!("`{id}` is no {kind:?} id"));
    if id.is_instance_of::<PyInt>() || id.hasattr("__index__")? {
        let id = match id.extract::<i64>() {
            Ok(id) => RowId::Int(id),
            Err(_) => RowId::UInt(id.extract().map_err(|_| named())?),
        };
        return id.to_kind(kind).ok_or_else(named);
    }
    if let Ok(text) = id.extract::<String>() {
        return RowId::Text(text).to_kind(kind).ok_or_else(named);
    }
    let bytes = id.getattr("bytes").unwrap_or_else(|_| id.clone());
    let uuid = bytes.extract::<[u8; 16]>().map_err(|_| named())?;
    RowId::Uuid(uuid).to_kind(kind).ok_or_else(named)
}
