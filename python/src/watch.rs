//! An index that is followed from version to version.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annvil::loader::{self, Consistency, Refresh, Watch};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::answers::Answers;
use crate::errors::{invalid, raised};
use crate::index::{Index, Searched, open_options};

#[pyclass(module = "annvil", frozen)]
pub struct Watched {
    watched: Arc<loader::Watched>,
    watch: Mutex<Option<Watch>>,
}

#[pyfunction]
#[pyo3(signature = (uri, *, every=5.0, **options))]
pub fn watch(
    py: Python<'_>,
    uri: &str,
    every: Option<f64>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Watched> {
    let options = open_options(options)?;
    let interval = match every.map(Duration::try_from_secs_f64) {
        None => None,
        Some(Ok(interval)) if !interval.is_zero() => Some(interval),
        Some(_) => return Err(invalid("every: expected seconds, above 0, or None".into())),
    };
    py.detach(|| {
        let watched = Arc::new(loader::Watched::open(uri, options).map_err(raised)?);
        let watch = interval.map(|interval| watched.every(interval, |_| ())).transpose().map_err(raised)?;
        Ok(Watched { watched, watch: Mutex::new(watch) })
    })
}

fn consistency_of(name: &str, max_age: f64) -> PyResult<Consistency> {
    match name {
        "local" => Ok(Consistency::Local),
        "eventual" => Duration::try_from_secs_f64(max_age)
            .map(Consistency::Eventual)
            .map_err(|_| invalid(format!("max_age is {max_age}, expected seconds, 0 or more"))),
        "strong" => Ok(Consistency::Strong),
        got => Err(invalid(format!("consistency is `{got}`, expected `local`, `eventual` or `strong`"))),
    }
}

#[pymethods]
impl Watched {
    #[getter]
    fn index(&self) -> Index {
        self.watched.current().into()
    }

    #[getter]
    fn refused(&self) -> Option<(u64, String)> {
        self.watched.refused().map(|refused| (refused.version, refused.reason.to_string()))
    }

    #[pyo3(signature = (consistency="strong", *, max_age=5.0))]
    fn read(&self, py: Python<'_>, consistency: &str, max_age: f64) -> PyResult<Index> {
        let consistency = consistency_of(consistency, max_age)?;
        Ok(py.detach(|| self.watched.read(consistency)).map_err(raised)?.into())
    }

    #[pyo3(signature = (queries, k=10, *, consistency="local", max_age=5.0, **options))]
    fn search(
        &self,
        queries: &Bound<'_, PyAny>,
        k: usize,
        consistency: &str,
        max_age: f64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answers> {
        let consistency = consistency_of(consistency, max_age)?;
        let index = queries.py().detach(|| self.watched.read(consistency)).map_err(raised)?;
        Searched::Index(index).search(queries, k, options)
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<bool> {
        let refresh = py.detach(|| self.watched.refresh()).map_err(raised)?;
        Ok(matches!(refresh, Refresh::Taken { .. }))
    }

    fn close(&self, py: Python<'_>) {
        // Waits for a refresh under way.
        py.detach(|| drop(self.watch.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) {
        self.close(py);
    }
}
