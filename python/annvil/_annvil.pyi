"""The native part of `annvil`. Import its names from `annvil`."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Answers", "Index", "Shards", "Watched", "__version__", "build", "check", "open", "watch"]

__version__: str

def open(uri: str, *, version: int | None = None, **options: Any) -> Index:
    """Opens the index at ``<root>/<index>``: a path, or a URI of ``file``, ``s3``, ``gs``, ``az``, ``http(s)``.

    version: this one, not the latest. Options, by name:

    residence: ``"resident"`` (the default) reads and checks everything now; ``"mapped"`` maps local files into memory;
        ``"lazy"`` leaves lists and vectors in the store and reads, checks and keeps what searches ask for.
    check: of mapped files, when their hashes are compared: ``"open"``, before the index answers, or ``"background"``.
    memory_limit: bytes; an index that takes more is not opened, and the error says by how much.
    filter_cache: bytes for the masks of filters that come again. Default 64 MiB.
    cache: of a lazy index, bytes for blocks in memory.
    cache_dir, cache_dir_bytes: a folder for blocks on disk, and how much it may hold. Default none, 1 GiB.
    key: where the key of an encrypted index is: ``"env:NAME"``, ``"file:/absolute/path"`` or ``"command:..."``. Default: what
        the variable ``ANNVIL_KEY`` says. An encrypted index is not mapped: it is decrypted into memory.

    Raises BadArtifact, with its place, for whatever is missing, damaged or not understood; StoreError; InvalidInput.
    """

def watch(uri: str, *, every: float | None = 5.0, **options: Any) -> Watched:
    """Opens an index and follows its versions: looks for a new one each `every` seconds, or, with None, at `refresh()`.

    Options are those of `open`.
    """

def build(
    job: str | os.PathLike[str] | Mapping[str, Any],
    *,
    backend: Literal["auto", "gpu", "cpu", "reference"] | None = None,
    threads: int | None = None,
    seed: int | None = None,
    output: str | None = None,
    memory_budget: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Builds, measures and publishes the indexes of a job: a job file, or a dict of what it would say.

    Paths in a dict start from the current folder. The keywords stand above the job's own keys; without `resume` nothing is
    taken from, or kept in, `scratch` for a build that is killed. `progress` is called on
    this thread with each event, the dicts that ``annvil build --json`` prints; what it raises cancels the build, as
    Ctrl-C does. Returns the summary: rows, stages, and for each index its certificate and where it was published.

    Raises InvalidInput, with every problem of the job and its line; BelowGate; StoreError; DeviceError.
    """

def check(job: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Reads a job, and returns it with every default filled in. No data is read."""

@final
class Index:
    """An open version of an index. Never changes; any number of threads may search it at once."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def kind(self) -> str:
        """``flat``, ``ivf_pq`` or ``hnsw``."""
    @property
    def metric(self) -> str:
        """``l2``, ``inner_product`` or ``cosine``."""
    @property
    def dim(self) -> int: ...
    @property
    def effort_name(self) -> str | None:
        """What `effort` is called here: ``nprobe``, ``ef_search``; None where every search is exact."""
    @property
    def attributes(self) -> list[str]:
        """Columns kept beside each row."""
    @property
    def manifest(self) -> dict[str, Any]:
        """What the version consists of, what it was made from and what was measured of it; see FORMAT.md."""
    @property
    def certificate(self) -> dict[str, Any] | None:
        """Recall and latency as measured before the version was published."""
    def __len__(self) -> int:
        """Rows that a search can find."""
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        **options: Any,
    ) -> Answers:
        """The `k` nearest rows of a vector, shape (dim,), or of each row, shape (n, dim).

        A C-contiguous float32 array is read where it lies. Options, by name:

        effort: ``nprobe`` or ``ef_search``. Default: what the certificate chose.
        recall: in place of it, the cheapest setting that the certificate measured at this recall.
        exact: in place of both, True compares with every row.
        refine: candidates ranked again by kept vectors.
        partition: of an index that has ``partition_by``, only rows of this value; one that no row has finds nothing.
        filter: SQL over the attributes and ``row_id``: ``"lang = 'en' AND year BETWEEN 2020 AND 2024"``.
        max_distance, min_similarity: no row farther than this.
        exclude: ids of rows to leave out.
        offset: leaves out so many of the nearest rows: the next page.
        attributes: a list of columns to return, or True for all.
        timeout: seconds.

        Up to 16 queries are searched on this thread, more on all cores. Raises InvalidInput, SearchTimeout, BadArtifact.
        """
    def find(self, id: int | str | bytes | uuid.UUID) -> int | None:
        """The place of a row, by its id; None if there is none."""
    def vector(self, id: int | str | bytes | uuid.UUID) -> NDArray[np.float32] | None:
        """A row's vector as the index keeps it (for cosine normalised); None if there is no such row or vector."""
    def wait_for_check(self) -> list[str]:
        """Waits for a check in the background. What it found to be damaged."""

