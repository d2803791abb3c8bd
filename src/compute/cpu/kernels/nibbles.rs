//! 4-bit codes, 32 rows at a time with their tables in registers: PQ Fast Scan (André, Kermarrec, Le Scouarnec, VLDB
//! 2015), in the block layout that faiss and ScaNN use.
//!
//! A *block* is 32 rows of codes, transposed: `columns × 32` bytes. Byte `r` of column `c` holds row `r`'s codes of the
//! sub-vectors `2c` (low half) and `2c + 1`. A table of 16 entries fits one 128-bit register, and one shuffle looks 16 to
//! 64 codes up. So entries are single bytes: see [`tables`].

use super::super::lanes::Lanes;

/// Rows of a block.
pub const BLOCK_ROWS: usize = 32;

/// Entries of a table.
const KSUB: usize = 16;

/// Bytes of the tables of one column, low half and high half, each twice: as a 256-bit register wants them.
const COLUMN_TABLES: usize = 64;

/// The greatest entry of a table: two of them still fit a byte, so that sums are widened to 16 bits half as often. On
/// glove100 (50 tables, recall@10 at 40 candidates) all 8 bits gave the .877 that 7 give, 6 bits .875.
const MAX_ENTRY: usize = 127;

/// Codebooks of 16 entries, as a query's tables are made from them.
#[derive(Debug, Clone, Copy)]
pub struct NibbleBook<'a> {
    pub pq_m: usize,
    pub dsub: usize,
    /// `pq_m × dsub × 16`: a dimension of all entries together.
    pub entries: &'a [f32],
    /// `pq_m × 16`: what is added to an entry's product; or nothing.
    pub offsets: &'a [f32],
}

/// How sums of table entries become scores: `offset + step · sum`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantized {
    pub step: f32,
    pub offset: f32,
}

/// Bytes of the tables for `pq_m` sub-vectors: whole pairs of columns.
pub fn tables_len(pq_m: usize) -> usize {
    pq_m.div_ceil(4) * 2 * COLUMN_TABLES
}

/// Makes the tables of a query (`pq_m · dsub` values): entry `j` of table `m` stands for
/// `offsets[m][j] + scale · ⟨query's sub-vector m, entry j⟩`, less the least value of its table, in steps that all tables
/// share. `values` is scratch of `pq_m × 16`.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn tables<L: Lanes>(
    book: NibbleBook<'_>,
    query: &[f32],
    scale: f32,
    values: &mut [f32],
    tables: &mut [u8],
) -> Quantized {
    let NibbleBook { pq_m, dsub, entries, offsets } = book;
    assert!(pq_m > 0 && (1..=KSUB).contains(&L::WIDTH));
    assert_eq!((query.len(), entries.len()), (pq_m * dsub, pq_m * dsub * KSUB));
    assert_eq!((values.len(), tables.len()), (pq_m * KSUB, tables_len(pq_m)));
    assert!(offsets.is_empty() || offsets.len() == values.len());
    let (mut offset, mut range) = (0.0f64, 0.0f32);
    for m in 0..pq_m {
        // SAFETY: every register lies within the 16 values of its row, and the assertions say that the rows are there.
        unsafe {
            let (mut least, mut negated) = (L::splat(f32::INFINITY), L::splat(f32::INFINITY));
            for at in (m * KSUB..(m + 1) * KSUB).step_by(L::WIDTH) {
                let mut sum =
                    if offsets.is_empty() { L::splat(0.0) } else { L::load(offsets.as_ptr().add(at)) };
                for (step, &value) in query[m * dsub..(m + 1) * dsub].iter().enumerate() {
                    let row = entries.as_ptr().add((m * dsub + step) * KSUB + at - m * KSUB);
                    sum = L::mul_add(L::splat(scale * value), L::load(row), sum);
                }
                least = L::min(sum, least);
                negated = L::min(L::sub(L::splat(0.0), sum), negated);
                L::store(values.as_mut_ptr().add(at), sum);
            }
            let low = L::least(least);
            range = range.max(-L::least(negated) - low);
            offset += f64::from(low);
            for at in (m * KSUB..(m + 1) * KSUB).step_by(L::WIDTH) {
                let value = L::sub(L::load(values.as_ptr().add(at)), L::splat(low));
                L::store(values.as_mut_ptr().add(at), value);
            }
        }
    }
    // Sums are 16 bits wide.
    let limit = MAX_ENTRY.min(usize::from(u16::MAX) / pq_m) as f32;
    let per_value = if (limit / range).is_finite() { limit / range } else { 0.0 };
    tables.fill(0);
    // Whole registers, not slices: a copy of sixteen bytes would be a call.
    let registers = tables.as_chunks_mut::<KSUB>().0;
    for (m, values) in values.as_chunks::<KSUB>().0.iter().enumerate() {
        let mut entries = [0; KSUB];
        for (entry, &value) in entries.iter_mut().zip(values) {
            let steps = (value * per_value + 0.5).max(0.0).min(limit);
            // SAFETY: between 0 and `limit`; a conversion that checks this again would not be vectorised.
            *entry = unsafe { steps.to_int_unchecked::<i32>() } as u8;
        }
        let at = (m / 4 * 2 * COLUMN_TABLES + m % 2 * COLUMN_TABLES) / KSUB + m / 2 % 2 * 2;
        registers[at] = entries;
        registers[at + 1] = entries;
    }
    Quantized { step: if per_value > 0.0 { range / limit } else { 0.0 }, offset: offset as f32 }
}

