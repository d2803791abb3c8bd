//! The pipeline of `pipelines/vector-estate` on small data: the whole matrix, shards by hash that are one index when they are
//! searched together, and a workload without data.
#![cfg(feature = "cli")]

#[path = "../pipelines/vector-estate/matrix.rs"]
mod matrix;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use annvil::dataset::{FIRST_QUERY, GenerateParams, GeneratedFormat, Law, generate};
use annvil::loader::{Index, Query, Shards};
use annvil::source::Shard;
use annvil::vectors::{Metric, RowId};
use serde_json::Value;

const DIM: usize = 32;
const SHARDS: u32 = 4;

fn generated(folder: &Path, rows: u64) -> PathBuf {
    let params = GenerateParams { rows, queries: 0, dim: DIM, seed: 1, format: GeneratedFormat::Parquet };
    generate(&params, &folder.join("data")).unwrap().base
}

fn annvil(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("ANNVIL_SCRATCH", folder.join("scratch"))
        .output()
        .unwrap()
}

/// Stdout, if it exits so.
fn exits(folder: &Path, code: i32, arguments: &[&str]) -> String {
    let output = annvil(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap() + &told
}

#[test]
fn every_line_of_the_matrix_is_built_and_measured_under_every_metric() {
    let folder = tempfile::tempdir().unwrap();
    let data = generated(folder.path(), 2200);
    for metric in Metric::ALL {
        let cells = matrix::run(folder.path(), &data, (2200, DIM), metric).unwrap();
        let by_name: BTreeMap<&str, &matrix::Cell> = cells.iter().map(|cell| (cell.name, cell)).collect();
        assert_eq!(by_name.len(), matrix::LINES.len());
        assert_eq!(by_name["flat"].recall, 1.0);
        for (name, cell) in &by_name {
            // Codes alone, of a byte for 4 dimensions, tell the least apart.
            let least = if name.ends_with("quarter") {
                0.3
            } else if name.ends_with("half") {
                0.6
            } else {
                0.95
            };
            assert!(cell.recall >= least, "{metric} {name}: {}", cell.recall);
            assert!(
                cell.p50_ms > 0.0 && cell.p50_ms <= cell.p95_ms && cell.qps > 0.0 && cell.build_seconds > 0.0
            );
        }
        let bytes = |name: &str| by_name[name].bytes_per_row;
        for (smaller, larger) in [
            ("ivf-pq-quarter", "ivf-pq-half"),
            ("ivf-pq-half", "ivf-pq-f16"),
            ("ivf-pq-f16", "ivf-pq-f32"),
            ("flat", "hnsw-f32"),
            ("hnsw-1bit", "hnsw-4bit"),
            ("hnsw-4bit", "hnsw-int8"),
        ] {
            assert!(
                bytes(smaller) < bytes(larger),
                "{metric}: {smaller} {}, {larger} {}",
                bytes(smaller),
                bytes(larger)
            );
        }
        let table = matrix::table(&cells);
        assert_eq!(table.lines().count(), 2 + cells.len(), "{table}");
    }
}

const JOB: &str = "name = \"estate\"\n[source]\nuri = \"data/base.parquet\"\nvector = \"embedding\"\nid = \"id\"\n[queries]\nuri = \
                   \"queries.parquet\"\n[output]\nuri = \"out\"\n[[index]]\nname = \"items\"\nkind = \"KIND\"\nmetric = \"l2\"\n";

fn numbered(index: &Index) -> Vec<i64> {
    let number = |row: u32| match index.ids().get(row) {
        RowId::Int(id) => id,
        other => panic!("{other}"),
    };
    index.live_ordinals().into_iter().map(number).collect()
}

#[test]
fn shards_by_hash_are_searched_as_one_index_and_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    generated(at, 3000);
    std::fs::copy(at.join("data/base.parquet"), at.join("queries.parquet")).unwrap();
    std::fs::write(at.join("all.toml"), JOB.replace("KIND", "flat")).unwrap();
    std::fs::write(at.join("parts.toml"), JOB.replace("KIND", "hnsw").replace("items", "part")).unwrap();
    exits(at, 0, &["build", "all.toml", "--backend", "cpu", "--quiet", "--no-resume"]);
    for place in 0..SHARDS {
        let shard = format!("{place}/{SHARDS}");
        exits(
            at,
            0,
            &["build", "parts.toml", "--shard", &shard, "--backend", "cpu", "--quiet", "--no-resume"],
        );
    }
    let name = |place: u32| format!("out/part-{place}-of-{SHARDS}");
    let open = |name: &str| Index::open(at.join(name).to_str().unwrap()).unwrap();
    let all = open("out/items");

    // Each row is in the shard that its id says, and in no other.
    let mut found = Vec::new();
    for place in 0..SHARDS {
        let ids = numbered(&open(&name(place)));
        assert!(ids.iter().all(|id| Shard::place_of(&id.to_string(), SHARDS) == place), "shard {place}");
        assert!(ids.len() as u64 <= Shard::new(place, SHARDS).unwrap().rows_of(3000));
        found.extend(ids);
    }
    found.sort_unstable();
    assert_eq!(found, (0..3000).collect::<Vec<i64>>());

    // Searched together they find what the whole has, exactly and by their graphs.
    let shards = Shards::new((0..SHARDS).map(|place| Arc::new(open(&name(place)))).collect()).unwrap();
    let queries = Law::new(DIM, 1).rows(FIRST_QUERY, 50);
    let truth = all.ask(queries.view(), &Query::new(10).exact()).unwrap();
    let exact = shards.ask(queries.view(), &Query::new(10).exact()).unwrap();
    let walked = shards.ask(queries.view(), &Query::new(10)).unwrap();
    let mut hits = 0;
    for query in 0..queries.rows() {
        let expected: Vec<RowId> = truth.of(query).iter().map(|&found| all.hit(found).id).collect();
        let ids = |answers: &annvil::loader::Answers| -> Vec<RowId> {
            answers.of(query).iter().map(|&found| shards.hit(found).id).collect()
        };
        assert_eq!(ids(&exact), expected, "query {query}");
        hits += ids(&walked).iter().filter(|id| expected.contains(id)).count();
    }
    assert!(hits >= 475, "recall {} of 500 by the shards' own settings", hits);

    // A change reaches each shard's own rows alone: the job that it was built by says which.
    let more = GenerateParams { rows: 3100, queries: 0, dim: DIM, seed: 1, format: GeneratedFormat::Parquet };
    generate(&more, &at.join("more")).unwrap();
    for place in 0..SHARDS {
        let index = name(place);
        let said = exits(at, 7, &["verify", &index, "--against", "more/base.parquet", "--json"]);
        let missing =
            (3000..3100).filter(|id: &i64| Shard::place_of(&id.to_string(), SHARDS) == place).count();
        let consistency: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(consistency["missing"]["count"], missing, "{said}");
        exits(at, 0, &["sync", &index, "--from", "more/base.parquet", "--backend", "cpu", "--quiet"]);
        exits(at, 0, &["verify", &index, "--against", "more/base.parquet"]);
    }
    for wrong in ["4/4", "1", "a/b", "0/0"] {
        assert!(
            exits(at, 2, &["build", "parts.toml", "--shard", wrong]).contains("i from 0 to n"),
            "{wrong}"
        );
    }
    let misplaced = JOB.replace("KIND", "flat").replace("id = ", "shard = \"5/4\"\nid = ");
    std::fs::write(at.join("wrong.toml"), misplaced).unwrap();
    let said = exits(at, 2, &["check", "wrong.toml"]);
    assert!(said.contains("wrong.toml:5:") && said.contains("found the string \"5/4\""), "{said}");
}

