use half::f16;
pub struct Kernels {
    pub dot_rows: fn(&[f32], &[f32], &mut [f32]),
    pub l2_rows: fn(&[f32], &[f32], &mut [f32]),
    pub dot_gather: fn(&[f32], &[f32], &[u32], &mut [f32]),
    pub l2_gather: fn(&[f32], &[f32], &[u32], &mut [f32]),
    pub dot_gather_f16: fn(&[f32], &[f16], &[u32], &mut [f32]),
    pub l2_gather_f16: fn(&[f32], &[f16], &[u32], &mut [f32]),
    pub pq_scan: fn(&[f32], usize, &[u8], &mut [f32]),
}
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
fn l2(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}
fn wide(v: &[f16]) -> Vec<f32> {
    v.iter().map(|x| x.to_f32()).collect()
}
static K: Kernels = Kernels {
    dot_rows: |q, r, o| r.chunks_exact(q.len()).zip(o).for_each(|(r, o)| *o = dot(q, r)),
    l2_rows: |q, r, o| r.chunks_exact(q.len()).zip(o).for_each(|(r, o)| *o = l2(q, r)),
    dot_gather: |q, r, i, o| {
        i.iter().zip(o).for_each(|(&i, o)| *o = dot(q, &r[i as usize * q.len()..][..q.len()]))
    },
    l2_gather: |q, r, i, o| i.iter().zip(o).for_each(|(&i, o)| *o = l2(q, &r[i as usize * q.len()..][..q.len()])),
    dot_gather_f16: |q, r, i, o| {
        i.iter().zip(o).for_each(|(&i, o)| *o = dot(q, &wide(&r[i as usize * q.len()..][..q.len()])))
    },
    l2_gather_f16: |q, r, i, o| {
        i.iter().zip(o).for_each(|(&i, o)| *o = l2(q, &wide(&r[i as usize * q.len()..][..q.len()])))
    },
    pq_scan: |t, ksub, c, o| {
        let m = t.len() / ksub;
        c.chunks_exact(m).zip(o).for_each(|(c, o)| {
            *o = c.iter().enumerate().map(|(b, &c)| t[b * ksub + c as usize]).sum();
        })
    },
};
pub fn kernels() -> &'static Kernels {
    &K
}
