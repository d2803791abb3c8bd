//! Text → [`JobSpec`], or everything that is wrong with the text. Asks neither the file system nor a store: what can
//! only be judged beside the data is [`JobSpec::check_against`]'s.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Diagnostics, SourceText};
use super::encryption::encryption;
use super::foreign;
use super::read::{
    Entry, Reader, Table, allowed_bytes, first_repeated, found, item_of, list_strings, printable,
};
use super::schema;
use super::spec::{
    Backend, CodeSpec, FlatSpec, Gate, HnswExpert, HnswSpec, IndexParams, IndexSpec, IvfPqSpec, JobSpec,
    OnBadRow, OutputSpec, Overrides, PqSpec, QueriesSpec, Refine, SourceSpec, Target,
};
use super::uri::{self, Uri};
use crate::hnsw::Code;
use crate::ivf::{self, Loss, Rotate, Spilling};
use crate::source::{FOREIGN_SCHEMES, Shard, uri_problem};
use crate::store::{Encryption, READ_ONLY_SCHEMES, SCHEMES, Secret, StoreOptions};
use crate::vectors::Metric;

/// A job file is read whole; one longer than this is something else.
pub const MAX_JOB_FILE_BYTES: u64 = 1 << 20;
const MAX_SEED: u64 = i64::MAX as u64;
const MAX_THREADS: u64 = 1024;
const MAX_INDEXES: usize = 64;
/// A day: a store that is away for longer is not coming back in this run.
const MAX_DEADLINE_S: u64 = 24 * 60 * 60;
/// Threads, a runtime and a decoder take some tens of MiB before there is a row.
pub(super) const MEMORY_BUDGETS: RangeInclusive<u64> = 64 << 20..=1 << 50;
/// What takes more than a small one says so when it needs it: that depends on the adapter and on the rows.
const GPU_MEMORY_BUDGETS: RangeInclusive<u64> = 64 << 10..=1 << 50;
const MAX_K: u64 = 1000;
pub(super) const MAX_PQ_M: usize = 4096;
const MAX_NAME_CHARS: usize = 128;
/// A syntax error leads to others: beyond the first few they confuse.
const MAX_SYNTAX_ERRORS: usize = 3;

const DEFAULT_K: usize = 10;
const DEFAULT_RECALL: f64 = 0.95;

const NAME_ALLOWED: &str = "1 to 128 characters of `A-Z a-z 0-9 . _ -`, the first a letter or digit";
const COLUMN_ALLOWED: &str = "a column's name";
const PARTITION_ALLOWED: &str = "one of the source's `attributes`";
const URI_ALLOWED: &str = "a path, a URI, a glob, or a list of them";
const SCRATCH_ALLOWED: &str = "a folder's path on this machine";
const OUTPUT_ALLOWED: &str = "a folder's path or URI";

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("cannot read job file `{path}`")]
    Read { path: String, source: std::io::Error },
    #[error("`{path}` has {size_bytes} bytes: a job file has at most {MAX_JOB_FILE_BYTES}")]
    TooLong { path: String, size_bytes: u64 },
    #[error("`{path}` is no text (byte {offset} is not UTF-8): a job file is TOML")]
    NotText { path: String, offset: usize },
    /// What the file or an override says cannot be.
    #[error("{0}")]
    Invalid(Diagnostics),
}

impl SpecError {
    /// What to correct; empty where the file could not be read at all.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            SpecError::Invalid(Diagnostics(diagnostics)) => diagnostics,
            _ => &[],
        }
    }
}

