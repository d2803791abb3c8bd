//! Object storage: a URI becomes a [`Location`]. The only module that names `object_store`.

pub mod location;
pub use location::*;