/// Consecutive blocks of one list and the tables to look them up in.
#[derive(Debug, Clone, Copy)]
pub struct NibbleScan<'a> {
    /// Whole blocks.
    pub blocks: &'a [u8],
    /// Rows in them: the last block may hold fewer than 32.
    pub rows: usize,
    /// The ordinal of the first row.
    pub first: u32,
    pub pq_m: usize,
    pub tables: &'a [u8],
    pub quantized: Quantized,
    /// Rows that may be found: bit `i % 64` of word `i / 64` is ordinal `i`. Empty: all.
    pub allowed: &'a [u64],
}

impl NibbleScan<'_> {
    /// A bit for each of the (at most 32) rows from `start` on, counted from the first, that is there and allowed.
    #[inline(always)]
    fn valid(&self, start: usize) -> u32 {
        let there = u32::MAX >> (BLOCK_ROWS - (self.rows - start).min(BLOCK_ROWS));
        if self.allowed.is_empty() {
            return there;
        }
        let ordinal = self.first as usize + start;
        let (word, shift) = (ordinal / 64, ordinal % 64);
        let mut bits = self.allowed[word] >> shift;
        if shift > 64 - BLOCK_ROWS
            && let Some(next) = self.allowed.get(word + 1)
        {
            bits |= next << (64 - shift);
        }
        there & bits as u32
    }
}

/// Columns of a block of [`SignScan`] that hold its rows' numbers: f32 for each of 32 rows, twice.
pub const NUMBER_COLUMNS: usize = 2 * size_of::<f32>();

/// Rows whose score is not the sum itself: behind the columns of a block's codes follow a number to add for each of its rows,
/// and a factor for each. Row r's score is `addᵣ + shared + factorᵣ · (offset + step · sumᵣ)`.
#[derive(Debug, Clone, Copy)]
pub struct SignScan<'a> {
    /// Its blocks are `columns + NUMBER_COLUMNS` columns.
    pub nibbles: NibbleScan<'a>,
    pub shared: f32,
}

/// What differs from one instruction set to the next. Scores are the same bits everywhere: a product and a sum, each
/// rounded.
///
/// # Safety
/// The CPU has the instruction set of the implementation; a block is `columns × 32` bytes, tables as many as
/// [`tables_len`] says.
pub trait Nibbles {
    /// The sums of one block's rows.
    unsafe fn sums(block: *const u8, columns: usize, tables: *const u8, sums: &mut [u16; BLOCK_ROWS]);

    /// Fills `scores`; bit `r` of what is returned is set where row `r`'s is `bound` at most.
    #[inline(always)]
    unsafe fn below(
        sums: &[u16; BLOCK_ROWS],
        quantized: Quantized,
        bound: f32,
        scores: &mut [f32; BLOCK_ROWS],
    ) -> u32 {
        for (score, &sum) in scores.iter_mut().zip(sums) {
            *score = quantized.step * f32::from(sum) + quantized.offset;
        }
        let any = scores.iter().fold(false, |any, &score| any | (score <= bound));
        if !any {
            return 0;
        }
        scores.iter().rev().fold(0, |bits, &score| bits << 1 | u32::from(score <= bound))
    }