impl JobSpec {
    /// Reads and checks a job file.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        Self::parse(&text_of(path)?, path)
    }

    /// Checks a job file's text. `path` is where it stands: for messages, for the job's default name, and its folder
    /// for relative paths. No file is read.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        if text.len() as u64 > MAX_JOB_FILE_BYTES {
            return Err(SpecError::TooLong { path: file, size_bytes: text.len() as u64 });
        }
        let source_text = SourceText::new(&file, text);
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        if !syntax_errors.is_empty() {
            let diagnostic = |error: &toml::de::Error| {
                let place = source_text.place(&error.span().unwrap_or(text.len()..text.len()));
                Diagnostic::error("", place, format!("not TOML: {}", error.message()))
            };
            let diagnostics = syntax_errors.iter().take(MAX_SYNTAX_ERRORS).map(diagnostic).collect();
            return Err(SpecError::Invalid(Diagnostics(diagnostics)));
        }
        let mut reader = Reader::new(source_text);
        let job = job(&mut reader, document.into_inner(), path);
        reader.problems.sort_by_key(|problem| match &problem.place {
            super::Place::File { line, column, .. } => (*line, *column),
            super::Place::Flag { .. } => (0, 0),
        });
        match job {
            Some(job) if reader.problems.is_empty() => Ok(job),
            _ => {
                assert!(!reader.problems.is_empty(), "a job is refused for a reason");
                Err(SpecError::Invalid(Diagnostics(reader.problems)))
            }
        }
    }

    /// Sets values from the command line over the file's, under the same rules. `output` is relative to the current
    /// folder.
    pub fn override_with(mut self, overrides: &Overrides) -> Result<Self, SpecError> {
        let mut problems = Vec::new();
        let mut flag = |key: &'static str, flag: &'static str, problem: Option<String>| {
            self.origin.record_flag(key, flag);
            if let Some(message) = problem {
                problems.push(Diagnostic::error(key, self.origin.place(key), message));
            }
        };
        let beyond = |value: u64, max: u64| {
            (value > max).then(|| format!("found {value}; allowed: an integer from 0 to {max}"))
        };
        if let Some(backend) = overrides.backend {
            flag("backend", "--backend", None);
            self.backend = backend;
        }
        if let Some(threads) = overrides.threads {
            flag("threads", "--threads", beyond(threads, MAX_THREADS));
            self.threads = threads as usize;
        }
        if let Some(seed) = overrides.seed {
            flag("seed", "--seed", beyond(seed, MAX_SEED));
            self.seed = seed;
        }
        if let Some(output) = &overrides.output {
            flag("output.uri", "--output", output_problem(output));
            self.output.uri = Uri::new(output, Path::new(""));
        }
        if let Some(bytes) = overrides.memory_budget {
            let problem = !MEMORY_BUDGETS.contains(&bytes);
            let message = || format!("found {bytes} bytes; allowed: {}", allowed_bytes(&MEMORY_BUDGETS));
            flag("memory_budget", "--memory-budget", problem.then(message));
            self.memory_budget = Some(bytes);
        }
        if let Some(scratch) = &overrides.scratch {
            flag("scratch", "--scratch", scratch_problem(scratch));
            self.scratch = Some(Uri::new(scratch, Path::new("")));
        }
        if let Some(shard) = overrides.shard {
            let suffix = format!("-{}-of-{}", shard.place(), shard.count());
            let too_long = self.indexes.iter().find(|index| index.name.len() + suffix.len() > MAX_NAME_CHARS);
            let message =
                |index: &IndexSpec| format!("makes \"{}{suffix}\"; allowed: {NAME_ALLOWED}", index.name);
            flag("source.shard", "--shard", too_long.map(message));
            self.source.shard = Some(shard);
            self.indexes.iter_mut().for_each(|index| index.name += &suffix);
        }
        if overrides.no_resume {
            flag("resume", "--no-resume", None);
            self.resume = false;
        }
        if problems.is_empty() { Ok(self) } else { Err(SpecError::Invalid(Diagnostics(problems))) }
    }
}

/// The text of a file that is none too long.
pub(super) fn text_of(path: &Path) -> Result<String, SpecError> {
    let name = || path.display().to_string();
    let unreadable = |source| SpecError::Read { path: name(), source };
    let size_bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if size_bytes > MAX_JOB_FILE_BYTES {
        return Err(SpecError::TooLong { path: name(), size_bytes });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes)
        .map_err(|error| SpecError::NotText { path: name(), offset: error.utf8_error().valid_up_to() })
}

