//! A flat index as one section, `vectors`: the tensor `vectors` (`rows × dim`, f32 or f16), and the metric.

use super::search::FlatIndex;
use crate::artifact::{Dtype, RangedSection, Section, TensorError};
use crate::index::{KeptVectors, Precision};

/// The name of the section, and of its tensor.
pub const SECTION: &str = "vectors";

pub(super) fn write(index: &FlatIndex) -> Vec<Section> {
    let section = Section::new(SECTION).with_metadata("metric", index.metric.name());
    vec![index.vectors.write(section, SECTION)]
}

impl FlatIndex {
    /// The index that [`sections`](crate::index::SearchIndex::sections) wrote. Checks shape, type, metric and that
    /// every value is finite.
    pub fn from_sections(sections: &[Section]) -> Result<Self, TensorError> {
        let missing = || TensorError::Missing { section: SECTION.into(), tensor: SECTION.into() };
        let section = sections.iter().find(|section| section.name == SECTION).ok_or_else(missing)?;
        let tensor = section.tensor(SECTION)?;
        let (rows, dim, precision) = read_shape(&tensor.shape, tensor.dtype)?;
        let vectors = KeptVectors::read(section, SECTION, rows, dim, precision)?;
        Ok(Self::over(vectors, section.metadata("metric")?))
    }

    /// As [`from_sections`](Self::from_sections), with the vectors left in their file.
    pub fn ranged(section: &RangedSection) -> Result<Self, TensorError> {
        let head = &section.head;
        let tensor = head.tensor(SECTION)?;
        let (rows, dim, precision) = read_shape(&tensor.shape, tensor.dtype)?;
        let vectors = KeptVectors::ranged(section, SECTION, rows, dim, precision)?;
        Ok(Self::over(vectors, head.metadata("metric")?))
    }
}

/// Rows, dimensions and how they are kept.
fn read_shape(shape: &[u64], dtype: Dtype) -> Result<(usize, usize, Precision), TensorError> {
    let content = |what: String| TensorError::Content { tensor: SECTION.into(), what };
    let &[rows, dim] = shape else {
        return Err(content(format!("expected rows × dim, got shape {shape:?}")));
    };
    if dim == 0 || rows > u64::from(u32::MAX) {
        return Err(content(format!(
            "expected 1 or more dimensions and at most 2³² − 1 rows, got {rows} × {dim}"
        )));
    }
    let precision = match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        got => return Err(content(format!("expected F32 or F16, got {got:?}"))),
    };
    Ok((rows as usize, dim as usize, precision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Array;
    use crate::index::SearchIndex;
    use crate::vectors::{Metric, VectorView};

    #[test]
    fn sections_round_trip() {
        let rows: Vec<f32> = (0..12).map(|i| i as f32 / 4.0).collect();
        for metric in Metric::ALL {
            for precision in [Precision::F32, Precision::F16] {
                let index = FlatIndex::build(VectorView::new(&rows, 3), metric, precision).unwrap();
                let read = FlatIndex::from_sections(&index.sections()).unwrap();
                assert_eq!((read.rows(), read.dim(), read.metric()), (4, 3, metric));
                assert_eq!(read.vectors.precision(), precision);
                assert_eq!(read.vectors.vector(3), &rows[9..]);
            }
        }
    }

    #[test]
    fn every_damage_is_named() {
        let values: Array<f32> = vec![0.5; 6].into();
        let good = Section::new(SECTION).with_metadata("metric", "l2");
        assert!(FlatIndex::from_sections(&[good.clone().with(SECTION, &values, &[2, 3])]).is_ok());
        let refused = |section: Section| FlatIndex::from_sections(&[section]).unwrap_err();
        assert!(matches!(FlatIndex::from_sections(&[]), Err(TensorError::Missing { .. })));
        assert!(matches!(refused(good.clone()), TensorError::Missing { .. }));
        assert!(matches!(refused(good.clone().with(SECTION, &values, &[6])), TensorError::Content { .. }));
        let no_dim: Array<f32> = vec![].into();
        assert!(matches!(refused(good.clone().with(SECTION, &no_dim, &[2, 0])), TensorError::Content { .. }));
        let integers: Array<u32> = vec![1; 6].into();
        assert!(matches!(
            refused(good.clone().with(SECTION, &integers, &[2, 3])),
            TensorError::Content { .. }
        ));
        let nan: Array<f32> = vec![0.5, 0.5, 0.5, f32::NAN, 0.5, 0.5].into();
        let error = refused(good.clone().with(SECTION, &nan, &[2, 3])).to_string();
        assert!(error.contains("row 1"), "{error}");
        let metric = good.with(SECTION, &values, &[2, 3]).with_metadata("metric", "chebyshev");
        assert!(matches!(refused(metric), TensorError::Metadata { .. }));
        let none = Section::new(SECTION).with(SECTION, &values, &[2, 3]);
        assert!(matches!(refused(none), TensorError::Metadata { .. }));
    }
}