/// Rows of a few values: bits, as far as Hamming is concerned.
fn write_bits(path: &Path, rows: usize) -> Vec<Vec<f32>> {
    use arrow_array::types::Float32Type;
    use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch};
    let mut random = annvil::vectors::Random::new(9);
    let mut row = || (0..DIM).map(|_| random.below(2) as f32 * 2.0 - 1.0).collect::<Vec<f32>>();
    let all: Vec<Vec<f32>> = (0..rows).map(|_| row()).collect();
    let lists = all.iter().map(|row| Some(row.iter().copied().map(Some).collect::<Vec<_>>()));
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, DIM as i32);
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef),
        ("embedding", Arc::new(vectors)),
    ])
    .unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    all
}

#[test]
fn hamming_and_l1_compare_with_every_row_and_no_graph_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("data")).unwrap();
    let all = write_bits(&at.join("data/base.parquet"), 1500);
    for metric in Metric::EXACT_ONLY {
        let job = JOB.replace("KIND", "flat").replace("\"l2\"", &format!("\"{metric}\""));
        let job = job.replace("uri = \"queries.parquet\"", "sample = 30").replace("items", metric.name());
        std::fs::write(at.join("bits.toml"), &job).unwrap();
        exits(at, 0, &["build", "bits.toml", "--backend", "cpu", "--quiet", "--no-resume"]);
        let index = Index::open(at.join("out").join(metric.name()).to_str().unwrap()).unwrap();
        let there = numbered(&index);
        for query in &all[..20] {
            let answers = index.ask(annvil::vectors::VectorView::new(query, DIM), &Query::new(10)).unwrap();
            let mut expected: Vec<f32> =
                there.iter().map(|&id| metric.distance(query, &all[id as usize]) as f32).collect();
            expected.sort_unstable_by(f32::total_cmp);
            let found: Vec<f32> = answers.of(0).iter().map(|found| found.distance).collect();
            assert_eq!(found, expected[..10], "{metric}");
            for &found in answers.of(0) {
                let RowId::Int(id) = index.hit(found).id else { panic!("ids are numbers") };
                assert_eq!(found.distance, metric.distance(query, &all[id as usize]) as f32);
            }
        }
        assert_eq!(index.manifest().build.certificate.as_ref().unwrap().points[0].recall[0].mean, 1.0);
        exits(
            at,
            0,
            &["delete", &format!("out/{metric}"), "--where", "row_id < 100", "--backend", "cpu", "--quiet"],
        );
        for kind in ["hnsw", "ivf_pq"] {
            std::fs::write(at.join("graph.toml"), job.replace("\"flat\"", &format!("\"{kind}\""))).unwrap();
            let said = exits(at, 2, &["check", "graph.toml"]);
            let told = format!("found \"{metric}\"; allowed: \"l2\", \"inner_product\", \"cosine\"");
            assert!(said.contains(&told) && said.contains("which is `kind = \"flat\"`"), "{said}");
        }
    }
}

