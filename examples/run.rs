use annvil::job::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut spec = JobSpec::from_path(&a[1]).unwrap_or_else(|e| panic!("{e}"));
    spec = spec.override_with(&Overrides { output: Some(a[2].clone()), threads: a.get(3).map(|t| t.parse().unwrap()), backend: a.get(4).and_then(|b| Backend::from_name(b)), ..Default::default() }).unwrap();
    let p = Progress::new(PlainLines::new(std::io::stderr()), CancelToken::new());
    match run(&spec, &p) { Ok(s) => { for st in &s.stages { println!("{:40} wall {:8.0} cpu {:8.0}", st.name, st.wall_ms, st.cpu_ms); } println!("peak {:?}", s.peak_memory_bytes.map(|b| b >> 20));
      for i in &s.indexes { println!("{} {:?}", i.name, i.outcome); for p in &i.certificate.points { println!("  {:5} {:4} {:?} p50 {:.0}us qps {:.0}", p.effort, p.refine, p.recall.iter().map(|r| (r.k, (r.mean*1e4).round()/1e4)).collect::<Vec<_>>(), p.latency_us.p50, p.qps); } println!("  chosen {} {}", i.certificate.chosen_effort, i.certificate.chosen_refine); } }
      Err(e) => println!("ERR {} {e}", e.kind()) }
}