/// Every key that a job file may hold, by table: what documentation must cover.
pub fn documented_keys() -> Vec<(&'static str, &'static [&'static str])> {
    schema::ALL.iter().map(|schema| (schema.table, schema.keys)).collect()
}

fn job(reader: &mut Reader, document: DeTable<'_>, path: &Path) -> Option<JobSpec> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let root = &mut reader.table(String::new(), document, &schema::JOB);

    let name = reader.take(root, "name");
    let name = match name {
        Some(entry) => self::name(reader, Some(entry)).map(|(name, _)| name),
        None => Some(name_of_stem(path)),
    };
    let seed = reader.take(root, "seed");
    let seed = reader.integer(seed, 0..=MAX_SEED).unwrap_or(42);
    let threads = reader.take(root, "threads");
    let threads = reader.integer(threads, 0..=MAX_THREADS).unwrap_or(0) as usize;
    let backend = reader.take(root, "backend");
    let backend = reader.choice(backend, Backend::NAMES).and_then(Backend::from_name).unwrap_or_default();

    let memory_budget = reader.take(root, "memory_budget");
    let memory_budget = reader.bytes(memory_budget, MEMORY_BUDGETS);
    let gpu_memory_budget = reader.take(root, "gpu_memory_budget");
    let gpu_memory_budget = reader.bytes(gpu_memory_budget, GPU_MEMORY_BUDGETS);
    let scratch = reader.take(root, "scratch");
    let scratch = scratch_folder(reader, scratch, folder);
    let resume = reader.take(root, "resume");
    let resume = reader.boolean(resume).unwrap_or(true);

    let entry = reader.require(root, "source", "a table `[source]` with at least `uri` and `vector`");
    let table = reader.subtable(entry, &schema::SOURCE);
    let source = table.and_then(|table| source(reader, table, folder));
    let entry = reader.require(root, "queries", "a table `[queries]` with `uri` or `sample`");
    let table = reader.subtable(entry, &schema::QUERIES);
    let source_vector = source.as_ref().map(|source| source.vector.as_str());
    let queries = table.and_then(|table| queries(reader, table, folder, source_vector));
    let entry = reader.require(root, "output", "a table `[output]` with `uri`");
    let table = reader.subtable(entry, &schema::OUTPUT);
    let output = table.and_then(|table| output(reader, table, folder));
    let entry = reader.take(root, "store");
    let table = reader.subtable(entry, &schema::STORE);
    let store = table.map_or_else(StoreOptions::default, |table| store(reader, table));
    let entry = reader.take(root, "encryption");
    let table = reader.subtable(entry, &schema::ENCRYPTION);
    let encryption = table.and_then(|table| encryption(reader, table));
    let entry = reader.require(root, "index", "one or more tables `[[index]]`");
    let attributes = source.as_ref().map(|source| &source.attributes[..]);
    let indexes = indexes(reader, entry, name.as_deref().unwrap_or("job"), attributes);
    reader.finish(root.take_rest());

    let origin = reader.origin.clone();
    Some(JobSpec {
        name: name?,
        seed,
        threads,
        backend,
        memory_budget,
        gpu_memory_budget,
        scratch,
        resume,
        source: source?,
        queries: queries?,
        output: output?,
        store,
        encryption,
        indexes: indexes?,
        origin,
    })
}

/// The file's stem, with characters that a name may not have replaced.
pub(super) fn name_of_stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let legal = |c: char| if is_name_char(c) { c } else { '-' };
    let name: String = stem.chars().map(legal).take(MAX_NAME_CHARS / 2).collect();
    let name = name.trim_start_matches(['.', '-', '_']);
    if name.is_empty() { "job".into() } else { name.into() }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Names become folders of stores and file systems: nothing that could climb out of one, hide, look like a flag, or
/// need escaping.
fn is_name(name: &str) -> bool {
    name.chars().all(is_name_char)
        && (1..=MAX_NAME_CHARS).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn name(reader: &mut Reader, entry: Option<Entry<'_>>) -> Option<(String, Range<usize>)> {
    let entry = entry?;
    let (path, span) = (entry.path.clone(), entry.span.clone());
    let name = reader.string(Some(entry), NAME_ALLOWED)?;
    if !is_name(&name) {
        let message = format!("found \"{}\"; allowed: {NAME_ALLOWED}", printable(&name));
        reader.problem(&path, &span, message);
        return None;
    }
    Some((name, span))
}

fn source(reader: &mut Reader, mut table: Table<'_>, folder: &Path) -> Option<SourceSpec> {
    let table_ref = &mut table;
    let uri = reader.require(table_ref, "uri", URI_ALLOWED);
    let uri = uris(reader, uri, folder, FOREIGN_SCHEMES);
    let vector = reader.require(table_ref, "vector", COLUMN_ALLOWED);
    let vector = reader.string(vector, COLUMN_ALLOWED);
    let id = reader.take(table_ref, "id");
    let id = reader.string(id, COLUMN_ALLOWED);
    let attributes = reader.take(table_ref, "attributes");
    let attributes = reader.strings(attributes, false, "a list of columns' names");
    if let Some((text, span)) = first_repeated(&attributes) {
        let message = format!("found \"{}\" twice; allowed: each column once", printable(text));
        reader.problem("source.attributes", span, message);
    }
    for (role, column) in [("vector", &vector), ("id", &id)] {
        if let Some((text, span)) = attributes.iter().find(|(text, _)| Some(text) == column.as_ref()) {
            let message = format!(
                "found \"{}\", which is the {role} column; allowed: columns kept beside it",
                printable(text)
            );
            reader.problem("source.attributes", span, message);
        }
    }
    if vector.is_some() && vector == id {
        let place = reader.origin.place("source.id");
        let message = "is the vector column; allowed: another column, or none for row numbers";
        reader.problems.push(Diagnostic::error("source.id", place, message));
    }
    let predicate = reader.take(table_ref, "where");
    let predicate = reader.string(predicate, "an SQL predicate, as \"rank < 50000\"");
    let shard = reader.take(table_ref, "shard");
    let shard = self::shard(reader, shard);
    let on_bad_row = reader.take(table_ref, "on_bad_row");
    let on_bad_row = match reader.choice(on_bad_row, &["fail", "skip"]) {
        Some("skip") => OnBadRow::Skip,
        _ => OnBadRow::Fail,
    };
    let foreign = foreign::options(reader, table_ref);
    reader.finish(table);
    let attributes = attributes.into_iter().map(|(text, _)| text).collect();
    Some(SourceSpec { uri, vector: vector?, id, attributes, predicate, shard, on_bad_row, foreign })
}

fn shard(reader: &mut Reader, entry: Option<Entry<'_>>) -> Option<Shard> {
    let entry = entry?;
    let shard = match &entry.value {
        DeValue::String(text) => text.parse().ok(),
        _ => None,
    };
    if shard.is_none() {
        let message = format!("found {}; allowed: {}", found(&entry.value), Shard::ALLOWED);
        reader.problem(&entry.path, &entry.span, message);
    }
    shard
}

/// One or more inputs; `others` are schemes beside those of stores.
fn uris(reader: &mut Reader, entry: Option<Entry<'_>>, folder: &Path, others: &[&str]) -> Vec<Uri> {
    let Some(entry) = entry else { return Vec::new() };
    let (path, span) = (entry.path.clone(), entry.span.clone());
    if matches!(&entry.value, DeValue::Array(items) if items.is_empty()) {
        reader.problem(&path, &span, format!("found an empty list; allowed: {URI_ALLOWED}"));
        return Vec::new();
    }
    let written = reader.strings(Some(entry), true, URI_ALLOWED);
    if let Some((text, span)) = first_repeated(&written) {
        let message = format!("found \"{}\" twice; allowed: each file once", printable(text));
        reader.problem(&path, span, message);
    }
    for (text, span) in &written {
        let is_other = uri::scheme(text).is_some_and(|scheme| others.contains(&scheme));
        if let Some(message) = scheme_problem(text, |_| true).filter(|_| !is_other) {
            reader.problem(&path, span, message);
        }
        if let Some(message) = uri_problem(text) {
            reader.problem(&path, span, message);
        }
    }
    written.iter().map(|(text, _)| Uri::new(text, folder)).collect()
}

fn scheme_problem(text: &str, allowed: impl Fn(&str) -> bool) -> Option<String> {
    let is_allowed = |scheme: &&str| SCHEMES.contains(scheme) && allowed(scheme);
    let scheme = uri::scheme(text).filter(|scheme| !is_allowed(scheme))?;
    let schemes: Vec<String> =
        SCHEMES.iter().filter(|scheme| is_allowed(scheme)).map(|scheme| format!("`{scheme}://`")).collect();
    Some(format!("found the scheme `{}://`; allowed: a path, {}", printable(scheme), schemes.join(", ")))
}

fn output_problem(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some(format!("found an empty string; allowed: {OUTPUT_ALLOWED}"));
    }
    if text.contains(['*', '?']) {
        return Some(format!("found the glob \"{}\"; allowed: {OUTPUT_ALLOWED}", printable(text)));
    }
    scheme_problem(text, |scheme| !READ_ONLY_SCHEMES.contains(&scheme))
}

/// A folder of this machine: it is mapped and locked.
fn scratch_folder(reader: &mut Reader, entry: Option<Entry<'_>>, folder: &Path) -> Option<Uri> {
    let entry = entry?;
    let (path, span) = (entry.path.clone(), entry.span.clone());
    let text = reader.string(Some(entry), SCRATCH_ALLOWED)?;
    if let Some(message) = scratch_problem(&text) {
        reader.problem(&path, &span, message);
    }
    Some(Uri::new(&text, folder))
}

fn scratch_problem(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some(format!("found an empty string; allowed: {SCRATCH_ALLOWED}"));
    }
    let scheme = uri::scheme(text)?;
    Some(format!("found the scheme `{}://`; allowed: {SCRATCH_ALLOWED}", printable(scheme)))
}

