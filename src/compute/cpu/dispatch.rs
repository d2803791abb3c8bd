//! The instruction set, chosen once: a table of kernels per instruction set, and the best of those that this CPU has.

use std::sync::LazyLock;

use half::f16;

use super::kernels::differences::{difference, difference_f16};
use super::kernels::{
    Book, ByteStrip, LeaderRow, LeafRow, Minima, NibbleBook, NibbleScan, Quantized, ScoredRow, SignScan,
    Strip,
};
use crate::vectors::{Metric, Neighbor, TopK};

/// Names the instruction set to use, by [`Isa::name`]. Only one that the CPU has and this build knows is taken;
/// anything else is ignored, and the best one is used: a setting carried to another machine must not stop a service.
pub const ISA_VARIABLE: &str = "ANNVIL_ISA";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// F, BW and VL: every server CPU with AVX-512 since Skylake-X.
    Avx512,
    /// With FMA and F16C: every one with AVX2.
    Avx2,
    Neon,
    Portable,
}

impl Isa {
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// `out[i]` of `query` and row `ordinals[i]` of `base`.
type Gather<T> = fn(query: &[f32], base: &[T], ordinals: &[u32], out: &mut [f32]);
type LevelDistances = fn(query: &[f32], steps: &[f32], levels: &[u8], out: &mut [f32]);
type NibbleTables =
    fn(book: NibbleBook<'_>, query: &[f32], scale: f32, values: &mut [f32], tables: &mut [u8]) -> Quantized;
type Product = fn(base: &[f32], dim: usize, ordinals: &[u32], panels: &[f32], out: &mut [f32], stride: usize);

pub type PackedGather = fn(query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32]);
/// See [`round::round_to_levels`](super::kernels::round::round_to_levels).
type RoundToLevels = fn(values: &[f32], per_unit: f32, top: f32, levels: &mut [f32]) -> (f32, f32);

/// See [`quads::product`](super::kernels::quads::product).
pub(super) type QuadProduct = fn(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize);

/// See [`quads::quantize`](super::kernels::quads::quantize).
type Quantize = fn(row: &[f32], centre: &[f32], bytes: &mut [i8]) -> (f32, i32);

/// The kernels of one instruction set. Lengths are asserted; rows are dense, row-major, and as long as the query.
///
/// For one pair of vectors all functions of a table give the same bits (`dot`, `dot_rows`, `dot_gather`; and
/// `dot_gather_f16` those of the widened row). Two instruction sets may differ in the last bits.
pub struct Kernels {
    pub isa: Isa,

