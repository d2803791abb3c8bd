//! `annvil delete`: rows go.

use std::io::{Read, Write};

use clap::Args;

use super::change::ChangeArgs;
use crate::change::{ChangeError, Delete, delete};
use crate::error::Error;
use crate::loader::Filter;
use crate::store::IndexStore;
use crate::vectors::{RowId, RowIdKind};

/// Take rows out of a published index, as a new version with tombstones.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil delete out/glove10k-hnsw --ids gone.txt
  cut -d, -f1 gone.csv | annvil delete out/glove10k-hnsw --ids -
  annvil delete out/glove10k-hnsw --where \"rank > 9000\"

Older versions keep the rows until `annvil gc` removes them; `annvil compact` makes room in the new ones.")]
pub struct DeleteArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// A text file with an id per line; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "predicate", required_unless_present = "predicate")]
    ids: Option<String>,
    /// A condition on attributes and row_id, as `annvil search --filter` takes
    #[arg(long = "where", value_name = "CONDITION", id = "predicate")]
    predicate: Option<String>,
}

/// # Errors
/// As [`delete`]; a file of ids that cannot be read, or that holds what is no id.
pub(super) fn run(args: &DeleteArgs, out: &mut dyn Write) -> Result<(), Error> {
    args.change.run(out, |options, progress| {
        let rows = match (&args.ids, &args.predicate) {
            (Some(path), _) => {
                let artifact = IndexStore::open(&options.index)?.artifact(None)?;
                let kind = artifact.segments().next().map(|segment| segment.ids()).transpose()?;
                let kind = kind.map_or(RowIdKind::Text, |ids| ids.kind());
                Delete::Ids(ids(path, &text_of(path)?, kind)?)
            }
            (None, predicate) => Delete::Where(Filter::parse(predicate.as_deref().unwrap_or_default())?),
        };
        delete(options, &rows, progress)
    })
}

fn text_of(path: &str) -> Result<String, Error> {
    let read = match path {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        path => std::fs::read_to_string(path),
    };
    read.map_err(|error| Error::BadInput(format!("cannot read `{path}`: {error}").into()))
}

/// An id per line; lines without one are passed over.
fn ids(path: &str, text: &str, kind: RowIdKind) -> Result<Vec<RowId>, ChangeError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| {
            kind.parse(line).map_err(|source| ChangeError::Id { path: path.into(), line: number + 1, source })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lines_and_what_is_none_is_named_with_its_line() {
        let read = ids("gone.txt", "7\n\n-9\n", RowIdKind::Int64).unwrap();
        assert_eq!(read, [RowId::Int(7), RowId::Int(-9)]);
        assert_eq!(ids("gone.txt", "a b\r\n c", RowIdKind::Text).unwrap().len(), 2);
        let error = ids("gone.txt", "7\n\nx\n", RowIdKind::UInt64).unwrap_err().to_string();
        assert!(error.starts_with("`gone.txt`, line 3: `x` is no"), "{error}");
    }
}
