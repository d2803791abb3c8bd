//! The files of `pipelines/deploy`: read by what they are written for, and their commands run on a real object store.
#![cfg(all(feature = "cli", feature = "cloud", feature = "encryption", feature = "serve", unix))]
#![allow(clippy::duplicate_mod, reason = "both harnesses speak HTTP")]

mod fixture;
mod published;
mod rows;
mod served;
#[allow(unused_imports, reason = "each test uses a part of it")]
mod servers;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use annvil::artifact::encryption::Key;
use annvil::job::JobSpec;
use serde_json::Value;
use served::{Served, clients, json, status};
use servers::{Kind, Server};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/deploy")
}

/// `tests/clients/deploy.py` over a folder, and over what a server's /metrics said.
fn check(folder: &Path, metrics: Option<&Path>) -> Option<Output> {
    let python = clients("checkers")?.join("python/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/deploy.py");
    Some(Command::new(python).arg(script).arg(folder).args(metrics).output().unwrap())
}

fn checked(metrics: Option<&Path>) -> Option<Value> {
    let output = check(&folder(), metrics)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Of the container that `place` names.
fn arguments(found: &Value, place: &str) -> Vec<String> {
    let containers = found["containers"].as_array().unwrap();
    let container = containers.iter().find(|container| container["where"] == place).unwrap();
    container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().into()).collect()
}

