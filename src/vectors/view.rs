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

    /// A copy of the rows named by `ordinals`, in that order.
    pub fn gather(&self, ordinals: &[u32]) -> VectorBuf {
        let mut data = Vec::with_capacity(ordinals.len() * self.dim);
        for &ordinal in ordinals {
            data.extend_from_slice(self.row(ordinal as usize));
        }
        VectorBuf { data, dim: self.dim }
    }
}

/// A copy.
impl From<VectorView<'_>> for VectorBuf {
    fn from(rows: VectorView<'_>) -> Self {
        Self { data: rows.data.to_vec(), dim: rows.dim }
    }
}

/// Rows of `dim` f32 values each, owned.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorBuf {
    data: Vec<f32>,
    dim: usize,
}

impl VectorBuf {
    /// # Panics
    /// As [`VectorView::new`].
    pub fn new(data: Vec<f32>, dim: usize) -> Self {
        VectorView::new(&data, dim);
        Self { data, dim }
    }

    pub fn zeroed(rows: usize, dim: usize) -> Self {
        Self::new(vec![0.0; rows * dim], dim)
    }

    pub fn view(&self) -> VectorView<'_> {
        VectorView { data: &self.data, dim: self.dim }
    }

    pub fn rows(&self) -> usize {
        self.data.len() / self.dim
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.dim..(index + 1) * self.dim]
    }

    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[index * self.dim..(index + 1) * self.dim]
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// # Panics
    /// If `row` has another dimension.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.dim);
        self.data.extend_from_slice(row);
    }

    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }
}