fn queries(
    reader: &mut Reader,
    mut table: Table<'_>,
    folder: &Path,
    source_vector: Option<&str>,
) -> Option<QueriesSpec> {
    let uri = reader.take(&mut table, "uri");
    let vector = reader.take(&mut table, "vector");
    let sample = reader.take(&mut table, "sample");
    let queries = match (uri, sample) {
        (Some(uri), None) => {
            let uri = uris(reader, Some(uri), folder, &[]);
            let vector = match vector {
                Some(vector) => reader.string(Some(vector), COLUMN_ALLOWED),
                None => source_vector.map(Into::into),
            };
            vector.map(|vector| QueriesSpec::File { uri, vector })
        }
        (None, Some(sample)) => {
            if let Some(vector) = vector {
                let message = "is of no use with `sample`; allowed: leave it out";
                reader.problem(&vector.path, &vector.span, message);
            }
            let sample = reader.integer(Some(sample), 1..=1_000_000);
            sample.map(|sample| QueriesSpec::Sample { sample: sample as usize })
        }
        (Some(_), Some(sample)) => {
            let message = "found both `uri` and `sample`; allowed: one of them";
            reader.problem(&sample.path, &sample.span, message);
            None
        }
        (None, None) if table.has_misspelt("uri") || table.has_misspelt("sample") => None,
        (None, None) => {
            let place = reader.origin.place("queries");
            let message = "has neither `uri` nor `sample`; allowed: one of them";
            reader.problems.push(Diagnostic::error("queries", place, message));
            None
        }
    };
    reader.finish(table);
    queries
}