@final
class Shards:
    """Several indexes, of one metric and dimension, searched as one."""

    def __new__(cls, indexes: Sequence[Index]) -> Shards: ...
    @property
    def dim(self) -> int: ...
    def __len__(self) -> int:
        """Rows that a search can find, of all shards."""
    def search(self, queries: ArrayLike, k: int = 10, **options: Any) -> Answers:
        """As `Index.search`, merged by distance."""

@final
class Answers:
    """What a search found, nearest first. ``pyarrow.record_batch(answers)`` and ``polars.DataFrame(answers)`` make a table of
    it: ``_query``, ``_rank``, ``row_id``, ``_similarity`` (for a metric that has it), ``_distance``, and the attributes. Attributes keep
    their names: where one is called as a column of these, that one gets another ``_`` in front.

    Arrays have shape (n, width) for n queries, or (width,) for a single one; a query that found fewer than another is
    filled up, see `counts`.
    """

    @property
    def ids(self) -> NDArray[Any]:
        """int64, uint64, or objects: `str`, `uuid.UUID`. Filled up with the least int64, the greatest uint64, None."""
    @property
    def distances(self) -> NDArray[np.float32]:
        """Smaller is nearer; filled up with infinity."""
    @property
    def similarities(self) -> NDArray[np.float32] | None:
        """For cosine and inner product; larger is nearer; filled up with minus infinity."""
    @property
    def ordinals(self) -> NDArray[np.int64]:
        """Places in the index (of `Shards`: in the shard); filled up with -1."""
    @property
    def shards(self) -> NDArray[np.int64]:
        """Which of `Shards` a row is of; 0 where there is one; filled up with -1."""
    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows found, by query."""
    def __len__(self) -> int:
        """Queries."""
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

@final
class Watched:
    """An index followed from version to version. A version that fails its checks is not taken; the old one stays."""

    @property
    def index(self) -> Index:
        """The newest version that was taken. Keep it for as long as answers must be of one version."""
    @property
    def refused(self) -> tuple[int, str] | None:
        """The version that was not taken, and why."""
    def read(self, consistency: Literal["local", "eventual", "strong"] = "strong", *, max_age: float = 5.0) -> Index:
        """A version as new as is asked for: `local` the one in memory, `eventual` one that was seen to be the latest at most
        `max_age` seconds ago, `strong` the latest now."""
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        consistency: Literal["local", "eventual", "strong"] = "local",
        max_age: float = 5.0,
        **options: Any,
    ) -> Answers:
        """`Index.search` of the version that `read` gives."""
    def refresh(self) -> bool:
        """Looks now; whether a new version was taken."""
    def close(self) -> None:
        """Ends the watch. The index stays open."""
    def __enter__(self) -> Watched: ...
    def __exit__(self, *exception: object) -> None: ...