    /// As [`below`](Self::below), for a block's `numbers`: 32 to add, then 32 factors.
    #[inline(always)]
    unsafe fn below_scaled(
        sums: &[u16; BLOCK_ROWS],
        numbers: *const u8,
        (quantized, shared): (Quantized, f32),
        bound: f32,
        scores: &mut [f32; BLOCK_ROWS],
    ) -> u32 {
        // SAFETY: the caller has both numbers of every row.
        let [adds, factors] = unsafe { numbers.cast::<[[f32; BLOCK_ROWS]; 2]>().read_unaligned() };
        for (row, score) in scores.iter_mut().enumerate() {
            let product = quantized.step * f32::from(sums[row]) + quantized.offset;
            *score = factors[row] * product + (adds[row] + shared);
        }
        scores.iter().rev().fold(0, |bits, &score| bits << 1 | u32::from(score <= bound))
    }

    /// Writes the keys of the rows in `hits`, from the lowest; eight values more may be overwritten behind them.
    #[inline(always)]
    unsafe fn push(mut hits: u32, scores: &[f32; BLOCK_ROWS], first: u32, out: *mut u64) {
        let mut to = out;
        while hits != 0 {
            let row = hits.trailing_zeros();
            // SAFETY: the caller has room for a key of every hit.
            unsafe {
                *to = key(scores[row as usize], first + row);
                to = to.add(1);
            }
            hits &= hits - 1;
        }
    }
}

#[inline(always)]
fn key(score: f32, ordinal: u32) -> u64 {
    crate::vectors::Neighbor::new(ordinal, score).key()
}

/// Room that `scan` wants behind the keys of all rows.
pub const SLACK: usize = 8;

/// The [`key`](crate::vectors::Neighbor::key)s of the rows whose score is `bound` at most, to the front of `out`; returns
/// how many.
///
/// # Safety
/// As [`Nibbles`].
#[inline(always)]
pub unsafe fn scan<N: Nibbles>(scan: NibbleScan<'_>, bound: f32, out: &mut [u64]) -> usize {
    let NibbleScan { blocks, rows, first, pq_m, tables, quantized, allowed } = scan;
    let columns = pq_m.div_ceil(2);
    assert!(pq_m > 0 && tables.len() == tables_len(pq_m));
    assert_eq!(blocks.len(), rows.div_ceil(BLOCK_ROWS) * columns * BLOCK_ROWS, "blocks for {rows} rows");
    assert!(out.len() >= rows + SLACK);
    assert!(allowed.is_empty() || first as usize + rows <= 64 * allowed.len(), "a mask of fewer rows");
    let mut found = 0;
    let (mut sums, mut scores) = ([0; BLOCK_ROWS], [0.0; BLOCK_ROWS]);
    for (index, block) in blocks.chunks_exact(columns * BLOCK_ROWS).enumerate() {
        let start = index * BLOCK_ROWS;
        let valid = scan.valid(start);
        if valid == 0 {
            continue;
        }
        // SAFETY: the trait's, by the assertions; at most as many keys as rows before `start + 32` are written, and the
        // slack behind them.
        unsafe {
            N::sums(block.as_ptr(), columns, tables.as_ptr(), &mut sums);
            let hits = N::below(&sums, quantized, bound, &mut scores) & valid;
            if hits != 0 {
                N::push(hits, &scores, first + start as u32, out.as_mut_ptr().add(found));
                found += hits.count_ones() as usize;
            }
        }
    }
    found
}

/// As [`scan`], of rows with numbers of their own.
///
/// # Safety
/// As [`Nibbles`].
#[inline(always)]
pub unsafe fn sign_scan<N: Nibbles>(scan: SignScan<'_>, bound: f32, out: &mut [u64]) -> usize {
    let SignScan { nibbles, shared } = scan;
    let NibbleScan { blocks, rows, first, pq_m, tables, quantized, allowed } = nibbles;
    let columns = pq_m.div_ceil(2);
    let block_bytes = (columns + NUMBER_COLUMNS) * BLOCK_ROWS;
    assert!(pq_m > 0 && tables.len() == tables_len(pq_m));
    assert_eq!(blocks.len(), rows.div_ceil(BLOCK_ROWS) * block_bytes, "blocks for {rows} rows");
    assert!(out.len() >= rows + SLACK);
    assert!(allowed.is_empty() || first as usize + rows <= 64 * allowed.len(), "a mask of fewer rows");
    let mut found = 0;
    let (mut sums, mut scores) = ([0; BLOCK_ROWS], [0.0; BLOCK_ROWS]);
    for (index, block) in blocks.chunks_exact(block_bytes).enumerate() {
        let start = index * BLOCK_ROWS;
        let valid = nibbles.valid(start);
        if valid == 0 {
            continue;
        }
        // SAFETY: as in `scan`; the numbers lie behind the columns.
        unsafe {
            N::sums(block.as_ptr(), columns, tables.as_ptr(), &mut sums);
            let numbers = block.as_ptr().add(columns * BLOCK_ROWS);
            let hits = N::below_scaled(&sums, numbers, (quantized, shared), bound, &mut scores) & valid;
            if hits != 0 {
                N::push(hits, &scores, first + start as u32, out.as_mut_ptr().add(found));
                found += hits.count_ones() as usize;
            }
        }
    }
    found
}

