//! Rows that are not in Parquet: a PostgreSQL table, a Qdrant collection, files of vectors, JSON lines, and text of any of them
//! through an embedder. Each is read once, as it is at one moment, into a Parquet file of this machine's, which is then a source
//! like any other: columns, predicates, row hygiene, counts and errors are the same.
//!
//! ```text
//! postgres://…  ─ COPY in one snapshot ─┐
//! qdrant+http:// ─ scroll ─ JSON lines ─┤
//! *.jsonl ──────────────── JSON lines ──┼─► batches ─ embed? ─► staged Parquet ─► scan, predicate, validate
//! *.fvecs, *.npy, … ────────────────────┘
//! ```
//!
//! So a database's snapshot is held no longer than the copy takes, however long the build is, and what is read twice is read
//! from a file. Refuses passwords in URIs, which are published with an index.

mod error;
mod json_lines;
mod parquet_text;
#[cfg(feature = "postgres")]
mod pgpass;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_tls;
#[cfg(feature = "postgres")]
mod postgres_types;
#[cfg(feature = "cloud")]
mod qdrant;
mod vectors;
mod writer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use serde::Serialize;
use tempfile::TempPath;
use tokio::runtime::Handle;

use super::embed::{EmbedSpec, Embedding};
use super::error::Result;
use crate::store::{Location, Secret};

pub use error::ForeignError;
pub(super) use writer::ParquetRows;

/// Schemes of sources that are no stores.
#[cfg(all(feature = "postgres", feature = "cloud"))]
pub const FOREIGN_SCHEMES: &[&str] = &["postgres", "postgresql", "qdrant+http", "qdrant+https"];
#[cfg(all(feature = "postgres", not(feature = "cloud")))]
pub const FOREIGN_SCHEMES: &[&str] = &["postgres", "postgresql"];
#[cfg(all(not(feature = "postgres"), feature = "cloud"))]
pub const FOREIGN_SCHEMES: &[&str] = &["qdrant+http", "qdrant+https"];
#[cfg(not(any(feature = "postgres", feature = "cloud")))]
pub const FOREIGN_SCHEMES: &[&str] = &[];

/// Stands for every column that can be an attribute.
pub const ALL_COLUMNS: &str = "*";

/// What a source that is not Parquet needs to be told. Holds no secret, only where one is to be found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ForeignOptions {
    /// PostgreSQL: a table or view, as `kimera.geoid_states`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// PostgreSQL: a SELECT, in place of a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// PostgreSQL's password, or Qdrant's API key. Default: as the environment says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Secret>,
    /// The vector column is made of a column of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<EmbedSpec>,
    /// Where the staged file lies while it is read. Default: `ANNVIL_SCRATCH`, else the system's folder for temporary files.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
}

impl ForeignOptions {
    /// Queries are files of vectors, or of text that is embedded as the rows are.
    pub fn of_queries(&self) -> Self {
        Self { embed: self.embed.clone(), folder: self.folder.clone(), ..Self::default() }
    }

    fn staging_folder(&self) -> PathBuf {
        let from_environment = || std::env::var_os("ANNVIL_SCRATCH").map(PathBuf::from);
        self.folder.clone().or_else(from_environment).unwrap_or_else(std::env::temp_dir)
    }
}

/// The columns that are asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub vector: String,
    pub id: Option<String>,
    /// Attributes and what a predicate names. `None`: whatever there is.
    pub others: Option<Vec<String>>,
    /// The text that vectors are made of; `vector` is then not read.
    pub text: Option<String>,
}

impl Wanted {
    /// The columns by name, each once; `None` for all.
    fn columns(&self) -> Option<Vec<String>> {
        let others = self.others.as_ref()?;
        let vector = match &self.text {
            Some(text) => text,
            None => &self.vector,
        };
        let mut columns: Vec<String> = Vec::new();
        for name in self.id.iter().chain([vector]).chain(others) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        Some(columns)
    }
}

/// Told rows and bytes that have come so far; may end the reading.
pub type Watch<'a> = &'a (dyn Fn(u64, u64) -> ControlFlow<()> + Sync);

