//! The committed corpora of the fuzz targets, each input by the function that is fuzzed: in seconds, without a fuzzer.
#![cfg(feature = "build")]

#[path = "../fuzz/borders.rs"]
mod borders;

use std::path::Path;

/// Each input of a border, and as many that are made of it by a few seeded changes: none may panic.
fn replay(name: &str, border: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    let (mut taken, mut refused) = (0, 0);
    let mut random = annvil::vectors::Random::new(1);
    for input in &inputs {
        let bytes = std::fs::read(input).unwrap();
        *(if border(&bytes) { &mut taken } else { &mut refused }) += 1;
        for _ in 0..20 {
            let mut changed = bytes.clone();
            for _ in 0..1 + random.below(3) {
                if changed.is_empty() {
                    break;
                }
                let at = random.below(changed.len());
                match random.below(3) {
                    0 => changed[at] ^= 1 << random.below(8),
                    1 => changed.truncate(at),
                    _ => drop(changed.splice(at..at, b"-1".iter().copied())),
                }
            }
            border(&changed);
        }
    }
    assert!(
        taken > 0 && refused > 0,
        "{name}: of {} inputs {taken} are taken, {refused} are not",
        inputs.len()
    );
}

#[test]
fn manifests() {
    replay("manifest", borders::manifest);
}

#[test]
fn sections() {
    replay("section", borders::section);
}

#[test]
fn job_files() {
    replay("job", borders::job);
}

#[test]
fn parquet_files() {
    replay("parquet", borders::parquet);
}
