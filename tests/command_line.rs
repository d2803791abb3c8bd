//! The binary as a script sees it: exit codes, what goes to stdout and what to stderr.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn annvil(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(env!("CARGO_BIN_EXE_annvil")).args(arguments).current_dir(root).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_good_job_is_printed_with_its_defaults() {
    let output = annvil(&["check", "pipelines/quickstart.toml"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains("kmeans_iterations = 10\n"), "{}", text(&output.stdout));

    let output = annvil(&["check", "--json", "pipelines/quickstart.toml"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["job"]["index"][0]["ef_construction"], 200);
}

#[test]
fn a_bad_job_exits_with_2_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("bad.toml");
    let good =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/quickstart.toml"))
            .unwrap();
    let line = good.lines().position(|line| line == "m = 16").unwrap() + 1;
    std::fs::write(&job, good.replace("\nm = 16\n", "\nm = 1\n")).unwrap();
    let path = job.to_str().unwrap();

    let output = annvil(&["check", path]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with(&format!("{path}:{line}:5: error: `index[0].m`: found 1; ")), "{stderr}");

    let output = annvil(&["check", "--json", path]);
    assert_eq!(output.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = &json["diagnostics"][0];
    assert_eq!(
        (&found["key"], &found["line"], &found["column"]),
        (&"index[0].m".into(), &line.into(), &5.into())
    );
}

#[test]
fn a_missing_job_is_named_with_its_cause() {
    let output = annvil(&["check", "no/such.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: cannot read job file `no/such.toml`\n  because: "), "{stderr}");
}

#[test]
fn wrong_usage_exits_with_2_and_help_and_version_with_0() {
    assert_eq!(annvil(&[]).status.code(), Some(2));
    assert_eq!(annvil(&["chekc"]).status.code(), Some(2));
    let version = annvil(&["-V"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(text(&version.stdout), concat!("annvil ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = annvil(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit codes:"));
}
