//! The public error: few variants, one for each thing that a caller can do about it. What exactly went wrong is in
//! the module's own error, which a variant carries: match on the variant to decide, downcast [`Error::cause`] to
//! look closer.

use std::error::Error as StdError;

use crate::compute::ComputeError;
use crate::loader::{FilterError, LoadError, QueryError};
use crate::report::CertifyError;
use crate::store::{LocationError, StoreError};
use crate::train::TrainError;
use crate::{hnsw, ivf};

/// The error of the module that failed.
pub type Cause = Box<dyn StdError + Send + Sync + 'static>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A variant displays as its cause does, and its `source()` is the cause's: a chain names everything once.
///
/// | variant | exit code | what to do |
/// |---|---|---|
/// | `Internal` | 1 | report it: this is ours |
/// | `BadInput` | 2 | correct the job file, the arguments or the data |
/// | `BelowGate` | 3 | raise the index's parameters, or lower its gate; nothing was published |
/// | `BadArtifact` | 4 | the published files are damaged or not ours: publish again, or roll back |
/// | `Store` | 5 | look at the store: address, permission, network, space; then run again |
/// | `Device` | 6 | look at the GPU or its driver, or use `--backend cpu` |
/// | `Inconsistent` | 7 | the index and its source differ: `annvil sync`, or build again |
/// | `Unmet` | 8 | ask for less, or allow other kinds of index: nothing tried meets what was asked |
/// | `Conflict` | 9 | read the latest version and decide again: it is not the one that was expected |
/// | `Cancelled` | 130 | nothing: someone asked for it; nothing was published |
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    BadInput(Cause),
    #[error(transparent)]
    BadArtifact(Cause),
    #[error(transparent)]
    Store(Cause),
    #[error(transparent)]
    Device(Cause),
    #[error(transparent)]
    BelowGate(Cause),
    #[error(transparent)]
    Inconsistent(Cause),
    #[error(transparent)]
    Unmet(Cause),
    #[error(transparent)]
    Conflict(Cause),
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Internal(Cause),
}

impl Error {
    /// The process's exit code for this error: see the table above. 0 is success.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Internal(_) => 1,
            Error::BadInput(_) => 2,
            Error::BelowGate(_) => 3,
            Error::BadArtifact(_) => 4,
            Error::Store(_) => 5,
            Error::Device(_) => 6,
            Error::Inconsistent(_) => 7,
            Error::Unmet(_) => 8,
            Error::Conflict(_) => 9,
            // 128 + SIGINT, as shells report a program that Ctrl-C ended.
            Error::Cancelled => 130,
        }
    }

    /// The variant's name as `--json` prints it.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Internal(_) => "internal",
            Error::BadInput(_) => "bad_input",
            Error::BelowGate(_) => "below_gate",
            Error::BadArtifact(_) => "bad_artifact",
            Error::Store(_) => "store",
            Error::Device(_) => "device",
            Error::Inconsistent(_) => "inconsistent",
            Error::Unmet(_) => "unmet",
            Error::Conflict(_) => "conflict",
            Error::Cancelled => "cancelled",
        }
    }

    /// The error of the module that failed; none for `Cancelled`.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        match self {
            Error::Internal(cause)
            | Error::BadInput(cause)
            | Error::BelowGate(cause)
            | Error::BadArtifact(cause)
            | Error::Store(cause)
            | Error::Device(cause)
            | Error::Inconsistent(cause)
            | Error::Unmet(cause)
            | Error::Conflict(cause) => Some(cause.as_ref()),
            Error::Cancelled => None,
        }
    }
}

impl From<ComputeError> for Error {
    fn from(error: ComputeError) -> Self {
        Error::Device(Box::new(error))
    }
}