/// Rows of one URI in a Parquet file, which goes with this value.
#[derive(Debug)]
pub(super) struct Staged {
    pub path: TempPath,
    /// The URI.
    pub name: String,
    /// Of what was read, where that is a file that tells.
    pub e_tag: Option<String>,
    pub rows: u64,
    pub bytes: u64,
}

/// What kind of source a URI is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    Qdrant,
    JsonLines,
    VectorFile,
    /// Text in Parquet, to be embedded.
    ParquetText,
}

/// `None` for what is read as it lies.
pub(super) fn kind(uri: &str, options: &ForeignOptions) -> Option<Kind> {
    match uri.split_once("://") {
        Some(("postgres" | "postgresql", _)) => return Some(Kind::Postgres),
        Some(("qdrant+http" | "qdrant+https", _)) => return Some(Kind::Qdrant),
        Some(_) => return options.embed.as_ref().map(|_| Kind::ParquetText),
        None => {}
    }
    let extension = Path::new(uri).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => Some(Kind::JsonLines),
        "fvecs" | "bvecs" | "fbin" | "u8bin" | "i8bin" | "npy" | "hdf5" | "h5" => Some(Kind::VectorFile),
        _ => options.embed.as_ref().map(|_| Kind::ParquetText),
    }
}

/// How sources are read into Parquet files.
pub(super) struct Staging<'a> {
    pub spec: &'a super::SourceSpec,
    pub wanted: Wanted,
    pub runtime: &'a Handle,
    pub watch: Watch<'a>,
}

impl Staging<'_> {
    /// Reads `uri` to its end, after what was staged before it.
    pub fn stage(&self, uri: &str, kind: Kind, before: &[Staged]) -> Result<Staged> {
        let Self { spec, wanted, runtime, watch } = self;
        let options = &spec.foreign;
        let folder = options.staging_folder();
        let path = new_file(&folder, ".parquet")?;
        // A file of vectors has no text.
        let embed = options.embed.as_ref().filter(|_| kind != Kind::VectorFile);
        let embedding = embed.map(|embed| Embedding::start(embed, &spec.vector_column)).transpose()?;
        let (rows_before, bytes_before) =
            before.iter().fold((0, 0), |(rows, bytes), staged| (rows + staged.rows, bytes + staged.bytes));
        let watch = &|rows, bytes| watch(rows_before + rows, bytes_before + bytes);
        let mut stage = Stage { writer: ParquetRows::staged(&path), embedding, watch, rows: 0, bytes: 0 };
        match kind {
            #[cfg(feature = "postgres")]
            Kind::Postgres => runtime.block_on(postgres::read(uri, options, wanted, &mut stage))?,
            #[cfg(not(feature = "postgres"))]
            Kind::Postgres => {
                return Err(ForeignError::Feature { uri: shown(uri), feature: "postgres" }.into());
            }
            #[cfg(feature = "cloud")]
            Kind::Qdrant => {
                let spool = new_file(&folder, ".jsonl")?;
                runtime.block_on(qdrant::spool(uri, options, wanted, &spool, &|_, bytes| watch(0, bytes)))?;
                json_lines::read(&spool, uri, wanted, &mut stage)?;
            }
            #[cfg(not(feature = "cloud"))]
            Kind::Qdrant => return Err(ForeignError::Feature { uri: shown(uri), feature: "cloud" }.into()),
            Kind::JsonLines => json_lines::read(Path::new(uri), uri, wanted, &mut stage)?,
            Kind::VectorFile => vectors::read(Path::new(uri), &wanted.vector, &mut stage)?,
            Kind::ParquetText => parquet_text::read(uri, &spec.store, wanted, runtime, &mut stage)?,
        }
        let (rows, bytes) = (stage.rows, stage.bytes);
        stage.finish(uri)?;
        let e_tag = match kind {
            Kind::JsonLines | Kind::VectorFile if embed.is_none_or(EmbedSpec::is_repeatable) => {
                runtime.block_on(Location::parse(uri)?.head())?.e_tag
            }
            _ => None,
        };
        Ok(Staged { path, name: shown(uri), e_tag, rows, bytes })
    }
}

