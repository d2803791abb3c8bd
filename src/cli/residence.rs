//! Where a command leaves the bytes of an index that it opens.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::overrides::byte_size;
use super::table::cell;
use crate::artifact::FetchStats;
use crate::error::Error;
use crate::job::quantity::{bytes, count};
use crate::loader::{Check, Index, OpenOptions, Residence};

/// Of a cache folder, where no other size is asked for.
const FOLDER_BYTES: u64 = 10 << 30;

#[derive(Debug, Args)]
pub(super) struct ResidenceArgs {
    /// Where the index's bytes are while it is searched
    #[arg(long, value_enum, default_value_t = Place::Resident, value_name = "PLACE")]
    residence: Place,
    /// With `--residence lazy`: most memory for what was fetched [default: 256 MiB]
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    cache: Option<u64>,
    /// With `--residence lazy`: a folder to keep what was fetched in, for this process alone
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most bytes in --cache-dir [default: 10 GiB]
    #[arg(long, value_name = "SIZE", value_parser = byte_size, requires = "cache_dir")]
    cache_dir_size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// Read whole and checked
    Resident,
    /// Local files mapped into memory, checked when they are opened; an encrypted index is decrypted into memory instead
    Mapped,
    /// Left where they are, read by range as searches need them
    Lazy,
}

#[derive(Debug, thiserror::Error)]
#[error("{option} is for `--residence lazy`, which keeps only parts of an index")]
struct NotLazy {
    option: &'static str,
}

impl ResidenceArgs {
    /// # Errors
    /// A cache for an index that needs none.
    pub fn options(&self) -> Result<OpenOptions, Error> {
        let options = OpenOptions::new();
        let named = [(self.cache.is_some(), "--cache"), (self.cache_dir.is_some(), "--cache-dir")];
        if self.residence != Place::Lazy
            && let Some((_, option)) = named.into_iter().find(|(is_named, _)| *is_named)
        {
            return Err(Error::BadInput(Box::new(NotLazy { option })));
        }
        let options = match self.residence {
            Place::Resident => options,
            Place::Mapped => options.residence(Residence::Mapped(Check::AtOpen)),
            Place::Lazy => options.residence(Residence::Lazy),
        };
        let options = self.cache.map_or(options.clone(), |cache| options.cache_bytes(cache));
        Ok(match &self.cache_dir {
            Some(folder) => options.disk_cache(folder, self.cache_dir_size.unwrap_or(FOLDER_BYTES)),
            None => options,
        })
    }

    /// Says what came of where the index's bytes were to be, where that is somewhere else.
    pub fn told(&self, index: Index) -> Index {
        if self.residence == Place::Mapped && index.key_id().is_some() {
            let name = cell(&index.manifest().index_name);
            eprintln!("{name} is encrypted: it is decrypted into memory, not mapped");
        }
        index
    }

    pub fn is_lazy(&self) -> bool {
        self.residence == Place::Lazy
    }
}

/// What was asked of the store, to open an index and since then.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Fetched {
    pub open: FetchStats,
    pub search: FetchStats,
}

impl Fetched {
    /// `search` is what came after opening; `None` where nothing is left to fetch then.
    pub fn of(index: &Index, search: FetchStats, args: &ResidenceArgs) -> Option<Self> {
        args.is_lazy().then(|| Self { open: index.fetched_at_open(), search })
    }

    pub fn render(&self) -> String {
        let part = |name: &str, stats: FetchStats| {
            format!(
                "{name}: {} round trips, {} requests, {}",
                count(stats.round_trips),
                count(stats.requests),
                bytes(stats.bytes)
            )
        };
        format!("fetched to {}; to {}\n", part("open", self.open), part("search", self.search))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn options(words: &[&str]) -> Result<OpenOptions, Error> {
        let command = ResidenceArgs::augment_args(clap::Command::new("search"));
        let matches = command.try_get_matches_from([&["search"], words].concat()).unwrap();
        ResidenceArgs::from_arg_matches(&matches).unwrap().options()
    }

    #[test]
    fn a_cache_is_taken_where_there_is_something_to_keep() {
        assert_eq!(options(&[]).unwrap(), OpenOptions::new());
        let lazy = OpenOptions::new().residence(Residence::Lazy);
        assert_eq!(options(&["--residence", "lazy"]).unwrap(), lazy);
        let words =
            ["--residence", "lazy", "--cache", "1MiB", "--cache-dir", "c", "--cache-dir-size", "2MiB"];
        assert_eq!(options(&words).unwrap(), lazy.cache_bytes(1 << 20).disk_cache("c", 2 << 20));
        assert_eq!(options(&["--cache", "1MiB"]).unwrap_err().exit_code(), 2);
        assert_eq!(options(&["--residence", "mapped", "--cache-dir", "c"]).unwrap_err().exit_code(), 2);
    }
}
