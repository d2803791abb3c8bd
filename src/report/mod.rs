//! What is measured of an index: recall against exact neighbours, latency, and the certificate made of both; and what
//! changed from one version to another.
//! Builds and publishes nothing.

mod certify;
mod diff;
mod latency;
mod recall;
mod truth;

pub use certify::{Certified, CertifyError, CertifyParams, QuerySet, certify};
pub use diff::{Changed, IDS_TOLD, RowsDiff, VersionDiff};
pub use latency::{latency, warm_up};
pub use recall::{RecallSummary, summarize};
pub use truth::GroundTruth;