#[test]
fn a_workload_is_planned_without_data_and_says_what_was_measured() {
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/vector-estate");
    let path = |name: &str| pipeline.join(name).to_str().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let workload = ["plan", "--workload", &path("workload.toml"), "--prices", &path("prices.toml")];
    let unmeasured = [&workload[..], &["--calibration-rows", "0", "--json"]].concat();
    let plan: Value = serde_json::from_str(exits(folder.path(), 0, &unmeasured).trim()).unwrap();
    let cases = plan["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 9);
    let machine = plan["workload"]["machine"]["memory"].as_u64().unwrap() as f64;
    for case in cases {
        let (rows, plan) = (case["rows"].as_u64().unwrap(), &case["plan"]);
        let shards = plan["shards"].as_u64().unwrap();
        assert!(plan["shard_rows"].as_u64().unwrap() * shards >= rows);
        assert!(plan["shard"]["serving"].as_f64().unwrap() <= 0.7 * machine);
        assert!(plan["search"].is_null() && plan["cost"].is_null(), "nothing was measured");
        if case["index"] == "hnsw" {
            // The vectors alone are so many bytes, and a graph keeps them.
            assert!(plan["published_bytes"].as_u64().unwrap() > rows * 1536 * 4);
        }
    }
    assert_eq!(plan["basis"]["search"], "not measured");

    // A small one is measured in a moment.
    let small = std::fs::read_to_string(path("workload.toml")).unwrap();
    let small = small.replace("dim = 1536", "dim = 32").replace("pq_m = 384", "pq_m = 8");
    std::fs::write(folder.path().join("small.toml"), small).unwrap();
    let measured = [
        "plan",
        "--workload",
        "small.toml",
        "--prices",
        &path("prices.toml"),
        "--calibration-rows",
        "2000",
        "--backend",
        "cpu",
    ];
    let plan: Value =
        serde_json::from_str(exits(folder.path(), 0, &[&measured[..], &["--json"]].concat()).trim()).unwrap();
    for case in plan["cases"].as_array().unwrap() {
        let plan = &case["plan"];
        assert!(
            plan["build_seconds"].as_f64().unwrap() > 0.0 && plan["search"]["qps"].as_f64().unwrap() > 0.0
        );
        assert!(plan["replicas"].as_u64().unwrap() >= 2, "as many as are asked for");
        let cost = &plan["cost"];
        let parts = ["machines", "disk", "store", "builds"].map(|part| cost[part].as_f64().unwrap());
        assert!((parts.iter().sum::<f64>() / cost["total"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    }
    let text = exits(folder.path(), 0, &[&measured[..], &["--threads", "2"]].concat());
    for told in [
        "1,000,000,000",
        "coins",
        "extrapolated: indexes of up to 2,000 generated rows",
        "computed: the job planner's",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }

    std::fs::write(folder.path().join("wrong.toml"), "rows = 5\ndim = 8\nqps = 1\nindexes = 3\n").unwrap();
    let said = exits(folder.path(), 2, &["plan", "--workload", "wrong.toml"]);
    assert!(said.contains("wrong.toml:4:1") && said.contains("did you mean `index`?"), "{said}");
    assert!(exits(folder.path(), 2, &["plan"]).contains("<JOB>"));
    assert!(exits(folder.path(), 2, &["plan", "job.toml", "--prices", "x"]).contains("cannot be used with"));
}
