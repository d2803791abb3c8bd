//! The house rules that a compiler does not hold: which module may import which, which may name which crate, and how
//! long a file may grow. The reasons stand in ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import from this crate, beside itself. Files at the root (`lib.rs`, `error.rs`) and `cli` may
/// import everything; nothing imports `cli`.
const MAY_IMPORT: &[(&str, &str)] = &[
    ("vectors", ""),
    ("compute", "vectors"),
    ("train", "vectors compute"),
    ("artifact", "vectors"),
    ("store", "vectors artifact"),
    ("source", "vectors store"),
    ("dataset", "vectors"),
    ("index", "vectors compute artifact"),
    ("flat", "vectors compute train artifact index"),
    ("ivf", "vectors compute train artifact index"),
    ("hnsw", "vectors compute train artifact index"),
    ("loader", "error vectors compute train artifact store index flat ivf hnsw"),
    ("report", "error vectors compute train artifact store source index flat ivf hnsw loader"),
    ("job", "error vectors compute train artifact store source index flat ivf hnsw loader report"),
    ("change", "error vectors compute train artifact store source index flat ivf hnsw loader report job"),
    (
        "tune",
        "error vectors compute train artifact store source dataset index flat ivf hnsw loader report job",
    ),
    ("serve", "error vectors artifact loader"),
    (
        "cli",
        "error vectors compute train artifact store source dataset index flat ivf hnsw loader report job change tune serve",
    ),
];

/// The only places that name a crate: all others go through them.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("wgpu", &["compute/gpu"]),
    ("polars", &["source", "report/summary"]),
    ("polars_arrow", &["source"]),
    ("parquet", &["source", "dataset", "report/measurements"]),
    ("hdf5_pure", &["source"]),
    ("tokio_postgres", &["source/foreign"]),
    ("tempfile", &["source"]),
    ("minijinja", &["report/page"]),
    ("object_store", &["store"]),
    ("memmap2", &["artifact", "store"]),
    ("sqlparser", &["loader/filter"]),
    ("ring", &["artifact/encryption"]),
    ("base64", &["artifact/encryption"]),
    ("zeroize", &["artifact/encryption"]),
    ("reqwest", &["store"]),
    ("rustls", &["store", "serve/tls", "source/foreign"]),
    ("axum", &["serve"]),
    ("hyper", &["serve"]),
    ("utoipa", &["serve"]),
    ("prometheus_client", &["serve/metrics"]),
    ("tar", &["dataset"]),
    ("clap", &["cli", "main.rs"]),
];

/// A file this long lacks a noun.
const MAX_LINES: usize = 900;

#[test]
fn imports_go_in_their_directions() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 5, "no sources under {}", src.display());
    let mut faults = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        faults.extend(faults_of(&path, &fs::read_to_string(&file).unwrap()));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_fault_is_named_with_its_file_and_line() {
    for (path, text, expected) in [
        (
            "vectors/view.rs",
            "\nuse crate::compute::Compute;",
            "src/vectors/view.rs:2: vectors must not import compute",
        ),
        (
            "ivf/build.rs",
            "use crate::{\n  index::Search,\n  store::{a, b},\n};",
            "src/ivf/build.rs:3: ivf must not",
        ),
        ("flat/mod.rs", "let x = crate::job::Job::new();", "src/flat/mod.rs:1: flat must not import job"),
        ("job/run.rs", "use crate::cli::main;", "src/job/run.rs:1: job must not import cli"),
        ("compute/cpu.rs", "use wgpu::Device;", "src/compute/cpu.rs:1: only compute/gpu names wgpu"),
        (
            "job/run.rs",
            "fn f(s: &object_store::path::Path)",
            "src/job/run.rs:1: only store names object_store",
        ),
        ("sundry/mod.rs", "", "src/sundry/mod.rs:1: no rule for module sundry"),
        ("ivf/scan.rs", &"\n".repeat(MAX_LINES + 1), "src/ivf/scan.rs:901: more than 900 lines"),
    ] {
        let faults = faults_of(path, text);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{path}: {faults:?}");
    }
    for (path, text) in [
        ("train/kmeans.rs", "use crate::{compute::Compute, train::pq, vectors::{Metric, VectorView}};"),
        ("compute/gpu/device.rs", "use wgpu::Device;"),
        ("index/mod.rs", "// wgpu:: and crate::job in a comment\nuse crate::artifact::Tensor;"),
        ("loader/mod.rs", "use crate::Error;\npub(crate) use crate::store::parquet::x;"),
        ("vectors/a.rs", "#[cfg(test)]\npub(crate) mod tests {\n    use crate::compute::reference;\n}"),
    ] {
        assert_eq!(faults_of(path, text), [""; 0], "{path}");
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// Faults of the file at `path` (below `src/`).
fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |line: usize, what: String| faults.push(format!("src/{path}:{line}: {what}"));
    if text.lines().count() > MAX_LINES {
        fault(MAX_LINES + 1, format!("more than {MAX_LINES} lines"));
    }
    let module = path.split_once('/').map_or("", |(folder, _)| folder);
    let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module).map(|(_, allowed)| allowed);
    if allowed.is_none() && !module.is_empty() {
        fault(1, format!("no rule for module {module}"));
    }
    let code = without_comments_and_tests(path, text);
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    for (at, name) in imported(&code) {
        let is_module = MAY_IMPORT.iter().any(|(module, _)| *module == name) || name == "error";
        if let Some(allowed) = allowed
            && is_module
            && name != module
            && !allowed.split(' ').any(|other| other == name)
        {
            fault(line_of(at), format!("{module} must not import {name}"));
        }
    }
    for (name, places) in MAY_NAME {
        let named = code.match_indices(&format!("{name}::")).find(|(at, _)| starts_a_path(&code[..*at]));
        if let Some((at, _)) = named.filter(|_| !places.iter().any(|place| path.starts_with(place))) {
            fault(line_of(at), format!("only {} names {name}", places.join(", ")));
        }
    }
    faults
}

/// Lines stay lines. Tests may import what they compare with.
fn without_comments_and_tests(path: &str, text: &str) -> String {
    if path.ends_with("tests.rs") || path.contains("/tests/") {
        return String::new();
    }
    let tests = text.match_indices("#[cfg(test)]\n").find(|(at, attribute)| {
        let item = text[at + attribute.len()..].lines().next().unwrap_or_default();
        item.ends_with("mod tests {")
    });
    let text = &text[..tests.map_or(text.len(), |(at, _)| at)];
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn starts_a_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

/// Every `x` of `crate::x` and `crate::{x, y::…}`, and where it stands.
fn imported(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::").filter(|(at, _)| starts_a_path(&code[..*at])) {
        let start = at + prefix.len();
        let (mut depth, mut name_start) = (0, Some(start));
        for (offset, c) in code[start..].char_indices() {
            let here = start + offset;
            if !(c.is_alphanumeric() || c == '_')
                && let Some(name) = name_start.take_if(|name| *name < here)
            {
                found.push((name, &code[name..here]));
            }
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            // At depth 1 a name begins after `{` or `,`; white space moves its beginning.
            if depth == 1 && (c == '{' || c == ',') || name_start == Some(here) && c.is_whitespace() {
                name_start = Some(here + c.len_utf8());
            }
            if depth == 0 && name_start.is_none() {
                break;
            }
        }
    }
    found
}