#[test]
fn the_files_are_what_their_programs_take() {
    let Some(found) = checked(None) else { return };
    // The image is made of what compiles: every feature is one, and nothing outside is included.
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    for feature in found["features"].as_array().unwrap() {
        assert!(manifest.contains(&format!("\n{} = [", feature.as_str().unwrap())), "{feature}");
    }
    // What the image is made of is a workspace by itself.
    let tree = tempfile::tempdir().unwrap();
    let sources = found["sources"].as_array().unwrap().iter().map(|source| source.as_str().unwrap());
    for source in sources.filter(|source| !source.starts_with('/')) {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let here = tree.path().join(source);
        std::fs::create_dir_all(here.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(there, here).unwrap();
    }
    let metadata = ["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"];
    let ran = Command::new(env!("CARGO")).args(metadata).current_dir(tree.path()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for job in found["jobs"].as_array().unwrap() {
        JobSpec::parse(job.as_str().unwrap(), "job.toml").unwrap_or_else(|error| panic!("{error}"));
    }
    JobSpec::from_path(folder().join("glove10k.toml")).unwrap_or_else(|error| panic!("{error}"));
    // Words that the program does not know end with 2 before it opens anything.
    for container in found["containers"].as_array().unwrap() {
        let words = arguments(&found, container["where"].as_str().unwrap());
        let ran = Command::new(env!("CARGO_BIN_EXE_annvil")).args(&words).arg("--help").output().unwrap();
        let told = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && told.contains("Usage: annvil"), "{words:?}: {ran:?}");
    }
}

/// What the checks are worth.
#[test]
fn a_file_that_is_wrong_is_refused() {
    for (file, right, wrong, said) in [
        ("kubernetes/serve.yaml", "replicas: 2", "replicas: two", "'two' is not of type 'integer'"),
        ("kubernetes/serve.yaml", "minAvailable: 1", "minAvaliable: 1", "minAvaliable"),
        (
            "kubernetes/serve.yaml",
            "{ name: http, containerPort: 6333 }",
            "{ name: web, containerPort: 6333 }",
            "probe",
        ),
        ("kubernetes/serve.yaml", "{ name: key, mountPath", "{ name: keys, mountPath", "'name': 'keys'"),
        (
            "kubernetes/build.yaml",
            "configMap: { name: annvil-job }",
            "configMap: { name: job }",
            "'name': 'job'",
        ),
        ("kubernetes/build.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        ("compose.yaml", "s3: { condition", "s4: { condition", "waits for s4"),
        ("alerts.yaml", "histogram_quantile(0.95,", "histogram_quantile(0.95", "AnnvilSlow is no PromQL"),
        ("Dockerfile", "USER 10001:10001", "USER 0:0", "runs as root"),
        ("Dockerfile.dockerignore", "!shaders", "shaders", "shaders is ignored"),
    ] {
        let root = tempfile::tempdir().unwrap();
        for name in ["Cargo.toml", "Cargo.lock", "src", "shaders", "python", "benches", "datasets"] {
            let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            std::os::unix::fs::symlink(there, root.path().join(name)).unwrap();
        }
        let copy = root.path().join("pipelines/deploy");
        std::fs::create_dir_all(copy.join("kubernetes")).unwrap();
        for from in [folder(), folder().join("kubernetes")] {
            for entry in std::fs::read_dir(&from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
                let to = copy.join(entry.path().strip_prefix(folder()).unwrap());
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
        let text = std::fs::read_to_string(copy.join(file)).unwrap();
        assert!(text.contains(right), "{file} has no `{right}`");
        std::fs::write(copy.join(file), text.replacen(right, wrong, 1)).unwrap();
        let Some(output) = check(&copy, None) else { return };
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(said), "{file}, {wrong}: {err}");
    }
}

#[test]
fn compose_builds_and_serves_and_every_alert_is_over_what_the_server_says() {
    let Some(found) = checked(None) else { return };
    let Some(server) = Server::start(Kind::SeaweedFs) else { return };
    let there = tempfile::tempdir().unwrap();
    let key = there.path().join("index_key");
    std::fs::write(&key, Key::random_text().unwrap()).unwrap();
    let root = server.root("deploy");
    // What is another place here.
    let moved = |text: &str| {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/glove10k");
        text.replace("/data/", &format!("{}/", data.display()))
            .replace("s3://annvil/", &format!("{root}/"))
            .replace("/run/secrets/annvil/index.key", key.to_str().unwrap())
            .replace("/run/secrets/index_key", key.to_str().unwrap())
    };
    let job = there.path().join("glove10k.toml");
    std::fs::write(&job, moved(&std::fs::read_to_string(folder().join("glove10k.toml")).unwrap())).unwrap();
    let words = arguments(&found, "compose build");
    let words = words.iter().map(|word| word.replace("/job/glove10k.toml", job.to_str().unwrap()));
    let ran = Command::new(env!("CARGO_BIN_EXE_annvil"))
        .args(words)
        .args(["--threads", "2"])
        .envs(server.environment())
        .env("ANNVIL_SCRATCH", there.path().join("scratch"))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let api_keys = there.path().join("api-keys");
    std::fs::write(&api_keys, "0123456789abcdef\n").unwrap();
    let environment = server.environment();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for place in ["compose serve", "Deployment annvil-serve"] {
        let words = arguments(&found, place);
        let words = words.iter().map(|word| {
            moved(word)
                .replace("/run/secrets/annvil-api/keys", api_keys.to_str().unwrap())
                .replace("--shadow-sample=0.01", "--shadow-sample=1")
        });
        let words: Vec<String> = words.filter(|word| !word.starts_with("--listen=")).collect();
        assert_eq!(words[0], "serve");
        let options: Vec<&str> = words[2..].iter().map(String::as_str).collect();
        let served = Served::with_environment(&words[1..2], &options, &environment);
        assert_eq!(status(&served.get("/readyz")), 200, "{place}");
        assert_eq!(status(&served.get("/healthz")), 200, "{place}");
        if place.starts_with("Deployment") {
            assert_eq!(status(&served.get("/metrics")), 401, "{place}: it asks for a key");
            continue;
        }
        let asked = r#"{"ids": [590], "k": 5, "attributes": ["word"]}"#;
        let answer = served.post("/v1/indexes/words/search", asked);
        assert_eq!(status(&answer), 200, "{}", json(&answer));
        served.post("/collections/words/points/query", r#"{"query": 590, "limit": 3}"#);
        served.post("/v1/indexes/words/search", "{");
        let metrics = served.wait_for("/metrics", |text| {
            ["annvil_shadow_recall_count", "annvil_versions_refused_total"]
                .iter()
                .all(|name| text.contains(name))
        });
        let file = there.path().join("metrics");
        std::fs::write(&file, &metrics).unwrap();
        checked(Some(&file)).unwrap();
        // And an alert over what no server says is refused.
        std::fs::write(&file, metrics.replace("annvil_index_version", "annvil_index_verison")).unwrap();
        let refused = check(&folder(), Some(&file)).unwrap();
        let err = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && err.contains("no server says `annvil_index_version`"), "{err}");
        let limit = |name: &str| -> u64 {
            let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(limit("annvil_resident_memory_bytes ") < limit("annvil_memory_limit_bytes "));
    }
}
