//! The keys of `[source]` that are for rows that are not in Parquet.

use super::parse::secret;
use super::read::{Reader, Table};
use super::schema;
use crate::source::ForeignOptions;
use crate::source::embed::{EmbedSpec, EmbedderKind, Hashed};

const TEXT: &str = "text that is not empty";

pub(super) fn options(reader: &mut Reader, table: &mut Table<'_>) -> ForeignOptions {
    let name = reader.take(table, "table");
    let name = reader.string(name, "a table or view of PostgreSQL, or a collection of Qdrant");
    let query = reader.take(table, "query");
    let query_span = query.as_ref().map(|entry| entry.span.clone());
    let query = reader.string(query, "a SELECT");
    if let (Some(_), Some(span)) = (&name, query_span) {
        reader.problem("source.query", &span, "stands beside `table`; allowed: one of them");
    }
    let credential = reader.take(table, "credential");
    let credential = secret(reader, credential);
    let embed = reader.take(table, "embed");
    let embed = reader.subtable(embed, &schema::EMBED).and_then(|table| embedder(reader, table));
    ForeignOptions { table: name, query, credential, embed, folder: None }
}

fn embedder(reader: &mut Reader, mut table: Table<'_>) -> Option<EmbedSpec> {
    let table_ref = &mut table;
    let kind = reader.require(table_ref, "kind", "\"hashed\", \"command\" or \"http\"");
    let kind = reader.choice(kind, EmbedderKind::NAMES);
    let text = reader.require(table_ref, "text", "the column of text");
    let text = reader.string(text, "the column of text");
    let batch = reader.take(table_ref, "batch");
    let batch = reader.integer(batch, 1..=65_536).map_or(EmbedSpec::DEFAULT_BATCH, |batch| batch as usize);
    let timeout_s = reader.take(table_ref, "timeout_s");
    let timeout_s = reader.integer(timeout_s, 1..=86_400).unwrap_or(EmbedSpec::DEFAULT_TIMEOUT_S);
    let kind = match kind {
        Some("hashed") => {
            let buckets = reader.take(table_ref, "buckets");
            let buckets = reader.integer(buckets, 1..=crate::source::MAX_DIM as u64);
            Some(EmbedderKind::Hashed { buckets: buckets.map_or(Hashed::DEFAULT_BUCKETS, |n| n as usize) })
        }
        Some("command") => {
            let command = reader.require(table_ref, "command", "a program and its arguments, as a list");
            let command = reader.strings(command, false, "a program and its arguments, as a list");
            let command: Vec<String> = command.into_iter().map(|(text, _)| text).collect();
            (!command.is_empty()).then_some(EmbedderKind::Command { command })
        }
        Some(_) => {
            let url = reader.require(table_ref, "url", "a URL of http or https");
            let span = url.as_ref().map(|entry| entry.span.clone());
            let url = reader.string(url, TEXT);
            if let (Some(url), Some(span)) = (&url, span)
                && !url.starts_with("http://")
                && !url.starts_with("https://")
            {
                reader.problem("source.embed.url", &span, "allowed: a URL of http or https");
            }
            let credential = reader.take(table_ref, "credential");
            let credential = secret(reader, credential);
            url.map(|url| EmbedderKind::Http { url, credential })
        }
        None => None,
    };
    // What belongs to another kind.
    for key in ["buckets", "command", "url", "credential"] {
        if let Some(entry) = reader.take(table_ref, key) {
            let message = match &kind {
                Some(_) => {
                    "is for another kind of embedder; allowed: \"hashed\": `buckets`, \"command\": `command`, \"http\": \
                            `url`, `credential`"
                }
                None => continue,
            };
            reader.problem(&entry.path, &entry.span, message);
        }
    }
    reader.finish(table);
    Some(EmbedSpec { text: text?, kind: kind?, batch, timeout_s })
}