/// Batches on their way into the staged file.
pub(super) struct Stage<'a> {
    writer: ParquetRows,
    embedding: Option<Embedding>,
    watch: Watch<'a>,
    rows: u64,
    bytes: u64,
}

impl Stage<'_> {
    /// `bytes`: what it took to bring the rows.
    pub fn push(&mut self, batch: &RecordBatch, bytes: u64) -> Result<(), ForeignError> {
        match &mut self.embedding {
            Some(embedding) => self.writer.push(&embedding.embed(batch)?)?,
            None => self.writer.push(batch)?,
        }
        self.rows += batch.num_rows() as u64;
        self.bytes += bytes;
        match (self.watch)(self.rows, self.bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ForeignError::Cancelled),
        }
    }

    fn finish(self, uri: &str) -> Result<(), ForeignError> {
        if let Some(embedding) = self.embedding {
            embedding.finish()?;
        }
        if !self.writer.finish()? {
            return Err(ForeignError::NoRows { uri: shown(uri) });
        }
        Ok(())
    }
}

fn new_file(folder: &Path, suffix: &str) -> Result<TempPath, ForeignError> {
    let io = |source| ForeignError::Staging { folder: folder.display().to_string(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let file =
        tempfile::Builder::new().prefix("annvil-staged-").suffix(suffix).tempfile_in(folder).map_err(io)?;
    Ok(file.into_temp_path())
}

/// The URI without a password, should there be one.
fn shown(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.into() };
    let authority_ends = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest[..authority_ends].rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            let (user, _) = user.split_once(':').expect("just seen");
            let host = &rest[rest[..authority_ends].rfind('@').expect("just seen")..];
            format!("{scheme}://{user}:…{host}")
        }
        _ => uri.into(),
    }
}

/// Why a URI must not be in a job, which is published with its index.
pub fn uri_problem(uri: &str) -> Option<&'static str> {
    const SECRET: &str = "a password in the URI would be published with the index; allowed: `credential = \"env:NAME\"`, \
                          `PGPASSWORD` or a `PGPASSFILE`";
    let (scheme, rest) = uri.split_once("://")?;
    if !FOREIGN_SCHEMES.contains(&scheme) {
        return None;
    }
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let has_secret = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
        || rest
            .split(['?', '&'])
            .skip(1)
            .any(|pair| pair.starts_with("password=") || pair.starts_with("api-key="));
    has_secret.then_some(SECRET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_refused_and_never_shown() {
        for (uri, shows) in [
            ("postgres://kimera:hunter2@db:5432/kimera", "postgres://kimera:…@db:5432/kimera"),
            ("postgres://kimera@db/kimera?password=hunter2", "postgres://kimera@db/kimera?password=hunter2"),
            ("qdrant+http://u:p@w@host/c", "qdrant+http://u:…@host/c"),
        ] {
            assert!(
                cfg!(not(all(feature = "postgres", feature = "cloud"))) || uri_problem(uri).is_some(),
                "{uri}"
            );
            assert_eq!(shown(uri), shows);
        }
        for uri in
            ["postgres://kimera@db/kimera?sslmode=disable", "qdrant+http://host:6333/c", "data/x.parquet"]
        {
            assert_eq!((uri_problem(uri), shown(uri).as_str()), (None, uri));
        }
    }

    #[test]
    fn a_source_is_known_by_its_scheme_or_its_files_name() {
        let plain = ForeignOptions::default();
        for (uri, expected) in [
            ("postgres://h/d", Some(Kind::Postgres)),
            ("postgresql://h/d", Some(Kind::Postgres)),
            ("qdrant+https://h/c", Some(Kind::Qdrant)),
            ("a/b.JSONL", Some(Kind::JsonLines)),
            ("base.fvecs", Some(Kind::VectorFile)),
            ("x.npy", Some(Kind::VectorFile)),
            ("data/*.parquet", None),
            ("s3://bucket/x.npy", None),
        ] {
            assert_eq!(kind(uri, &plain), expected, "{uri}");
        }
    }
}