/// Loops that one can check by eye: the definition.
pub struct PlainNibbles;

impl Nibbles for PlainNibbles {
    #[inline(always)]
    unsafe fn sums(block: *const u8, columns: usize, tables: *const u8, sums: &mut [u16; BLOCK_ROWS]) {
        // SAFETY: as the trait.
        let (block, tables) = unsafe {
            let tables_len = columns.next_multiple_of(2) * COLUMN_TABLES;
            (
                std::slice::from_raw_parts(block, columns * BLOCK_ROWS),
                std::slice::from_raw_parts(tables, tables_len),
            )
        };
        sums.fill(0);
        for (column, codes) in block.chunks_exact(BLOCK_ROWS).enumerate() {
            let low = &tables[column / 2 * 2 * COLUMN_TABLES + column % 2 * 2 * KSUB..];
            let high = &low[COLUMN_TABLES..];
            for (sum, &code) in sums.iter_mut().zip(codes) {
                *sum += u16::from(low[usize::from(code & 15)]) + u16::from(high[usize::from(code >> 4)]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2Nibbles, Avx512Nibbles};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK_ROWS, COLUMN_TABLES, Nibbles, Quantized};

    /// 16-bit sums of the even and of the odd bytes, back to the order of the rows.
    #[inline(always)]
    unsafe fn in_order(even: __m256i, odd: __m256i) -> (__m256i, __m256i) {
        let low = _mm256_unpacklo_epi16(even, odd);
        let high = _mm256_unpackhi_epi16(even, odd);
        (_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
    }

    /// A column of 32 rows per step.
    pub struct Avx2Nibbles;

    impl Nibbles for Avx2Nibbles {
        #[inline(always)]
        unsafe fn sums(block: *const u8, columns: usize, tables: *const u8, sums: &mut [u16; BLOCK_ROWS]) {
            let (half, low_byte) = (_mm256_set1_epi8(15), _mm256_set1_epi16(255));
            let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for column in 0..columns {
                let at = tables.add(column / 2 * 2 * COLUMN_TABLES + column % 2 * (COLUMN_TABLES / 2));
                let codes = _mm256_loadu_si256(block.add(column * BLOCK_ROWS).cast());
                let low = _mm256_and_si256(codes, half);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), half);
                let low = _mm256_shuffle_epi8(_mm256_loadu_si256(at.cast()), low);
                let high = _mm256_shuffle_epi8(_mm256_loadu_si256(at.add(COLUMN_TABLES).cast()), high);
                let sum = _mm256_add_epi8(low, high);
                even = _mm256_add_epi16(even, _mm256_and_si256(sum, low_byte));
                odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(sum));
            }
            let (first, second) = in_order(even, odd);
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(sums.as_mut_ptr().add(16).cast(), second);
        }

        #[inline(always)]
        unsafe fn below(
            sums: &[u16; BLOCK_ROWS],
            quantized: Quantized,
            bound: f32,
            scores: &mut [f32; BLOCK_ROWS],
        ) -> u32 {
            let (step, offset) = (_mm256_set1_ps(quantized.step), _mm256_set1_ps(quantized.offset));
            let bound = _mm256_set1_ps(bound);
            let mut hits = 0;
            for at in (0..BLOCK_ROWS).step_by(8) {
                let sum = _mm256_cvtepu16_epi32(_mm_loadu_si128(sums.as_ptr().add(at).cast()));
                let score = _mm256_add_ps(_mm256_mul_ps(step, _mm256_cvtepi32_ps(sum)), offset);
                _mm256_storeu_ps(scores.as_mut_ptr().add(at), score);
                hits |= (_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(score, bound)) as u32) << at;
            }
            hits
        }