impl From<LocationError> for Error {
    fn from(error: LocationError) -> Self {
        match error {
            LocationError::Changed { .. } | LocationError::ShortRead { .. } | LocationError::Store { .. } => {
                Error::Store(Box::new(error))
            }
            _ => Error::BadInput(Box::new(error)),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Location(error) => error.into(),
            StoreError::Name(_)
            | StoreError::NotFound { .. }
            | StoreError::Cache { .. }
            | StoreError::Key { .. }
            | StoreError::NoKey(_) => Error::BadInput(Box::new(error)),
            // No version names it yet: the store did not keep what a publisher wrote.
            StoreError::Missing { ref place }
            | StoreError::Damaged { ref place, .. }
            | StoreError::Malformed { ref place, .. }
                if place.version.is_none() =>
            {
                Error::Store(Box::new(error))
            }
            StoreError::Missing { .. }
            | StoreError::Damaged { .. }
            | StoreError::Malformed { .. }
            | StoreError::Range { .. } => Error::BadArtifact(Box::new(error)),
            StoreError::Conflict { .. }
            | StoreError::Refused { .. }
            | StoreError::Overwrites { .. }
            | StoreError::Unsupported { .. }
            | StoreError::Io { .. } => Error::Store(Box::new(error)),
            StoreError::Runtime(_) => Error::Internal(Box::new(error)),
        }
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        match error {
            // An artifact of several segments is for a version that reads them.
            LoadError::Store(StoreError::Unsupported { .. }) => Error::BadArtifact(Box::new(error)),
            LoadError::Store(error) => error.into(),
            LoadError::Refused { ref reason, .. } => match **reason {
                LoadError::Memory { .. } | LoadError::Unlike { .. } => Error::BadInput(Box::new(error)),
                LoadError::Store(
                    StoreError::Io { .. } | StoreError::Runtime(_) | StoreError::Location(_),
                ) => Error::Store(Box::new(error)),
                _ => Error::BadArtifact(Box::new(error)),
            },
            LoadError::Memory { .. }
            | LoadError::NotLocal { .. }
            | LoadError::NoShards
            | LoadError::Unlike { .. } => Error::BadInput(Box::new(error)),
            error => Error::BadArtifact(Box::new(error)),
        }
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Error::BadInput(Box::new(error))
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Damaged(_) => Error::BadArtifact(Box::new(error)),
            QueryError::Store(ref failure) => match *failure.0 {
                StoreError::Missing { .. }
                | StoreError::Damaged { .. }
                | StoreError::Malformed { .. }
                | StoreError::Range { .. } => Error::BadArtifact(Box::new(error)),
                StoreError::Runtime(_) => Error::Internal(Box::new(error)),
                _ => Error::Store(Box::new(error)),
            },
            error => Error::BadInput(Box::new(error)),
        }
    }
}

impl From<TrainError> for Error {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled => Error::Cancelled,
            TrainError::Compute(error) => error.into(),
            TrainError::Label { .. } => Error::Internal(Box::new(error)),
            error => Error::BadInput(Box::new(error)),
        }
    }
}

impl From<ivf::BuildError> for Error {
    fn from(error: ivf::BuildError) -> Self {
        match error {
            ivf::BuildError::Train(error) => error.into(),
            error => Error::BadInput(Box::new(error)),
        }
    }
}

impl From<hnsw::BuildError> for Error {
    fn from(error: hnsw::BuildError) -> Self {
        match error {
            hnsw::BuildError::Train(error) => error.into(),
            error => Error::BadInput(Box::new(error)),
        }
    }
}

impl From<CertifyError> for Error {
    fn from(error: CertifyError) -> Self {
        match error {
            CertifyError::Cancelled => Error::Cancelled,
            error => Error::BadInput(Box::new(error)),
        }
    }
}

#[cfg(feature = "build")]
mod of_builds {
    use super::Error;
    use crate::dataset;
    use crate::job::{Cancelled, PlanError, ScratchError, SpecError};
    use crate::source::SourceError;

    impl From<SourceError> for Error {
        fn from(error: SourceError) -> Self {
            match error {
                SourceError::Cancelled => Error::Cancelled,
                SourceError::Location(error) => error.into(),
                SourceError::Foreign(ref cause) if cause.is_remote() => Error::Store(Box::new(error)),
                SourceError::Arrow(_)
                | SourceError::Parquet(_)
                | SourceError::Summary { .. }
                | SourceError::Elsewhere(_)
                | SourceError::Thread(_) => Error::Internal(Box::new(error)),
                error => Error::BadInput(Box::new(error)),
            }
        }
    }

