//! Rows of f32 vectors, their ids, the metrics that compare them, and top-k selection.
//! Does no I/O and knows nothing of indexes.

mod ids;
mod metric;
mod neighbors;
mod norm;
mod origin;
mod random;
mod view;

pub use ids::{RowId, RowIdError, RowIdKind, RowIds};
pub use metric::{Metric, OfProducts};
pub use neighbors::{Neighbor, Neighbors, TopK};
pub use norm::{MAX_SQUARED_NORM, normalize, squared_norm};
pub use origin::{far_mean, remoteness, subtract, taken_from};
pub use random::Random;
pub use view::{SharedValues, VectorBuf, VectorView};
