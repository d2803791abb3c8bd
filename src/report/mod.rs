//! What is measured of an index: recall against exact neighbours, latency, and the certificate made of both.
//! Builds and publishes nothing.

mod certify;
mod recall;
mod truth;

pub use certify::{Certified, CertifyError, CertifyParams, QuerySet, certify};
pub use recall::{RecallSummary, summarize};
pub use truth::GroundTruth;