    /// ⟨a, b⟩.
    pub dot: fn(a: &[f32], b: &[f32]) -> f32,
    /// Σ (a−b)².
    pub l2: fn(a: &[f32], b: &[f32]) -> f32,
    /// `out[i]` for row `i` of `rows` (`out.len() × query.len()`).
    pub dot_rows: fn(query: &[f32], rows: &[f32], out: &mut [f32]),
    pub l2_rows: fn(query: &[f32], rows: &[f32], out: &mut [f32]),
    /// `out[i]` for row `ordinals[i]` of `base`, whose rows are fetched ahead of use.
    pub dot_gather: Gather<f32>,
    pub l2_gather: Gather<f32>,
    pub dot_gather_f16: Gather<f16>,
    pub l2_gather_f16: Gather<f16>,
    /// `out[i]` = Σ query · level for row `i` of `levels` (`out.len() × query.len()`).
    pub dot_levels: fn(query: &[f32], levels: &[u8], out: &mut [f32]),
    /// `out[i]` = Σ (query − step · level)², with a step for each dimension.
    pub l2_levels: LevelDistances,
    /// `out[i] = Σ_m tables[m][codes[i][m]]`: `tables` is `pq_m × ksub`, `codes` `out.len() × pq_m`, each code below
    /// `ksub`.
    pub pq_scan: fn(tables: &[f32], ksub: usize, codes: &[u8], out: &mut [f32]),
    /// `out[i]` is the integer product of `query` and row `ordinals[i]` of `base`, whose rows are `stride` bytes of codes
    /// of 8, 4, 2 or 1 bits in planes (`kernels::bytes`). The query is as many planes of `stride` values. Rows are not
    /// fetched ahead: a walk has asked for them before.
    pub packed_gather: PackedGather,
    /// Rounds values to levels 0 to `top` of which there are `per_unit` in a unit (`kernels::round`).
    pub round_to_levels: RoundToLevels,
    /// Merges `incoming` into the sorted `slots[..len]` and returns the place of the least of them (`kernels::beam`).
    pub merge: fn(slots: &mut [u64], len: usize, incoming: &mut [u64]) -> usize,
    /// A query's tables for blocks of 4-bit codes; `values` is scratch of `pq_m × 16`.
    pub nibble_tables: NibbleTables,
    /// The keys of a list's rows whose score is `bound` at most, to the front of `out` (a key for each row and
    /// [`NIBBLE_SLACK`](super::NIBBLE_SLACK) more); returns how many. Every instruction set gives the same bits.
    pub nibble_scan: fn(scan: NibbleScan<'_>, bound: f32, out: &mut [u64]) -> usize,
    /// As `nibble_scan`, of blocks whose rows have two numbers each behind their codes.
    pub sign_scan: fn(scan: SignScan<'_>, bound: f32, out: &mut [u64]) -> usize,
    /// A row's code by the anisotropic loss (`kernels::descent`).
    pub descend: Descend,

    /// Rows of a strip: what [`Kernels::product`] takes at once.
    pub(super) strip: usize,
    /// Rows of a panel.
    pub(super) panel: usize,
    pub(super) pack: fn(base: &[f32], dim: usize, ordinals: &[u32], panels: &mut [f32]),
    pub(super) panel_norms: fn(panels: &[f32], dim: usize, norms: &mut [f32]),
    pub(super) product: Product,
    pub(super) quad_product: QuadProduct,
    pub(super) quantize: Quantize,
    /// Whether this CPU multiplies bytes faster than f32.
    pub(super) has_byte_products: fn() -> bool,
    /// The products of one vector with all rows of `panels`: the bits of `product`.
    pub(super) lone_product: fn(row: &[f32], panels: &[f32], out: &mut [f32]),
    pub(super) nearest: fn(products: &[f32], offsets: &[f32], scale: f32, first: u32, best: &mut Neighbor),
    pub(super) offer: fn(strip: Strip<'_>, bounds: &mut [f32], tops: &mut [TopK]),
    pub(super) bytes: ByteKernels,
    pub(super) few_nearest: fn(row: LeaderRow<'_>, hits: &mut Vec<Neighbor>, nearest: &mut [u32]),
    pub(super) minima: fn(row: LeafRow<'_>, groups: &mut [f32], lanes: &mut [f32]),
    pub(super) bounds: fn(minima: Minima<'_>, k: usize, bounds: &mut [f32]),
    pub(super) pick: fn(row: LeafRow<'_>, members: &[u32], bounds: &[f32], tops: &mut [TopK]),
    pub(super) encode: fn(book: Book<'_>, rows: &[f32], codes: &mut [u8]),
    pub(super) sum_gather: fn(base: &[f32], ordinals: &[u32], sum: &mut [f32]),
}

/// Of rows of bytes, within a leaf.
pub(super) struct ByteKernels {
    pub columns: fn(panels: &mut [i32], units: usize, steps: usize, offsets: &mut [i32]),
    pub product: ByteProduct,
}

type Descend =
    fn(scored: ScoredRow<'_>, code: &mut [u8], along: &mut [f32], error: &mut [f32], loss: &mut [f32]);
type ByteProduct = fn(strip: ByteStrip<'_>, panels: &[i32], offsets: &[i32], out: &mut [f32], stride: usize);

impl Kernels {
    /// The distance of one pair.
    pub fn distance(&self, metric: Metric, a: &[f32], b: &[f32]) -> f32 {
        match metric {
            Metric::L2 => (self.l2)(a, b),
            Metric::InnerProduct | Metric::Cosine => metric.distance_of_dot((self.dot)(a, b)),
            Metric::L1 | Metric::Hamming => difference(metric, a, b),
        }
    }

    /// The distances of `query` to consecutive rows.
    pub fn distance_rows(&self, metric: Metric, query: &[f32], rows: &[f32], out: &mut [f32]) {
        match metric {
            Metric::L2 => (self.l2_rows)(query, rows, out),
            Metric::InnerProduct | Metric::Cosine => {
                (self.dot_rows)(query, rows, out);
                distances_of_dots(metric, out);
            }
            Metric::L1 | Metric::Hamming => {
                let rows = rows.chunks_exact(query.len());
                out.iter_mut().zip(rows).for_each(|(out, row)| *out = difference(metric, query, row));
            }
        }
    }

    /// The distances of `query` to the rows of `base` that `ordinals` names.
    pub fn distance_gather(
        &self,
        metric: Metric,
        query: &[f32],
        base: &[f32],
        ordinals: &[u32],
        out: &mut [f32],
    ) {
        match metric {
            Metric::L2 => (self.l2_gather)(query, base, ordinals, out),
            Metric::InnerProduct | Metric::Cosine => {
                (self.dot_gather)(query, base, ordinals, out);
                distances_of_dots(metric, out);
            }
            Metric::L1 | Metric::Hamming => {
                let row = |&row: &u32| &base[row as usize * query.len()..][..query.len()];
                let rows = ordinals.iter().map(row);
                out.iter_mut().zip(rows).for_each(|(out, row)| *out = difference(metric, query, row));
            }
        }
    }

    /// As [`Kernels::distance_gather`], of rows kept as f16.
    pub fn distance_gather_f16(
        &self,
        metric: Metric,
        query: &[f32],
        base: &[f16],
        ordinals: &[u32],
        out: &mut [f32],
    ) {
        match metric {
            Metric::L2 => (self.l2_gather_f16)(query, base, ordinals, out),
            Metric::InnerProduct | Metric::Cosine => {
                (self.dot_gather_f16)(query, base, ordinals, out);
                distances_of_dots(metric, out);
            }
            Metric::L1 | Metric::Hamming => {
                let row = |&row: &u32| &base[row as usize * query.len()..][..query.len()];
                let rows = ordinals.iter().map(row);
                out.iter_mut().zip(rows).for_each(|(out, row)| *out = difference_f16(metric, query, row));
            }
        }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}

fn distances_of_dots(metric: Metric, dots: &mut [f32]) {
    for dot in dots {
        *dot = metric.distance_of_dot(*dot);
    }
}

/// The kernels of every instruction set that this CPU has, the best first. Never empty.
pub fn available() -> Vec<&'static Kernels> {
    let mut tables = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") {
            tables.push(&super::avx512::KERNELS);
        }
        if has!("avx2") && has!("fma") && has!("f16c") {
            tables.push(&super::avx2::KERNELS);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        tables.push(&super::neon::KERNELS);
    }
    tables.push(&super::portable::KERNELS);
    tables
}

/// The kernels to use: the best that the CPU has, or those that [`ISA_VARIABLE`] names. Chosen at the first call.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: LazyLock<&'static Kernels> =
        LazyLock::new(|| choose(&available(), std::env::var(ISA_VARIABLE).ok().as_deref()));
    *CHOSEN
}

fn choose(tables: &[&'static Kernels], asked: Option<&str>) -> &'static Kernels {
    asked.and_then(|name| tables.iter().find(|table| table.isa.name() == name)).unwrap_or(&tables[0])
}

/// A kernel as a safe function pointer: `$kernel`, compiled with the target features, behind a plain function.
macro_rules! entry {
    ([$($feature:literal)?] $kernel:expr, ($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {{
        $(#[target_feature(enable = $feature)])?
        unsafe fn kernel($($arg: $type),*) $(-> $out)? {
            // SAFETY: the features of `$lanes` are those of this function.
            unsafe { $kernel($($arg),*) }
        }
        fn entry($($arg: $type),*) $(-> $out)? {
            // SAFETY: this table leaves `dispatch::available` only where the CPU has these features.
            unsafe { kernel($($arg),*) }
        }
        entry
    }};
}

/// The kernels for rows of bytes, over `$integers`.
macro_rules! byte_kernels {
    ([$($feature:literal)?] $integers:ty, strip: $strip:literal) => {
        crate::compute::cpu::dispatch::ByteKernels {
            columns: entry!([$($feature)?] crate::compute::cpu::kernels::leaf_bytes::byte_columns::<$integers>,
                (panels: &mut [i32], units: usize, steps: usize, offsets: &mut [i32])),
            product: entry!([$($feature)?]
                crate::compute::cpu::kernels::leaf_bytes::byte_product::<$integers, $strip>,
                (strip: crate::compute::cpu::kernels::ByteStrip<'_>, panels: &[i32], offsets: &[i32],
                 out: &mut [f32], stride: usize)),
        }
    };
}

/// The table of one instruction set: the algorithms of `kernels`, compiled over its [`Lanes`](super::lanes::Lanes).
/// `strip` is how many rows a product takes at once (two registers each must stay resident), `rows` how many rows a
/// scan takes at once (four registers each).
macro_rules! kernel_table {
    ($isa:expr, $lanes:ty, strip: $strip:literal, rows: $rows:literal, features: $($feature:literal)?,
     packed_gather: $packed_gather:expr, merge: $merge:expr, bytes: $bytes:expr, quad_product: $quads:expr,
     has_byte_products: $has_bytes:expr, nibbles: $nibbles:ty) => {
        pub(super) static KERNELS: crate::compute::cpu::dispatch::Kernels = {
            use crate::compute::cpu::kernels::{
                codes, descent, leaders, leaf, levels, nibbles, pairs, product, quads, round, scan, sums, Book, LeaderRow, LeafRow, Minima,
                NibbleBook, NibbleScan, Quantized, ScoredRow, SignScan, Strip,
            };
            use crate::vectors::{Neighbor, TopK};

            crate::compute::cpu::dispatch::Kernels {
                isa: $isa,
                dot: entry!([$($feature)?] pairs::pair::<$lanes, pairs::Dot>, (a: &[f32], b: &[f32]) -> f32),
                l2: entry!([$($feature)?] pairs::pair::<$lanes, pairs::L2>, (a: &[f32], b: &[f32]) -> f32),
                dot_rows: entry!([$($feature)?] pairs::rows::<$lanes, pairs::Dot, f32, $rows>,
                    (query: &[f32], rows: &[f32], out: &mut [f32])),
                l2_rows: entry!([$($feature)?] pairs::rows::<$lanes, pairs::L2, f32, $rows>,
                    (query: &[f32], rows: &[f32], out: &mut [f32])),
                dot_gather: entry!([$($feature)?] pairs::gather::<$lanes, pairs::Dot, f32, $rows>,
                    (query: &[f32], base: &[f32], ordinals: &[u32], out: &mut [f32])),
                l2_gather: entry!([$($feature)?] pairs::gather::<$lanes, pairs::L2, f32, $rows>,
                    (query: &[f32], base: &[f32], ordinals: &[u32], out: &mut [f32])),
                dot_gather_f16: entry!([$($feature)?] pairs::gather::<$lanes, pairs::Dot, f16, $rows>,
                    (query: &[f32], base: &[f16], ordinals: &[u32], out: &mut [f32])),
                l2_gather_f16: entry!([$($feature)?] pairs::gather::<$lanes, pairs::L2, f16, $rows>,
                    (query: &[f32], base: &[f16], ordinals: &[u32], out: &mut [f32])),
                dot_levels: entry!([$($feature)?] pairs::rows::<$lanes, pairs::Dot, u8, $rows>,
                    (query: &[f32], levels: &[u8], out: &mut [f32])),
                l2_levels: entry!([$($feature)?] levels::l2::<$lanes, $rows>,
                    (query: &[f32], steps: &[f32], levels: &[u8], out: &mut [f32])),
                pq_scan: codes::pq_scan,
                packed_gather: $packed_gather,
                merge: $merge,
                round_to_levels: entry!([$($feature)?] round::round_to_levels::<$lanes>,
                    (values: &[f32], per_unit: f32, top: f32, levels: &mut [f32]) -> (f32, f32)),
                bytes: $bytes,
                nibble_tables: entry!([$($feature)?] nibbles::tables::<$lanes>,
                    (book: NibbleBook<'_>, query: &[f32], scale: f32, values: &mut [f32], tables: &mut [u8])
                    -> Quantized),
                nibble_scan: entry!([$($feature)?] nibbles::scan::<$nibbles>,
                    (scan: NibbleScan<'_>, bound: f32, out: &mut [u64]) -> usize),
                sign_scan: entry!([$($feature)?] nibbles::sign_scan::<$nibbles>,
                    (scan: SignScan<'_>, bound: f32, out: &mut [u64]) -> usize),
                descend: entry!([$($feature)?] descent::descend::<$lanes>,
                    (scored: ScoredRow<'_>, code: &mut [u8], along: &mut [f32], error: &mut [f32], loss: &mut [f32])),
                strip: $strip,
                panel: product::panel::<$lanes>(),
                pack: entry!([$($feature)?] product::pack::<$lanes>,
                    (base: &[f32], dim: usize, ordinals: &[u32], panels: &mut [f32])),
                panel_norms: entry!([$($feature)?] product::panel_norms::<$lanes>,
                    (panels: &[f32], dim: usize, norms: &mut [f32])),
                product: entry!([$($feature)?] product::product::<$lanes, $strip>,
                    (base: &[f32], dim: usize, ordinals: &[u32], panels: &[f32], out: &mut [f32], stride: usize)),
                quad_product: $quads,
                quantize: entry!([$($feature)?] quads::quantize,
                    (row: &[f32], centre: &[f32], bytes: &mut [i8]) -> (f32, i32)),
                has_byte_products: $has_bytes,
                lone_product: entry!([$($feature)?] product::lone_product::<$lanes>,
                    (row: &[f32], panels: &[f32], out: &mut [f32])),
                nearest: entry!([$($feature)?] scan::nearest::<$lanes>,
                    (products: &[f32], offsets: &[f32], scale: f32, first: u32, best: &mut Neighbor)),
                offer: entry!([$($feature)?] scan::offer::<$lanes, $strip>,
                    (strip: Strip<'_>, bounds: &mut [f32], tops: &mut [TopK])),
                few_nearest: entry!([$($feature)?] leaders::few_nearest::<$lanes>,
                    (row: LeaderRow<'_>, hits: &mut Vec<Neighbor>, nearest: &mut [u32])),
                minima: entry!([$($feature)?] leaf::minima::<$lanes>,
                    (row: LeafRow<'_>, groups: &mut [f32], lanes: &mut [f32])),
                bounds: entry!([$($feature)?] leaf::bounds::<$lanes>,
                    (minima: Minima<'_>, k: usize, bounds: &mut [f32])),
                pick: entry!([$($feature)?] leaf::pick::<$lanes>,
                    (row: LeafRow<'_>, members: &[u32], bounds: &[f32], tops: &mut [TopK])),
                encode: entry!([$($feature)?] codes::encode::<$lanes>,
                    (book: Book<'_>, rows: &[f32], codes: &mut [u8])),
                sum_gather: entry!([$($feature)?] sums::sum_gather::<$lanes>,
                    (base: &[f32], ordinals: &[u32], sum: &mut [f32])),
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_that_is_unknown_or_missing_is_ignored() {
        let tables = available();
        assert_eq!(choose(&tables, None).isa, tables[0].isa);
        assert_eq!(choose(&tables, Some("mmx")).isa, tables[0].isa);
        assert_eq!(choose(&tables, Some("")).isa, tables[0].isa);
        assert_eq!(choose(&tables, Some("portable")).isa, Isa::Portable);
    }
}