fn output(reader: &mut Reader, mut table: Table<'_>, folder: &Path) -> Option<OutputSpec> {
    let entry = reader.require(&mut table, "uri", OUTPUT_ALLOWED);
    let place = entry.as_ref().map(|entry| (entry.path.clone(), entry.span.clone()));
    let uri = reader.string(entry, OUTPUT_ALLOWED);
    if let (Some(uri), Some((path, span))) = (&uri, place)
        && let Some(message) = output_problem(uri)
    {
        reader.problem(&path, &span, message);
    }
    reader.finish(table);
    Some(OutputSpec { uri: Uri::new(&uri?, folder) })
}

fn store(reader: &mut Reader, mut table: Table<'_>) -> StoreOptions {
    let mut options = StoreOptions::default();
    let mut text = |reader: &mut Reader, key: &str, allowed: &str| {
        let entry = reader.take(&mut table, key);
        reader.string(entry, allowed)
    };
    options.endpoint = text(reader, "endpoint", "the store's address, as \"https://host:port\"");
    options.region = text(reader, "region", "a region's name");
    options.kms_key_id = text(reader, "kms_key_id", "a key's id");
    options.account = text(reader, "account", "a storage account's name");
    for (key, secret) in [
        ("sse_c_key", &mut options.sse_c_key),
        ("access_key_id", &mut options.access_key_id),
        ("secret_access_key", &mut options.secret_access_key),
        ("session_token", &mut options.session_token),
        ("account_key", &mut options.account_key),
        ("service_account", &mut options.service_account),
    ] {
        let entry = reader.take(&mut table, key);
        *secret = self::secret(reader, entry);
    }
    let allow_http = reader.take(&mut table, "allow_http");
    options.allow_http = reader.boolean(allow_http);
    let virtual_hosted = reader.take(&mut table, "virtual_hosted");
    options.virtual_hosted = reader.boolean(virtual_hosted);
    let single_writer = reader.take(&mut table, "single_writer");
    options.single_writer = reader.boolean(single_writer).unwrap_or_default();
    let timeout = reader.take(&mut table, "timeout_s");
    options.timeout_s = reader.integer(timeout, 1..=MAX_DEADLINE_S);
    let deadline = reader.take(&mut table, "deadline_s");
    options.deadline_s = reader.integer(deadline, 0..=MAX_DEADLINE_S);
    let encryption = reader.take(&mut table, "encryption");
    let is_said = encryption.is_some() || table.has_misspelt("encryption");
    options.encryption = reader.choice(encryption, Encryption::NAMES).and_then(Encryption::from_name);
    // One that is not understood has been complained of.
    let is_understood = options.encryption.is_some() || !is_said;
    for (key, given, encryption) in [
        ("kms_key_id", options.kms_key_id.is_some(), Encryption::SseKms),
        ("sse_c_key", options.sse_c_key.is_some(), Encryption::SseC),
    ] {
        if given && options.encryption != Some(encryption) && is_understood {
            let key = format!("store.{key}");
            let message = format!("is of no use without `encryption = \"{}\"`", encryption.name());
            reader.problems.push(Diagnostic::error(&key, reader.origin.place(&key), message));
        }
    }
    if options.encryption == Some(Encryption::SseC) && options.sse_c_key.is_none() {
        let message = format!("\"sse_c\" needs `sse_c_key`; allowed: {}", Secret::ALLOWED);
        let place = reader.origin.place("store.encryption");
        reader.problems.push(Diagnostic::error("store.encryption", place, message));
    }
    reader.finish(table);
    options
}

/// Never what stands there: a message is no place for it either.
pub(super) fn secret(reader: &mut Reader, entry: Option<Entry<'_>>) -> Option<Secret> {
    let entry = entry?;
    let secret = match &entry.value {
        DeValue::String(text) => text.parse().ok(),
        _ => None,
    };
    if secret.is_none() {
        let message = format!("is no reference to a secret; allowed: {}", Secret::ALLOWED);
        reader.problem(&entry.path, &entry.span, message);
    }
    secret
}

