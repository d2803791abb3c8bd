//! The hashing trick (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009), without signs: a text is how
//! often its tokens fall into each bucket, at unit length. Needs no model and no state, and finds what shares words.

use super::{EmbedError, Embedder};

/// Lower-cased runs of letters and digits, each counted in the bucket that its blake3 says.
#[derive(Debug, Clone, Copy)]
pub struct Hashed {
    buckets: usize,
}

impl Hashed {
    pub const DEFAULT_BUCKETS: usize = 384;

    /// # Panics
    /// Without buckets.
    pub fn new(buckets: usize) -> Self {
        assert!(buckets > 0, "a vector has at least one value");
        Self { buckets }
    }

    /// Zero where the text has no token.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut counts = vec![0.0f64; self.buckets];
        let lower = text.to_lowercase();
        for token in lower.split(|c: char| !c.is_alphanumeric()).filter(|token| !token.is_empty()) {
            let hash = blake3::hash(token.as_bytes());
            let head = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
            counts[(head % self.buckets as u64) as usize] += 1.0;
        }
        let norm = counts.iter().map(|count| count * count).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        counts.into_iter().map(|count| (count * scale) as f32).collect()
    }
}

impl Embedder for Hashed {
    fn name(&self) -> String {
        "hashed".into()
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let hashed = Hashed::new(Hashed::DEFAULT_BUCKETS);
        hashed.vector(a).iter().zip(hashed.vector(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn only_tokens_count_and_not_their_order_or_case() {
        assert!((cosine("Paris is the capital", "THE capital... is: paris!") - 1.0).abs() < 1e-6);
        assert!((cosine("a a", "a") - 1.0).abs() < 1e-6);
        assert!((cosine("one two three four", "one two five six") - 0.5).abs() < 1e-6);
        assert!(cosine("Ärger", "ärger") > 0.999);
    }

    #[test]
    fn a_text_without_tokens_is_zero() {
        assert_eq!(Hashed::new(3).vector("… !"), [0.0; 3]);
    }

    /// What is written today is asked for in ten years.
    #[test]
    fn buckets_stay_where_they_are() {
        let hot = |text: &str| Hashed::new(384).vector(text).iter().position(|&value| value > 0.0).unwrap();
        assert_eq!(["paris", "capital", "42"].map(hot), [168, 190, 90]);
    }
}
