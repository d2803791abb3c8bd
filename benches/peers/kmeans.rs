//! One k-means over the rows of an `.fbin` file (u32 rows, u32 dimensions, f32 values, little-endian), for
//! `kmeans.py`: prints its CPU-seconds and the inertia of its centroids over all rows as one line of JSON.
//!
//!     cargo run --release --example kmeans -- rows.fbin 1024 [iterations] [exact]

use std::error::Error;

use annvil::compute::Compute;
use annvil::compute::cpu::Cpu;
use annvil::train::{self, KmeansParams, unobserved};
use annvil::vectors::{Metric, VectorBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, k, rest @ ..] = arguments.as_slice() else {
        return Err("usage: kmeans <rows.fbin> <k> [iterations] [exact]".into());
    };
    let rows = read_fbin(path)?;
    let mut params = KmeansParams::new(k.parse()?, 42);
    // All rows are the sample, and no pass is left out.
    params.max_rows_per_centroid = rows.rows();
    params.tolerance = 0.0;
    for option in rest {
        match option.as_str() {
            "exact" => params.exact = true,
            iterations => params.iterations = iterations.parse()?,
        }
    }
    let before = cpu_seconds()?;
    let trained = train::train(&Cpu::new(), rows.view(), &params, &unobserved)?;
    let cpu_s = cpu_seconds()? - before;

    let cpu = Cpu::new();
    let nearest = cpu.assign(&cpu.upload(rows.view())?, trained.centroids.view(), Metric::L2)?;
    let inertia: f64 = nearest.iter().map(|found| f64::from(found.distance)).sum();
    let passes = trained.inertia.len();
    println!("{}", serde_json::json!({ "cpu_s": cpu_s, "inertia": inertia, "passes": passes }));
    Ok(())
}

fn read_fbin(path: &str) -> Result<VectorBuf, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let (head, values) = bytes.split_at_checked(8).ok_or("no header")?;
    let [rows, dim] =
        [&head[..4], &head[4..]].map(|part| u32::from_le_bytes(part.try_into().unwrap()) as usize);
    if dim == 0 || Some(values.len()) != rows.checked_mul(dim).and_then(|count| count.checked_mul(4)) {
        return Err(format!("{} bytes are not {rows} rows of {dim} values", values.len()).into());
    }
    Ok(VectorBuf::new(bytemuck::pod_collect_to_vec(values), dim))
}

/// User and system time of all threads so far.
#[cfg(unix)]
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is good for one `rusage`, and zeroes are one.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

#[cfg(not(unix))]
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    Err("CPU time is read on Unix only".into())
}
