//! What is fuzzed: each place where bytes from outside come in. Shared by the fuzz targets and by `tests/corpora.rs`, which replays the
//! committed corpora. Each function returns whether the bytes were taken; a panic is a finding.

use annvil::artifact::{Manifest, safetensors};
use annvil::job::JobSpec;
use annvil::source::{Source, SourceSpec};
use annvil::store::{Location, runtime};
use annvil::vectors::Metric;

/// A manifest; whatever is taken is written and read back as the same. Without its seal too, which no mutation gets past.
pub fn manifest(bytes: &[u8]) -> bool {
    let sealed = Manifest::decode(bytes, "golden", 1).is_ok();
    let resealed = Manifest::decode(&seal(bytes), "golden", 1);
    if let Ok(manifest) = &resealed {
        let again = Manifest::decode(&manifest.encode().unwrap(), "golden", 1).unwrap();
        assert_eq!(again, *manifest);
    }
    sealed || resealed.is_ok()
}

/// FORMAT.md, *Manifest*.
fn seal(json: &[u8]) -> Vec<u8> {
    let hash = annvil::artifact::Digest::of(json);
    [format!("{{\"blake3\":\"{hash}\",\"manifest\":\n").as_bytes(), json, b"\n}\n"].concat()
}

/// A section's container; whatever is taken is written as the same bytes.
pub fn section(bytes: &[u8]) -> bool {
    let mut is_taken = false;
    for name in ["ivf", "codes", "vectors", "graph", "types", "long", "checksums"] {
        if let Ok(section) = safetensors::decode(name, bytes.to_vec().into()) {
            let again = safetensors::encode(&section).bytes;
            assert_eq!(safetensors::decode(name, again).unwrap(), section);
            is_taken = true;
        }
    }
    is_taken
}

/// A job file; one that is taken is the same when it is written with every default and read again.
pub fn job(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match JobSpec::parse(text, "job.toml") {
        Ok(job) => {
            let again = JobSpec::parse(&job.to_toml(), "job.toml").unwrap();
            assert_eq!(again.to_json(), job.to_json());
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// A Parquet file of embeddings: footer, schema, pages.
pub fn parquet(bytes: &[u8]) -> bool {
    let uri = "memory://fuzz/rows.parquet";
    Location::parse(uri).unwrap().write(bytes.to_vec().into()).unwrap();
    let source = Source::open(SourceSpec::new(uri, "embedding", Metric::L2), runtime().unwrap());
    let read = source.and_then(|source| {
        // A footer may promise more rows than there is time for.
        source.read_all(&|rows, _| {
            if rows > 100_000 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })
    });
    if let Ok(rows) = &read {
        assert_eq!(rows.vectors.rows(), rows.ids.len());
    }
    read.is_ok()
}
