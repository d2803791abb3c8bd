//! Errors as the exceptions of `annvil/_errors.py`: one class for each thing that a caller can do about it.

use annvil::Error;
use annvil::loader::QueryError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

pub fn raised(error: impl Into<Error>) -> PyErr {
    let error = error.into();
    let timed_out = error
        .cause()
        .and_then(|cause| cause.downcast_ref::<QueryError>())
        .is_some_and(|error| matches!(error, QueryError::TimeOut { .. }));
    let class = match error {
        _ if timed_out => "SearchTimeout",
        Error::BadInput(_) => "InvalidInput",
        Error::BadArtifact(_) => "BadArtifact",
        Error::Store(_) => "StoreError",
        Error::Device(_) => "DeviceError",
        Error::BelowGate(_) => "BelowGate",
        Error::Cancelled => "Cancelled",
        Error::Internal(_) | Error::Inconsistent(_) | Error::Unmet(_) | Error::Conflict(_) => "AnnvilError",
    };
    of_class(class, message(&error))
}

/// The caller gave something that does not fit.
pub fn invalid(message: String) -> PyErr {
    of_class("InvalidInput", message)
}

pub fn internal(error: impl std::fmt::Display) -> PyErr {
    of_class("AnnvilError", error.to_string())
}

fn of_class(class: &str, message: String) -> PyErr {
    Python::attach(|py| {
        let made = py.import("annvil._errors").and_then(|module| module.getattr(class)?.call1((&message,)));
        made.map_or_else(|_| PyRuntimeError::new_err(message), PyErr::from_value)
    })
}

/// The error and what it came from, each told once.
fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let why = cause.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        source = cause.source();
    }
    text
}
