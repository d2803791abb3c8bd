//! `annvil report` from end to end: what it writes, what it finds wrong, and how it says so.
#![cfg(all(feature = "cli", feature = "polars"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::artifact::{Array, Section, safetensors};
use annvil::report::Measurements;
use annvil::store::IndexStore;
use annvil::vectors::VectorView;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, RecordBatch};
use bytes::Bytes;
use tempfile::TempDir;

const GLOVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/glove10k");
const HDF5: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ann-benchmarks.hdf5");

fn annvil(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_annvil")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exits with `code`; what it said.
fn said(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout).to_string(), text(&output.stderr).to_string());
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

struct Built {
    folder: TempDir,
}

impl Built {
    /// An index of glove10k, built by a job.
    fn glove(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let job = format!(
            "seed = 1\nbackend = \"cpu\"\n[source]\nuri = \"{GLOVE}/base.parquet\"\nvector = \"embedding\"\nid = \"id\"\n\
             attributes = [\"word\", \"rank\"]\n[queries]\nuri = \"{GLOVE}/queries.parquet\"\n[output]\nuri = \"{}\"\n\
             [[index]]\nname = \"words\"\nmetric = \"cosine\"\n{kind}\n",
            folder.path().display()
        );
        let path = folder.path().join("job.toml");
        std::fs::write(&path, job).unwrap();
        said(&annvil(&["build", path.to_str().unwrap()]), 0);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn report(&self, arguments: &[&str]) -> Output {
        let (index, out) = (self.path("words"), self.path("report"));
        let queries = format!("{GLOVE}/queries.parquet");
        let few = ["--rounds", "2", "--latency-queries", "50", "--query-id-column", "id"];
        annvil(&[&["report", &index, "--queries", &queries, "--out", &out], &few[..], arguments].concat())
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("report").join(name)).unwrap()
    }

    /// Publishes the latest version again with one section changed, checksums and certificate as if nothing were.
    fn publish_with(&self, section: &str, change: impl Fn(&mut Section)) {
        let store = IndexStore::open(&self.path("words")).unwrap();
        let artifact = store.artifact(None).unwrap();
        let segment = artifact.only_segment().unwrap();
        let mut files: Vec<(String, Bytes)> = Vec::new();
        for name in segment.section_names() {
            let mut own = segment.section(name).unwrap();
            if name == section {
                change(&mut own);
            }
            let file = safetensors::encode(&own);
            files.push((file.file_name, file.bytes));
        }
        files.push((IDS_FILE.into(), columns::encode_ids(&artifact.ids().unwrap()).unwrap()));
        files.push((
            ATTRIBUTES_FILE.into(),
            columns::encode(&artifact.attributes().unwrap().unwrap()).unwrap(),
        ));
        store.publish(files, artifact.manifest().build.clone()).unwrap();
    }
}

/// Each row of a tensor of bytes where another one was.
fn shuffled(section: &mut Section, tensor: &str) {
    let (array, shape) = section.array_of_rank::<u8>(tensor, 2).unwrap();
    let (rows, width) = (shape[0], shape[1]);
    let mut moved = vec![0; rows * width];
    for (row, values) in array.chunks_exact(width).enumerate() {
        let to = (row * 7919 + 31) % rows;
        moved[to * width..][..width].copy_from_slice(values);
    }
    let mut others = std::mem::replace(section, Section::new("none"));
    others.tensors.retain(|(name, _)| name != tensor);
    *section = others.with(tensor, &Array::from_vec(moved), &shape);
}

