/// Rows of `dim` f32 values each, borrowed, row-major and dense.
#[derive(Debug, Clone, Copy)]
pub struct VectorView<'a> {
    data: &'a [f32],
    dim: usize,
}

impl<'a> VectorView<'a> {
    /// # Panics
    /// If `dim` is 0 or does not divide `data.len()`: callers hold shapes that they have checked.
    pub fn new(data: &'a [f32], dim: usize) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        assert_eq!(data.len() % dim, 0, "{} values are no whole number of {dim}-d rows", data.len());
        Self { data, dim }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn rows(&self) -> usize {
        self.data.len() / self.dim
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.dim..(index + 1) * self.dim]
    }

    /// Rows `start..end`.
    pub fn slice(&self, start: usize, end: usize) -> VectorView<'a> {
        Self { data: &self.data[start * self.dim..end * self.dim], dim: self.dim }
    }

    pub fn as_slice(&self) -> &'a [f32] {
        self.data
    }

    pub fn iter(&self) -> std::slice::ChunksExact<'a, f32> {
        self.data.chunks_exact(self.dim)
    }

    /// The mean of the rows, summed in f64 in their order.
    ///
    /// # Panics
    /// If there is none.
    pub fn mean(&self) -> Vec<f32> {
        assert!(!self.is_empty(), "a mean of no rows");
        let mut sums = vec![0.0f64; self.dim];
        for row in self.iter() {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        sums.iter().map(|sum| (sum / self.rows() as f64) as f32).collect()
    }

    /// A copy of the rows named by `ordinals`, in that order.
    pub fn gather(&self, ordinals: &[u32]) -> VectorBuf {
        let mut data = Vec::with_capacity(ordinals.len() * self.dim);
        for &ordinal in ordinals {
            data.extend_from_slice(self.row(ordinal as usize));
        }
        VectorBuf { data: Data::Own(data), dim: self.dim }
    }
}

/// A copy.
impl From<VectorView<'_>> for VectorBuf {
    fn from(rows: VectorView<'_>) -> Self {
        Self { data: Data::Own(rows.data.to_vec()), dim: rows.dim }
    }
}

/// Rows of `dim` f32 values each: its own, or shared ones, of which writing makes a copy.
#[derive(Clone)]
pub struct VectorBuf {
    data: Data,
    dim: usize,
}

/// Values that somebody else keeps in memory, as a mapped file.
pub type SharedValues = std::sync::Arc<dyn AsRef<[f32]> + Send + Sync>;

#[derive(Clone)]
enum Data {
    Own(Vec<f32>),
    Shared(SharedValues),
}

impl Data {
    fn as_slice(&self) -> &[f32] {
        match self {
            Data::Own(values) => values,
            Data::Shared(values) => (**values).as_ref(),
        }
    }

    fn own(&mut self) -> &mut Vec<f32> {
        if let Data::Shared(values) = self {
            *self = Data::Own((**values).as_ref().to_vec());
        }
        match self {
            Data::Own(values) => values,
            Data::Shared(_) => unreachable!("copied above"),
        }
    }
}

impl PartialEq for VectorBuf {
    fn eq(&self, other: &Self) -> bool {
        self.dim == other.dim && self.data.as_slice() == other.data.as_slice()
    }
}

impl std::fmt::Debug for VectorBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VectorBuf").field("data", &self.data.as_slice()).field("dim", &self.dim).finish()
    }
}

impl VectorBuf {
    /// # Panics
    /// As [`VectorView::new`].
    pub fn new(data: Vec<f32>, dim: usize) -> Self {
        VectorView::new(&data, dim);
        Self { data: Data::Own(data), dim }
    }

    /// Rows that stay where they are, as long as nothing is written to them.
    ///
    /// # Panics
    /// As [`VectorView::new`].
    pub fn shared(values: SharedValues, dim: usize) -> Self {
        VectorView::new((*values).as_ref(), dim);
        Self { data: Data::Shared(values), dim }
    }

    /// Whether the rows are somebody else's memory.
    pub fn is_shared(&self) -> bool {
        matches!(self.data, Data::Shared(_))
    }

    pub fn zeroed(rows: usize, dim: usize) -> Self {
        Self::new(vec![0.0; rows * dim], dim)
    }

    pub fn view(&self) -> VectorView<'_> {
        VectorView { data: self.data.as_slice(), dim: self.dim }
    }

    pub fn rows(&self) -> usize {
        self.data.as_slice().len() / self.dim
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.data.as_slice()[index * self.dim..(index + 1) * self.dim]
    }

    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data.own()[index * self.dim..(index + 1) * self.dim]
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.data.own()
    }

    /// # Panics
    /// If `row` has another dimension.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.dim);
        self.data.own().extend_from_slice(row);
    }

    /// The values of shared rows, where they are; of other rows these rows.
    ///
    /// # Errors
    /// The rows themselves, where they are nobody else's.
    pub fn into_shared(self) -> Result<SharedValues, Self> {
        match self.data {
            Data::Shared(values) => Ok(values),
            data => Err(Self { data, ..self }),
        }
    }

    /// The values; of shared ones a copy.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(self.data.own())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_rows_stay_as_they_are_when_their_copy_is_written_to() {
        let values = std::sync::Arc::new(vec![1.0f32, 2.0, 3.0, 4.0]);
        let shared = VectorBuf::shared(values.clone(), 2);
        assert_eq!((shared.rows(), shared.row(1), shared.is_shared()), (2, &[3.0, 4.0][..], true));
        assert_eq!(shared, VectorBuf::new(values.to_vec(), 2));
        let mut written = shared.clone();
        written.row_mut(0)[0] = 9.0;
        written.push(&[5.0, 6.0]);
        assert!(!written.is_shared());
        assert_eq!(written.clone().into_shared().err(), Some(written.clone()));
        assert_eq!(written.into_vec(), [9.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let back = shared.clone().into_shared().unwrap();
        assert_eq!((*back).as_ref().as_ptr(), values.as_ptr());
        assert_eq!(shared.into_vec(), *values);
    }
}
