//! Parquet with text and without vectors: its columns pass through on their way to the embedder.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::super::error::Result;
use super::super::{columns, files, scan};
use super::{ForeignError, Stage, Wanted};
use crate::store::StoreOptions;

pub(super) fn read(
    uri: &str,
    store: &StoreOptions,
    wanted: &Wanted,
    runtime: &Handle,
    stage: &mut Stage<'_>,
) -> Result<()> {
    let files = runtime.block_on(async { scan::open(files::resolve(&[uri.into()], store).await?).await })?;
    let names = wanted.columns();
    let mut roots = Vec::with_capacity(files.len());
    for file in &files {
        let schema = file.metadata.schema();
        let Some(names) = &names else {
            roots.push((0..schema.fields().len()).collect());
            continue;
        };
        let missing = |name: &String| ForeignError::MissingColumn {
            uri: file.uri().into(),
            column: name.clone(),
            available: columns::describe(schema),
        };
        let mut of_file = names
            .iter()
            .map(|name| schema.index_of(name).map_err(|_| missing(name)))
            .collect::<Result<Vec<usize>, _>>()?;
        of_file.sort_unstable();
        roots.push(of_file);
    }
    let mut scan = scan::Scan::start(Arc::new(files), roots, runtime)?;
    let mut bytes_before = 0;
    while let Some(scanned) = scan.next() {
        let bytes = scan.bytes_read();
        stage.push(&scanned?.rows, bytes - bytes_before)?;
        bytes_before = bytes;
    }
    Ok(())
}