    impl From<dataset::Error> for Error {
        fn from(error: dataset::Error) -> Self {
            use dataset::Error as E;
            match error {
                // A registry's client is how its store is reached.
                E::NoClient { .. } | E::Client { .. } | E::Io { .. } | E::Parquet { .. } => {
                    Error::Store(Box::new(error))
                }
                error => Error::BadInput(Box::new(error)),
            }
        }
    }

    impl From<SpecError> for Error {
        fn from(error: SpecError) -> Self {
            Error::BadInput(Box::new(error))
        }
    }

    impl From<ScratchError> for Error {
        fn from(error: ScratchError) -> Self {
            Error::BadInput(Box::new(error))
        }
    }

    impl From<PlanError> for Error {
        fn from(error: PlanError) -> Self {
            Error::BadInput(Box::new(error))
        }
    }

    impl From<Cancelled> for Error {
        fn from(_: Cancelled) -> Self {
            Error::Cancelled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Place;

    #[derive(Debug, thiserror::Error)]
    #[error("list 3 has {got} rows, expected {expected}")]
    struct Rows {
        got: u64,
        expected: u64,
        source: std::io::Error,
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let inner = std::io::Error::other("short read");
        let error = Error::BadArtifact(Box::new(Rows { got: 1, expected: 2, source: inner }));
        assert_eq!(error.to_string(), "list 3 has 1 rows, expected 2");
        assert_eq!(StdError::source(&error).unwrap().to_string(), "short read");
        assert!(error.cause().unwrap().is::<Rows>());
    }

    #[test]
    fn exit_codes_differ_and_are_none_that_means_success() {
        let cause = || Cause::from("x");
        let errors = [
            Error::Internal(cause()),
            Error::BadInput(cause()),
            Error::BelowGate(cause()),
            Error::BadArtifact(cause()),
            Error::Store(cause()),
            Error::Device(cause()),
            Error::Inconsistent(cause()),
            Error::Unmet(cause()),
            Error::Conflict(cause()),
            Error::Cancelled,
        ];
        let codes: Vec<u8> = errors.iter().map(Error::exit_code).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
    }

    fn place(version: Option<u64>) -> Place {
        Place { index: "words".into(), version, file: "v/1.json".into() }
    }

    #[test]
    fn a_damaged_artifact_a_wrong_name_and_a_failing_store_are_told_apart() {
        let location = || LocationError::NotFound { uri: "out".into() };
        let cases: Vec<(StoreError, u8)> = vec![
            (StoreError::NotFound { what: "index".into() }, 2),
            (location().into(), 2),
            (LocationError::Changed { uri: "out".into() }.into(), 5),
            (StoreError::Missing { place: place(Some(1)) }, 4),
            (StoreError::Damaged { place: place(Some(1)), expected: "1".into(), got: "2".into() }, 4),
            (StoreError::Damaged { place: place(None), expected: "1".into(), got: "2".into() }, 5),
            (StoreError::Unsupported { what: "publishing".into() }, 5),
        ];
        for (error, code) in cases {
            let text = error.to_string();
            let error = Error::from(error);
            assert_eq!((error.exit_code(), error.to_string()), (code, text));
        }
        let segments = LoadError::Store(StoreError::Unsupported { what: "reading".into() });
        assert_eq!(Error::from(segments).exit_code(), 4);
        assert_eq!(Error::from(LoadError::Store(location().into())).exit_code(), 2);
    }

    #[test]
    fn whoever_was_cancelled_says_so_alike() {
        let errors: [Error; 4] = [
            CertifyError::Cancelled.into(),
            hnsw::BuildError::Train(TrainError::Cancelled).into(),
            ivf::BuildError::Train(TrainError::Cancelled).into(),
            TrainError::Cancelled.into(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Cancelled), "{error:?}");
        }
        let lost = ivf::BuildError::from(ComputeError::DeviceLost("gone".into()));
        assert_eq!(Error::from(lost).exit_code(), 6);
    }
}
