//! Scalar codes of a few bits a dimension: a row's values rounded to levels that lie evenly around 0, of a width that suits
//! the row.
//!
//! With b bits the levels are u = 0, 1, …, 2ᵇ − 1, of which u stands for u − (2ᵇ − 1)/2 widths. What counts is the direction of what they
//! stand for: its length is made up for by a factor of the row (RaBitQ, arXiv 2405.12497; for several bits 2409.09913).

use crate::compute::cpu::kernels;

/// The highest level.
pub fn top(bits: usize) -> f32 {
    ((1u32 << bits) - 1) as f32
}

/// Widths of a level to try for a row, in standard deviations of its values: around the best for a normal distribution (Max,
/// 1960), and for rows whose few large values would be cut.
fn widths(bits: usize) -> &'static [f32] {
    match bits {
        8 => &[0.031, 0.045, 0.07, 0.12],
        7 => &[0.057, 0.075, 0.11, 0.18],
        6 => &[0.104, 0.13, 0.18, 0.28],
        5 => &[0.17, 0.2, 0.25, 0.38],
        4 => &[0.27, 0.335, 0.42, 0.6],
        3 => &[0.5, 0.586, 0.7, 0.9],
        2 => &[0.8, 1.0, 1.3],
        _ => &[1.0],
    }
}

/// Rounds a row to levels by that width, of those worth trying, that turns its direction least. `square` is the row's |r|². Returns
/// Σ r · (u − top/2).
pub fn round_direction(row: &[f32], square: f32, bits: usize, levels: &mut [f32]) -> f32 {
    let (round, top) = (kernels().round_to_levels, top(bits));
    let deviation = (square / row.len() as f32).sqrt();
    let widest = row.iter().fold(0f32, |widest, r| widest.max(r.abs()));
    // Wider than this no row needs: its largest value is the highest level.
    let enough = 2.0 * widest / top;
    let per_unit = |&width: &f32| 1.0 / (width * deviation).min(enough);
    let turned = |&per_unit: &f32, levels: &mut [f32]| {
        let (product, square) = round(row, per_unit, top, levels);
        product / square.sqrt()
    };
    let best = widths(bits)
        .iter()
        .map(per_unit)
        .map(|per_unit| (turned(&per_unit, levels), per_unit))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(1.0, |(_, per_unit)| per_unit);
    round(row, best, top, levels).0
}
