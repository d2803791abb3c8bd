//! Typed arrays over shared bytes, and the named tensors that a section file consists of.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Deref;

use bytemuck::Pod;
use bytes::Bytes;

use super::pages::Pages;
use crate::vectors::SharedValues;

#[cfg(target_endian = "big")]
compile_error!("artifacts are little-endian and are used in place: big-endian targets are not supported");

/// Element types of a tensor, with the names that safetensors gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Dtype {
    U8,
    I8,
    U16,
    F16,
    U32,
    I32,
    F32,
    U64,
    I64,
}

impl Dtype {
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::F16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 => 8,
        }
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: Pod + Send + Sync + 'static {
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })*
    };
}
elements! { u8 => U8, i8 => I8, u16 => U16, half::f16 => F16, u32 => U32, i32 => I32, f32 => F32, u64 => U64, i64 => I64 }

#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum TensorError {
    #[error("section `{section}` is missing")]
    NoSection { section: String },
    #[error("section `{section}` has no tensor `{tensor}`")]
    Missing { section: String, tensor: String },
    #[error("tensor `{tensor}`: expected {expected:?}, got {got:?}")]
    Dtype { tensor: String, expected: Dtype, got: Dtype },
    #[error("tensor `{tensor}`: expected shape {expected:?}, got {got:?}")]
    Shape { tensor: String, expected: Vec<u64>, got: Vec<u64> },
    #[error("tensor `{tensor}`: {what}")]
    Content { tensor: String, what: String },
    #[error("section `{section}`: metadata `{key}`: {what}")]
    Metadata { section: String, key: String, what: String },
}

/// A typed, immutable, shared slice: the same type whether a build has just made it (it owns a `Vec`) or a loader
/// has read it (it borrows a file's bytes). Cloning shares.
pub struct Array<T> {
    bytes: Bytes,
    element: PhantomData<T>,
}

struct PodVec<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for PodVec<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

struct SharedBytes(SharedValues);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice((*self.0).as_ref())
    }
}

impl<T: Element> Array<T> {
    pub fn from_vec(values: Vec<T>) -> Self {
        Self { bytes: Bytes::from_owner(PodVec(values)), element: PhantomData }
    }

    /// Uses `bytes` in place where they are aligned for `T`, else copies them once.
    ///
    /// # Panics
    /// If the length is no multiple of the element's size.
    pub fn from_bytes(bytes: Bytes) -> Self {
        assert_eq!(bytes.len() % size_of::<T>(), 0);
        if bytes.as_ptr().align_offset(align_of::<T>()) == 0 {
            Self { bytes, element: PhantomData }
        } else {
            Self::from_vec(bytemuck::pod_collect_to_vec(&bytes))
        }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same values starting on a cache line, copied once if they do not: for rows that are a power of two or whole
    /// lines long, so that none straddles one more than it must. The copy lies in huge pages where the system has them: a
    /// search that jumps about in it waits a sixth less.
    #[must_use]
    pub fn aligned_to_lines(self) -> Self {
        if self.bytes.as_ptr().align_offset(Pages::LINE) == 0 {
            return self;
        }
        Self { bytes: Bytes::from_owner(Pages::copy_of(&self.bytes)), element: PhantomData }
    }
}

impl Array<f32> {
    /// Values that somebody else keeps, where they are.
    pub fn shared(values: SharedValues) -> Self {
        Self { bytes: Bytes::from_owner(SharedBytes(values)), element: PhantomData }
    }
}

impl<T: Element> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.bytes)
    }
}

impl<T: Element> AsRef<[T]> for Array<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), element: PhantomData }
    }
}

impl<T: Element + std::fmt::Debug> std::fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array<{:?}>[{}]", T::DTYPE, self.len())
    }
}

impl<T: Element> From<Vec<T>> for Array<T> {
    fn from(values: Vec<T>) -> Self {
        Self::from_vec(values)
    }
}

/// An array with a shape, its type known at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub bytes: Bytes,
}

impl Tensor {
    /// # Panics
    /// If the shape does not hold exactly the array: the writer's side of the check that `array` makes.
    pub fn new<T: Element>(array: &Array<T>, shape: &[usize]) -> Self {
        assert_eq!(array.len(), shape.iter().product::<usize>(), "shape {shape:?}");
        Self { dtype: T::DTYPE, shape: shape.iter().map(|&n| n as u64).collect(), bytes: array.bytes.clone() }
    }
}

/// The content of one section file: named tensors and string metadata, as in the safetensors container.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// File stem, e.g. `graph`.
    pub name: String,
    /// In file order.
    pub tensors: Vec<(String, Tensor)>,
    pub metadata: BTreeMap<String, String>,
}