pub(super) fn indexes(
    reader: &mut Reader,
    entry: Option<Entry<'_>>,
    job_name: &str,
    attributes: Option<&[String]>,
) -> Option<Vec<IndexSpec>> {
    let entry = entry?;
    let allowed = format!("1 to {MAX_INDEXES} tables `[[index]]`");
    let items = match entry.value {
        DeValue::Array(items) if (1..=MAX_INDEXES).contains(&items.len()) => items,
        value => {
            let message = format!("found {}; allowed: {allowed}", found(&value));
            let problem = reader.problem(&entry.path, &entry.span, message);
            if matches!(value, DeValue::Table(_)) {
                problem.help = Some("write `[[index]]` for `[index]`: there may be several".into());
            }
            return None;
        }
    };
    let mut indexes = Vec::with_capacity(items.len());
    for (position, item) in items.into_iter().enumerate() {
        let item = item_of("index", position, item);
        reader.origin.record(item.path.clone(), item.span.clone());
        let entries = match item.value {
            DeValue::Table(entries) => entries,
            value => {
                let message = format!("found {}; allowed: a table `[[index]]`", found(&value));
                reader.problem(&item.path, &item.span, message);
                continue;
            }
        };
        // Kept with its position: an index that has problems is missing from the list.
        let index = index(reader, item.path, entries, job_name);
        if let (Some(index), Some(attributes)) = (&index, attributes) {
            check_partition(reader, position, index, attributes);
        }
        indexes.extend(index.map(|index| (position, index)));
    }
    check_between(reader, &indexes);
    Some(indexes.into_iter().map(|(_, index)| index).collect())
}

/// What an index is partitioned by is kept beside its rows.
fn check_partition(reader: &mut Reader, position: usize, index: &IndexSpec, attributes: &[String]) {
    let Some(column) = index.partition_by.as_ref().filter(|column| !attributes.contains(column)) else {
        return;
    };
    let key = format!("index[{position}].partition_by");
    let message = format!("found \"{}\"; allowed: {PARTITION_ALLOWED}", printable(column));
    let place = reader.origin.place(&key);
    reader.problems.push(Diagnostic::error(&key, place, message));
}

fn index(reader: &mut Reader, path: String, entries: DeTable<'_>, job_name: &str) -> Option<IndexSpec> {
    const KINDS: &[&str] = &["flat", "ivf_pq", "hnsw"];
    const KIND_ALLOWED: &str = "\"flat\", \"ivf_pq\", \"hnsw\"";
    const METRIC_ALLOWED: &str = "\"l2\", \"inner_product\", \"cosine\"";
    let table = &mut reader.table(path, entries, &schema::ANY_INDEX);
    let kind = reader.require(table, "kind", KIND_ALLOWED);
    let kind = reader.choice(kind, KINDS);
    table.retarget(match kind {
        Some("flat") => &schema::FLAT,
        Some("ivf_pq") => &schema::IVF_PQ,
        Some("hnsw") => &schema::HNSW,
        _ => &schema::ANY_INDEX,
    });
    let metric = reader.require(table, "metric", METRIC_ALLOWED);
    let metric = self::metric(reader, metric, kind);
    let entry = reader.take(table, "name");
    let is_named = entry.is_some();
    let name = name(reader, entry).map(|(name, _)| name);

    let partition_by = reader.take(table, "partition_by");
    let partition_by = reader.string(partition_by, PARTITION_ALLOWED);
    let gate = gate(reader, table);
    let params = match kind {
        Some("ivf_pq") => Some(IndexParams::IvfPq(ivf_pq(reader, table, metric))),
        Some("hnsw") => Some(IndexParams::Hnsw(hnsw(reader, table))),
        Some(_) => Some(IndexParams::Flat(FlatSpec {})),
        None => None,
    };
    let target = match params {
        Some(IndexParams::Flat(_)) | None => None,
        Some(_) => Some(target(reader, table, gate)),
    };
    reader.finish(table.take_rest());

    let (params, metric) = (params?, metric?);
    let name = if is_named { name? } else { format!("{job_name}-{}", params.kind()) };
    Some(IndexSpec { name, params, metric, partition_by, gate, target })
}

/// What only compares row by row is for `flat`.
fn metric(reader: &mut Reader, entry: Option<Entry<'_>>, kind: Option<&str>) -> Option<Metric> {
    let products = Metric::ALL.map(Metric::name);
    let exact_only = Metric::EXACT_ONLY.map(Metric::name);
    let entry = entry?;
    let written = if let DeValue::String(text) = &entry.value { text.to_string() } else { String::new() };
    if kind.is_some_and(|kind| kind != "flat") && exact_only.contains(&written.as_str()) {
        let message = format!("found \"{written}\"; allowed: {}", list_strings(&products));
        let help = format!("\"{written}\" compares row by row, which is `kind = \"flat\"`");
        reader.problem(&entry.path, &entry.span, message).help = Some(help);
        return None;
    }
    let allowed: Vec<&'static str> = match kind {
        Some("flat") => products.into_iter().chain(exact_only).collect(),
        _ => products.to_vec(),
    };
    reader.choice(Some(entry), &allowed)?.parse().ok()
}