        #[inline(always)]
        unsafe fn below_scaled(
            sums: &[u16; BLOCK_ROWS],
            numbers: *const u8,
            (quantized, shared): (Quantized, f32),
            bound: f32,
            scores: &mut [f32; BLOCK_ROWS],
        ) -> u32 {
            let (step, offset) = (_mm256_set1_ps(quantized.step), _mm256_set1_ps(quantized.offset));
            let (bound, shared) = (_mm256_set1_ps(bound), _mm256_set1_ps(shared));
            let (adds, factors) = (numbers.cast::<f32>(), numbers.cast::<f32>().add(BLOCK_ROWS));
            let mut hits = 0;
            for at in (0..BLOCK_ROWS).step_by(8) {
                let sum = _mm256_cvtepu16_epi32(_mm_loadu_si128(sums.as_ptr().add(at).cast()));
                let product = _mm256_add_ps(_mm256_mul_ps(step, _mm256_cvtepi32_ps(sum)), offset);
                let scaled = _mm256_mul_ps(_mm256_loadu_ps(factors.add(at)), product);
                let score = _mm256_add_ps(scaled, _mm256_add_ps(_mm256_loadu_ps(adds.add(at)), shared));
                _mm256_storeu_ps(scores.as_mut_ptr().add(at), score);
                hits |= (_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(score, bound)) as u32) << at;
            }
            hits
        }
    }

    // Functions, not closures: a closure has not the instruction set of what it stands in, so that where it is not inlined every
    // intrinsic becomes a call.

    /// Sums of the even and of the odd bytes, with what two columns' codes stand for in their tables.
    #[inline(always)]
    unsafe fn looked_up(
        (even, odd): (__m512i, __m512i),
        codes: __m512i,
        tables: *const u8,
    ) -> (__m512i, __m512i) {
        let (half, low_byte) = (_mm512_set1_epi8(15), _mm512_set1_epi16(255));
        let low = _mm512_and_si512(codes, half);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), half);
        let low = _mm512_shuffle_epi8(_mm512_loadu_si512(tables.cast()), low);
        let high = _mm512_shuffle_epi8(_mm512_loadu_si512(tables.add(COLUMN_TABLES).cast()), high);
        let sum = _mm512_add_epi8(low, high);
        (
            _mm512_add_epi16(even, _mm512_and_si512(sum, low_byte)),
            _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(sum)),
        )
    }

    /// The sums of both columns.
    #[inline(always)]
    unsafe fn folded(sums: __m512i) -> __m256i {
        _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums))
    }

    /// Two columns of 32 rows per step.
    pub struct Avx512Nibbles;

    impl Nibbles for Avx512Nibbles {
        #[inline(always)]
        unsafe fn sums(block: *const u8, columns: usize, tables: *const u8, sums: &mut [u16; BLOCK_ROWS]) {
            let mut both = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let pairs = columns / 2;
            for pair in 0..pairs {
                let codes = _mm512_loadu_si512(block.add(pair * 2 * BLOCK_ROWS).cast());
                both = looked_up(both, codes, tables.add(pair * 2 * COLUMN_TABLES));
            }
            if columns % 2 == 1 {
                // The tables of the column that is not there are 0.
                let codes = _mm512_maskz_loadu_epi64(0x0f, block.add(pairs * 2 * BLOCK_ROWS).cast());
                both = looked_up(both, codes, tables.add(pairs * 2 * COLUMN_TABLES));
            }
            let (first, second) = in_order(folded(both.0), folded(both.1));
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(sums.as_mut_ptr().add(16).cast(), second);
        }

        #[inline(always)]
        unsafe fn below(
            sums: &[u16; BLOCK_ROWS],
            quantized: Quantized,
            bound: f32,
            scores: &mut [f32; BLOCK_ROWS],
        ) -> u32 {
            let (step, offset) = (_mm512_set1_ps(quantized.step), _mm512_set1_ps(quantized.offset));
            let bound = _mm512_set1_ps(bound);
            let mut hits = 0;
            for at in (0..BLOCK_ROWS).step_by(16) {
                let sum = _mm512_cvtepu16_epi32(_mm256_loadu_si256(sums.as_ptr().add(at).cast()));
                let score = _mm512_add_ps(_mm512_mul_ps(step, _mm512_cvtepi32_ps(sum)), offset);
                _mm512_storeu_ps(scores.as_mut_ptr().add(at), score);
                hits |= u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(score, bound)) << at;
            }
            hits
        }

        #[inline(always)]
        unsafe fn below_scaled(
            sums: &[u16; BLOCK_ROWS],
            numbers: *const u8,
            (quantized, shared): (Quantized, f32),
            bound: f32,
            scores: &mut [f32; BLOCK_ROWS],
        ) -> u32 {
            let (step, offset) = (_mm512_set1_ps(quantized.step), _mm512_set1_ps(quantized.offset));
            let (bound, shared) = (_mm512_set1_ps(bound), _mm512_set1_ps(shared));
            let (adds, factors) = (numbers.cast::<f32>(), numbers.cast::<f32>().add(BLOCK_ROWS));
            let mut hits = 0;
            for at in (0..BLOCK_ROWS).step_by(16) {
                let sum = _mm512_cvtepu16_epi32(_mm256_loadu_si256(sums.as_ptr().add(at).cast()));
                let product = _mm512_add_ps(_mm512_mul_ps(step, _mm512_cvtepi32_ps(sum)), offset);
                let scaled = _mm512_mul_ps(_mm512_loadu_ps(factors.add(at)), product);
                let score = _mm512_add_ps(scaled, _mm512_add_ps(_mm512_loadu_ps(adds.add(at)), shared));
                _mm512_storeu_ps(scores.as_mut_ptr().add(at), score);
                hits |= u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(score, bound)) << at;
            }
            hits
        }

        #[inline(always)]
        unsafe fn push(hits: u32, scores: &[f32; BLOCK_ROWS], first: u32, mut out: *mut u64) {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            for at in (0..BLOCK_ROWS).step_by(16) {
                let own = (hits >> at) as u16;
                if own == 0 {
                    continue;
                }
                // `Neighbor::key`, sixteen at a time.
                let score = _mm512_add_ps(_mm512_loadu_ps(scores.as_ptr().add(at)), _mm512_setzero_ps());
                let bits = _mm512_castps_si512(score);
                let flip = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
                let ordered = _mm512_maskz_compress_epi32(own, _mm512_xor_si512(bits, flip));
                let ordinals = _mm512_add_epi32(lanes, _mm512_set1_epi32((first as usize + at) as i32));
                let ordinals = _mm512_maskz_compress_epi32(own, ordinals);
                let low = _mm512_unpacklo_epi32(ordinals, ordered);
                let high = _mm512_unpackhi_epi32(ordinals, ordered);
                let front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
                _mm512_storeu_si512(out.cast(), _mm512_permutex2var_epi64(low, front, high));
                let count = own.count_ones() as usize;
                if count > 8 {
                    let back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
                    _mm512_storeu_si512(out.add(8).cast(), _mm512_permutex2var_epi64(low, back, high));
                }
                out = out.add(count);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub use neon::NeonNibbles;

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod neon {
    use std::arch::aarch64::*;

    use super::{BLOCK_ROWS, COLUMN_TABLES, Nibbles};

    /// Half a column per register.
    pub struct NeonNibbles;

    impl Nibbles for NeonNibbles {
        #[inline(always)]
        unsafe fn sums(block: *const u8, columns: usize, tables: *const u8, sums: &mut [u16; BLOCK_ROWS]) {
            let mut wide = [vdupq_n_u16(0); 4];
            for column in 0..columns {
                let at = tables.add(column / 2 * 2 * COLUMN_TABLES + column % 2 * (COLUMN_TABLES / 2));
                let (low, high) = (vld1q_u8(at), vld1q_u8(at.add(COLUMN_TABLES)));
                for half in 0..2 {
                    let codes = vld1q_u8(block.add(column * BLOCK_ROWS + 16 * half));
                    let sum = vaddq_u8(
                        vqtbl1q_u8(low, vandq_u8(codes, vdupq_n_u8(15))),
                        vqtbl1q_u8(high, vshrq_n_u8::<4>(codes)),
                    );
                    wide[2 * half] = vaddw_u8(wide[2 * half], vget_low_u8(sum));
                    wide[2 * half + 1] = vaddw_high_u8(wide[2 * half + 1], sum);
                }
            }
            for (part, wide) in wide.into_iter().enumerate() {
                vst1q_u16(sums.as_mut_ptr().add(8 * part), wide);
            }
        }
    }
}