impl Section {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), tensors: Vec::new(), metadata: BTreeMap::new() }
    }

    #[must_use]
    pub fn with<T: Element>(mut self, name: &str, array: &Array<T>, shape: &[usize]) -> Self {
        self.tensors.push((name.into(), Tensor::new(array, shape)));
        self
    }

    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), value.to_string());
        self
    }

    /// The one called `name`.
    pub fn named<'a>(sections: &'a [Section], name: &str) -> Result<&'a Section, TensorError> {
        sections
            .iter()
            .find(|section| section.name == name)
            .ok_or_else(|| TensorError::NoSection { section: name.into() })
    }

    pub fn tensor(&self, name: &str) -> Result<&Tensor, TensorError> {
        self.tensors
            .iter()
            .find_map(|(tensor_name, tensor)| (tensor_name == name).then_some(tensor))
            .ok_or_else(|| TensorError::Missing { section: self.name.clone(), tensor: name.into() })
    }

    /// The tensor `name`, which must have type `T` and exactly this shape.
    pub fn array<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Array<T>, TensorError> {
        let tensor = self.tensor(name)?;
        if tensor.dtype != T::DTYPE {
            return Err(TensorError::Dtype { tensor: name.into(), expected: T::DTYPE, got: tensor.dtype });
        }
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if tensor.shape != expected {
            return Err(TensorError::Shape { tensor: name.into(), expected, got: tensor.shape.clone() });
        }
        let size_bytes = expected.iter().try_fold(size_of::<T>() as u64, |size, &n| size.checked_mul(n));
        if size_bytes != Some(tensor.bytes.len() as u64) {
            let what = format!("shape {expected:?} of {:?} in {} bytes", T::DTYPE, tensor.bytes.len());
            return Err(TensorError::Content { tensor: name.into(), what });
        }
        Ok(Array::from_bytes(tensor.bytes.clone()))
    }

    /// The tensor `name` of type `T` with `rank` axes, and its shape.
    pub fn array_of_rank<T: Element>(
        &self,
        name: &str,
        rank: usize,
    ) -> Result<(Array<T>, Vec<usize>), TensorError> {
        let shape: Vec<usize> = self.tensor(name)?.shape.iter().map(|&n| n as usize).collect();
        if shape.len() != rank {
            let what = format!("expected {rank} axes, got shape {shape:?}");
            return Err(TensorError::Content { tensor: name.into(), what });
        }
        Ok((self.array(name, &shape)?, shape))
    }

    /// The metadata value `key`, parsed.
    pub fn metadata<V>(&self, key: &str) -> Result<V, TensorError>
    where
        V: std::str::FromStr,
        V::Err: std::fmt::Display,
    {
        parse_metadata(&self.name, &self.metadata, key)
    }
}

pub(super) fn parse_metadata<V>(
    section: &str,
    metadata: &BTreeMap<String, String>,
    key: &str,
) -> Result<V, TensorError>
where
    V: std::str::FromStr,
    V::Err: std::fmt::Display,
{
    let error = |what: String| TensorError::Metadata { section: section.into(), key: key.into(), what };
    let text = metadata.get(key).ok_or_else(|| error("is missing".into()))?;
    text.parse().map_err(|reason| error(format!("`{text}` is not understood: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_become_an_array_of_the_same_values() {
        let values: Vec<u32> = (0..100).collect();
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(bytemuck::cast_slice(&values));
        let array = Array::<u32>::from_bytes(Bytes::from(shifted).slice(1..));
        assert_eq!(&array[..], &values[..]);
    }

    #[test]
    fn a_wrong_type_or_shape_is_named() {
        let section = Section::new("graph").with("links", &Array::from_vec(vec![1u32; 6]), &[2, 3]);
        assert!(section.array::<u32>("links", &[2, 3]).is_ok());
        assert!(matches!(section.array::<u32>("links", &[3, 2]), Err(TensorError::Shape { .. })));
        assert!(matches!(section.array::<f32>("links", &[2, 3]), Err(TensorError::Dtype { .. })));
        assert!(matches!(section.array::<f32>("codes", &[2, 3]), Err(TensorError::Missing { .. })));
    }

    #[test]
    fn a_shape_that_its_bytes_do_not_fill_is_refused() {
        let mut section = Section::new("graph").with("links", &Array::from_vec(vec![1u32; 6]), &[2, 3]);
        for shape in [vec![2, 2], vec![7], vec![1 << 62, 1 << 62], vec![u64::MAX]] {
            let axes: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
            section.tensors[0].1.shape = shape;
            assert!(matches!(section.array::<u32>("links", &axes), Err(TensorError::Content { .. })));
        }
    }
}
