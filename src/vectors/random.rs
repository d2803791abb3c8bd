/// SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195): 64 bits of state, one multiply-xor-shift
/// chain per number. Written out here because drawn numbers are part of what an artifact's bytes depend on:
/// they must not change with a crate's version.
///
/// Besides the stream (`next_u64`) it is used as a counter-based generator: `Random::of(seed, i)` is the
/// same for row `i` whichever thread asks, which is what keeps builds independent of the thread count.
#[derive(Debug, Clone)]
pub struct Random(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream for item `index` under `seed`.
    pub fn of(seed: u64, index: u64) -> Self {
        Self(Self(seed ^ index.wrapping_mul(GOLDEN_GAMMA)).next_u64())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound` (Lemire's multiply-shift; its bias is below 2⁻³² for the bounds used here).
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform in (0, 1]: never 0, so that its logarithm is finite.
    pub fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box–Muller, the cosine branch).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// `count` distinct numbers of `0..n` in ascending order: every subset is equally likely (Vitter's
    /// selection sampling, algorithm S).
    pub fn sample(&mut self, n: usize, count: usize) -> Vec<u32> {
        assert!(count <= n && n <= u32::MAX as usize);
        let mut chosen = Vec::with_capacity(count);
        for i in 0..n {
            if self.below(n - i) < count - chosen.len() {
                chosen.push(i as u32);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_numbers_are_those_of_the_published_generator() {
        let mut random = Random::new(1_234_567);
        let got: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_sample_is_ascending_distinct_and_of_the_asked_size() {
        for (n, count) in [(0, 0), (1, 1), (10, 0), (10, 10), (1000, 37)] {
            let chosen = Random::new(7).sample(n, count);
            assert_eq!(chosen.len(), count);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(chosen.iter().all(|&i| (i as usize) < n));
        }
    }
}