fn gate(reader: &mut Reader, table: &mut Table<'_>) -> Option<Gate> {
    let entry = reader.take(table, "gate");
    let mut gate = reader.subtable(entry, &schema::GATE)?;
    let k = reader.take(&mut gate, "k");
    let k = reader.integer(k, 1..=MAX_K).map_or(DEFAULT_K, |k| k as usize);
    let min_recall = reader.require(&mut gate, "min_recall", "a recall above 0 and at most 1");
    let min_recall = reader.recall(min_recall);
    reader.finish(gate);
    Some(Gate { k, min_recall: min_recall? })
}

fn target(reader: &mut Reader, table: &mut Table<'_>, gate: Option<Gate>) -> Target {
    let default = Target {
        k: gate.map_or(DEFAULT_K, |gate| gate.k),
        recall: gate.map_or(DEFAULT_RECALL, |gate| gate.min_recall.max(DEFAULT_RECALL)),
    };
    let Some(entry) = reader.take(table, "target") else { return default };
    let (path, span) = (entry.path.clone(), entry.span.clone());
    let Some(mut table) = reader.subtable(Some(entry), &schema::TARGET) else { return default };
    let k = reader.take(&mut table, "k");
    let k = reader.integer(k, 1..=MAX_K).map_or(default.k, |k| k as usize);
    let recall = reader.take(&mut table, "recall");
    let recall = reader.recall(recall).unwrap_or(default.recall);
    reader.finish(table);
    if let Some(gate) = gate
        && gate.k == k
        && recall < gate.min_recall
    {
        let message = format!(
            "found recall {recall}, below the gate's `min_recall` {}; allowed: at least that, since the gate \
             judges the setting that the target chooses",
            gate.min_recall
        );
        reader.problem(&path, &span, message);
    }
    Target { k, recall }
}

fn ivf_pq(reader: &mut Reader, table: &mut Table<'_>, metric: Option<Metric>) -> IvfPqSpec {
    let nlist = reader.take(table, "nlist");
    let nlist = reader.auto_integer(nlist, 1..=1 << 16);
    let code = list_code(reader, table, metric);
    let entry = reader.take(table, "refine");
    let place = entry.as_ref().map(|entry| (entry.path.clone(), entry.span.clone()));
    let refine = match reader.choice(entry, &["none", "f16", "f32"]) {
        Some("none") => Refine::None,
        Some("f32") => Refine::F32,
        _ => Refine::F16,
    };
    if let (CodeSpec::Flat {}, Refine::None, Some((path, span))) = (&code, refine, place) {
        let message = "found \"none\"; allowed: \"f16\", \"f32\", which is what rows are kept as with \
                       `code = \"flat\"`";
        reader.problem(&path, &span, message);
    }
    let entry = reader.take(table, "spill");
    let place = entry.as_ref().map(|entry| (entry.path.clone(), entry.span.clone()));
    let spill = match reader.choice(entry, &["none", "soar"]) {
        Some("soar") => Spilling::Soar,
        _ => Spilling::None,
    };
    if let (CodeSpec::Flat {}, Spilling::Soar, Some((path, span))) = (&code, spill, place) {
        let message = "found \"soar\"; allowed with `code = \"flat\"`: \"none\"";
        reader.problem(&path, &span, message);
    }
    let kmeans_iterations = reader.take(table, "kmeans_iterations");
    let kmeans_iterations = reader.integer(kmeans_iterations, 1..=1000).unwrap_or(10) as usize;
    IvfPqSpec { nlist, code, refine, spill, kmeans_iterations }
}

/// What rows are kept as in their lists, and the keys that belong to that alone.
fn list_code(reader: &mut Reader, table: &mut Table<'_>, metric: Option<Metric>) -> CodeSpec {
    const OF_PQ: [&str; 4] = ["pq_m", "pq_bits", "rotation", "loss"];
    const OF_RABITQ: [&str; 1] = ["rabitq_bits"];
    let code = reader.take(table, "code");
    let code = reader.choice(code, ivf::Code::NAMES).unwrap_or("pq");
    for (owner, keys) in [("pq", &OF_PQ[..]), ("rabitq", &OF_RABITQ)] {
        for key in keys.iter().filter(|_| owner != code) {
            if let Some(entry) = reader.take(table, key) {
                let message =
                    format!("is of no use with `code = \"{code}\"`; allowed: with `code = \"{owner}\"`");
                reader.problem(&entry.path, &entry.span, message);
            }
        }
    }
    match code {
        "rabitq" => {
            let bits = reader.take(table, "rabitq_bits");
            let bits = reader.integer(bits, 1..=8).unwrap_or(u64::from(ivf::Code::DEFAULT_RABITQ_BITS));
            CodeSpec::Rabitq { rabitq_bits: bits as u32 }
        }
        "sq8" => CodeSpec::Sq8 {},
        "flat" => CodeSpec::Flat {},
        _ => CodeSpec::Pq(pq(reader, table, metric)),
    }
}

