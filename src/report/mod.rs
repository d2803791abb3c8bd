//! What is measured of an index: recall against exact neighbours, latency, and the certificate made of both.
//! Builds and publishes nothing.

mod certify;
mod latency;
mod recall;
mod truth;

pub use certify::{Certified, CertifyError, CertifyParams, QuerySet, certify};
pub use latency::{latency, warm_up};
pub use recall::{RecallSummary, summarize};
pub use truth::GroundTruth;
