//! What is measured of an index: recall against exact neighbours, latency, and the certificate made of both; and what
//! changed from one version to another.
//! Builds and publishes nothing.

mod certify;
#[cfg(feature = "polars")]
mod compare;
mod diff;
#[cfg(feature = "polars")]
mod error;
#[cfg(feature = "polars")]
mod filters;
#[cfg(feature = "polars")]
mod header;
mod latency;
#[cfg(feature = "polars")]
mod measurements;
#[cfg(feature = "polars")]
mod page;
#[cfg(feature = "polars")]
mod plot;
mod recall;
#[cfg(feature = "polars")]
mod run;
#[cfg(feature = "polars")]
mod sections;
#[cfg(feature = "polars")]
mod subject;
#[cfg(feature = "polars")]
mod summary;
#[cfg(feature = "polars")]
mod sweep;
mod truth;

pub use certify::{Certified, CertifyError, CertifyParams, ExactRows, QuerySet, certify};
pub use diff::{Changed, IDS_TOLD, RowsDiff, VersionDiff};
pub use latency::{percentiles, single_queries, warm_up};
pub use recall::{RecallSummary, interval, summarize};
pub use truth::GroundTruth;

#[cfg(feature = "polars")]
pub use self::{
    compare::{Bounds, Comparison, compare},
    error::ReportError,
    header::{Failed, Header, Machine, QuerySetFacts, Subject},
    measurements::{Gathered, MEASUREMENTS_FILE, Measure, Measurement, Measurements, MeasurementsError},
    page::{HTML_FILE, MARKDOWN_FILE, html, markdown},
    run::{ReportSpec, below_certificate, measure},
    subject::{Base, GivenTruth, OpenSubject},
    sweep::{Queries, SweepParams},
};
