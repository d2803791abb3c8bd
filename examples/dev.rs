use annvil::{compute::cpu::Cpu, hnsw::*, index::*, vectors::*};
use std::{sync::Arc, time::Instant};
fn cpu_s() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let v: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (v[11].parse::<f64>().unwrap() + v[12].parse::<f64>().unwrap()) / 100.0
}
fn rd<T: bytemuck::Pod>(p: &str) -> Vec<T> {
    bytemuck::pod_collect_to_vec(&std::fs::read(p).unwrap())
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let name = &a[1];
    let dim: usize = if name == "glove100" {
        100
    } else if name == "mnist" {
        784
    } else {
        384
    };
    let get =
        |k: &str, d: &str| a.iter().find_map(|s| s.strip_prefix(&format!("{k}="))).unwrap_or(d).to_string();
    let base = VectorBuf::new(rd(&format!("/work/dev/{name}.base.bin")), dim);
    let q = VectorBuf::new(rd(&format!("/work/dev/{name}.query.bin")), dim);
    let gt: Vec<i32> = rd(&format!("/work/dev/{name}.gt.bin"));
    let p = HnswParams {
        m: get("m", "16").parse().unwrap(),
        c_max: get("c", "512").parse().unwrap(),
        fanout: get("f", "8,2").split(',').map(|x| x.parse().unwrap()).collect(),
        leaf_k: get("k", "3").parse().unwrap(),
        l_max: get("l", "48").parse().unwrap(),
        alpha: get("a", "1.0").parse().unwrap(),
        code: get("code", "sq8").parse().unwrap(),
    };
    let (t, c) = (Instant::now(), cpu_s());
    let b = build(&Cpu, base.view(), Metric::L2, &p, 42).unwrap();
    println!("build wall {:?} cpu {:.2} {:?}", t.elapsed(), cpu_s() - c, b.stats);
    let ix = Arc::new(b.index);
    let order = b.order;
    let mut s = ix.clone().searcher();
    let mut out = Vec::new();
    for ef in [16, 24, 32, 48, 64, 96, 128, 192, 256, 512] {
        let nq = q.rows().min(5000);
        let mut hits = 0;
        let (t, c) = (Instant::now(), cpu_s());
        for i in 0..nq {
            s.search(q.row(i), &SearchParams { k: 10, effort: ef, refine: 0 }, &mut out);
            hits += gt[i * 100..i * 100 + 10]
                .iter()
                .filter(|g| out.iter().any(|e| order[e.ordinal as usize] == **g as u32))
                .count();
        }
        println!(
            "ef {ef} recall {:.4} qps {:.0} cpuqps {:.0}",
            hits as f64 / (nq * 10) as f64,
            nq as f64 / t.elapsed().as_secs_f64(),
            nq as f64 / (cpu_s() - c)
        );
    }
}
