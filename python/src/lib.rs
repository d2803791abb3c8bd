//! The Python package's native part: `annvil::loader` and `annvil::job` with numpy in and numpy or Arrow out. Turns
//! values into values and decides nothing; docstrings and types for users stand in `annvil/_annvil.pyi`.
//!
//! The interpreter's lock is released while an index is opened, searched or built.

mod answers;
#[cfg(feature = "build")]
mod build;
mod errors;
mod index;
mod queries;
mod watch;

use pyo3::prelude::*;

#[pymodule]
mod _annvil {
    #[pymodule_export]
    use super::answers::Answers;
    #[cfg(feature = "build")]
    #[pymodule_export]
    use super::build::{build, check};
    #[pymodule_export]
    use super::index::{Index, Shards, open};
    #[pymodule_export]
    use super::watch::{Watched, watch};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "as Python names it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// A JSON value as Python's own types.
fn python_of<'py>(py: Python<'py>, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    let json = serde_json::to_string(value).map_err(errors::internal)?;
    py.import("json")?.call_method1("loads", (json,))
}