fn pq(reader: &mut Reader, table: &mut Table<'_>, metric: Option<Metric>) -> PqSpec {
    let pq_m = reader.take(table, "pq_m");
    let pq_m = reader.auto_integer(pq_m, 1..=MAX_PQ_M as u64);
    let pq_bits = reader.take(table, "pq_bits");
    let pq_bits = reader.one_of(pq_bits, &[4, 8]).unwrap_or(4) as u32;
    let rotation = reader.take(table, "rotation");
    let rotation = match reader.choice(rotation, &["none", "opq"]) {
        Some("opq") => Rotate::Opq,
        _ => Rotate::None,
    };
    let loss = reader.take(table, "loss");
    // Errors along a row and across it weigh the same in l2.
    let losses: &[&'static str] = match metric {
        Some(Metric::L2) => &["auto", "squared"],
        _ => &["auto", "squared", "score_aware"],
    };
    let loss = match reader.choice(loss, losses) {
        Some("score_aware") => Loss::ScoreAware,
        Some("squared") => Loss::Squared,
        _ => Loss::Auto,
    };
    PqSpec { pq_m, pq_bits, rotation, loss }
}

fn hnsw(reader: &mut Reader, table: &mut Table<'_>) -> HnswSpec {
    let m = reader.take(table, "m");
    let m = reader.integer(m, 2..=256).unwrap_or(16) as usize;
    let ef_construction = reader.take(table, "ef_construction");
    let ef_construction = reader.integer(ef_construction, 8..=4096).unwrap_or(200) as usize;
    let code = reader.take(table, "code");
    let code = reader.choice(code, Code::NAMES).and_then(|name| name.parse().ok()).unwrap_or_default();
    let expert = reader.take(table, "expert");
    let expert = reader.subtable(expert, &schema::EXPERT);
    let expert = expert.map_or_else(HnswExpert::default, |expert| hnsw_expert(reader, expert, m));
    HnswSpec { m, ef_construction, code, expert }
}

fn hnsw_expert(reader: &mut Reader, mut table: Table<'_>, m: usize) -> HnswExpert {
    let c_max = reader.take(&mut table, "c_max");
    let c_max = reader.auto_integer(c_max, 32..=4096);
    let fanout = reader.take(&mut table, "fanout");
    let fanout = reader.auto_integers(fanout, 1..=8, 1..=64);
    let leaf_k = reader.take(&mut table, "leaf_k");
    let leaf_k = reader.auto_integer(leaf_k, 1..=31);
    // Fewer candidates than links could never fill a row.
    let l_max = reader.take(&mut table, "l_max");
    let l_max = reader.auto_integer(l_max, 2 * m as u64..=1024);
    let alpha = reader.take(&mut table, "alpha");
    let alpha = reader.auto_number(alpha, 1.0..=2.0);
    let memory_budget = reader.take(&mut table, "memory_budget");
    let memory_budget = reader.auto_integer(memory_budget, 1 << 20..=1 << 50);
    reader.finish(table);
    HnswExpert { c_max, fanout, leaf_k, l_max, alpha, memory_budget }
}

/// What holds between a job's indexes: different names, one metric.
fn check_between(reader: &mut Reader, indexes: &[(usize, IndexSpec)]) {
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    let line_of = |reader: &Reader, key: &str| match reader.origin.place(key) {
        super::Place::File { line, .. } => line,
        super::Place::Flag { .. } => 0,
    };
    for (position, index) in indexes {
        let key = format!("index[{position}].name");
        // Folders of macOS and Windows do not tell `A` from `a`.
        if let Some(first) = named.insert(index.name.to_ascii_lowercase(), *position) {
            let line = line_of(reader, &format!("index[{first}].name"));
            let message = format!(
                "\"{}\" is the name of the index of line {line} too; allowed: a name of its own (case does not \
                 count)",
                index.name
            );
            reader.problems.push(Diagnostic::error(&key, reader.origin.place(&key), message));
        }
        let (first, first_index) = &indexes[0];
        if index.metric != first_index.metric {
            let key = format!("index[{position}].metric");
            let line = line_of(reader, &format!("index[{first}].metric"));
            let message = format!(
                "found \"{}\", but \"{}\" in line {line}; allowed: one metric for all indexes of a job",
                index.metric, first_index.metric
            );
            let help = "rows are read once, and normalised for cosine: write a job for each metric";
            reader.problems.push(Diagnostic::error(&key, reader.origin.place(&key), message).help(help));
        }
    }
}