#[test]
fn a_report_of_a_sound_index_has_every_section_and_asks_nothing_of_a_network() {
    let built = Built::glove("kind = \"hnsw\"");
    let truth = format!("{GLOVE}/groundtruth.parquet");
    let (out, _) = said(&built.report(&["--truth", &truth]), 0);
    assert!(out.contains("recall@10") && out.contains("| words |"), "{out}");
    let page = built.written("index.html");
    for section in ["frontier", "latency", "queries", "filters", "build", "size", "hubs", "facts"] {
        assert!(page.contains(&format!("<section id=\"{section}\">")), "no section {section}");
    }
    for asked in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(asked), "the page has `{asked}`");
    }
    assert!(page.contains("word=") && page.contains("ef_search"), "attributes and settings");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());

    let measured = Measurements::read(Path::new(&built.path("report"))).unwrap();
    assert_eq!(measured.header.dataset.queries, 200);
    // The mean of the raw recalls at the default is the certificate's.
    let manifest = IndexStore::open(&built.path("words")).unwrap().read_manifest(1).unwrap();
    let certificate = manifest.build.certificate.unwrap();
    let certified =
        certificate.chosen_point().unwrap().recall.iter().find(|recall| recall.k == 10).unwrap().mean;
    let mean = format!("{:.4}", (certified * 1e4 + 1e-6).floor() / 1e4);
    assert!(out.contains(&mean), "{mean}: {out}");

    let saved = built.path("report");
    let (again, out) = (built.path("again"), built.path("changed"));
    std::fs::rename(&saved, &again).unwrap();
    said(&built.report(&[]), 0);
    let (out, _) =
        said(&annvil(&["report", "--compare", &again, &saved, "--out", &out, "--max-recall-loss", "0"]), 0);
    assert!(out.contains("recall@10 at ef_search") && out.contains("within noise"), "{out}");
}

#[test]
fn an_index_whose_codes_were_shuffled_fails_loudly_although_its_checksums_are_right() {
    let built = Built::glove("kind = \"hnsw\"");
    built.publish_with("codes", |section| shuffled(section, "codes"));
    said(&annvil(&["verify", &built.path("words")]), 0);
    let (out, err) = said(&built.report(&[]), 4);
    assert!(err.contains("index `words` is not what was certified: recall@10 at ef_search"), "{err}");
    assert!(out.contains("is not what was certified"), "{out}");
    assert!(built.written("index.html").contains("role=\"alert\""), "the page says so, too");
    said(&built.report(&["--allow-below-certificate"]), 0);
}

#[test]
fn a_wrong_ground_truth_is_an_error_that_names_the_query() {
    let built = Built::glove("kind = \"flat\"");
    let ids: Vec<i64> = (0..200).flat_map(|query| (0..10).map(move |place| query * 7 + place)).collect();
    let mut file: Vec<u8> = Vec::new();
    for row in ids.chunks(10) {
        file.extend(10i32.to_le_bytes());
        row.iter().for_each(|&id| file.extend((id as i32).to_le_bytes()));
    }
    let path = PathBuf::from(built.path("truth.ivecs"));
    std::fs::write(&path, file).unwrap();
    let (_, err) = said(&built.report(&["--truth", path.to_str().unwrap()]), 2);
    let named = err.contains("is wrong: query") || err.contains("which index `words` does not have");
    assert!(err.contains("truth.ivecs") && named, "{err}");
}

fn write_vectors(path: &str, vectors: VectorView<'_>) {
    let lists = vectors.iter().map(|row| Some(row.iter().map(|&value| Some(value)).collect::<Vec<_>>()));
    let lists = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, vectors.dim() as i32);
    let batch = RecordBatch::try_from_iter([("embedding", Arc::new(lists) as ArrayRef)]).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn an_ann_benchmarks_file_goes_in_and_its_recall_comes_out_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let base = annvil::source::read_hdf5_base(Path::new(HDF5)).unwrap();
    write_vectors(&path("base.parquet"), base.view());
    for (name, rows) in [("all", 0..60), ("some", 20..60)] {
        write_vectors(&path("rows.parquet"), base.view().slice(rows.start, rows.end));
        let job = format!(
            "backend = \"cpu\"\n[source]\nuri = \"{}\"\nvector = \"embedding\"\n[queries]\nuri = \"{}\"\n[output]\n\
             uri = \"{}\"\n[[index]]\nname = \"{name}\"\nkind = \"flat\"\nmetric = \"l2\"\n",
            path("rows.parquet"),
            path("base.parquet"),
            path("")
        );
        std::fs::write(path("job.toml"), job).unwrap();
        said(&annvil(&["build", &path("job.toml")]), 0);
    }
    let out = path("report");
    let report =
        |name: &str| annvil(&["report", &path(name), "--queries", HDF5, "--out", &out, "--rounds", "1"]);
    let (printed, _) = said(&report("all"), 0);
    assert!(
        printed.contains("1.0000") && printed.contains("ann-benchmarks.hdf5, checked on a sample"),
        "{printed}"
    );
    // Of an index without the first rows the file's neighbours are not true: they name rows that it numbers otherwise.
    let (_, err) = said(&report("some"), 2);
    assert!(err.contains("ann-benchmarks.hdf5"), "{err}");
}
