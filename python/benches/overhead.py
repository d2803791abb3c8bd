"""What a call from Python costs over the search itself, in microseconds.

    python python/benches/overhead.py [INDEX]

Without an index: one over ten rows of four dimensions, whose search takes a fraction of a microsecond, so that nearly all of the
time is the call's. Ids and distances are fetched as well, as a caller would. With an index: single queries at its default, beside
`annvil measure INDEX`, which says what they take in Rust.
"""

import pathlib
import statistics
import sys
import tempfile
import time

import annvil
import numpy as np


def rows_of(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.random.default_rng(1).normal(size=(11, 4)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    pq.write_table(pa.table({"embedding": column}), folder / "rows.parquet")


def tiny():
    folder = pathlib.Path(tempfile.mkdtemp())
    rows_of(folder)
    annvil.build(
        {
            "source": {"uri": str(folder / "rows.parquet"), "vector": "embedding"},
            "queries": {"sample": 1},
            "output": {"uri": str(folder)},
            "index": [{"kind": "flat", "metric": "l2", "name": "tiny"}],
        }
    )
    return annvil.open(str(folder / "tiny"))


def microseconds(call, calls=20_000, rounds=7):
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times), min(times), max(times)


index = annvil.open(sys.argv[1]) if len(sys.argv) > 1 else tiny()
query = np.random.default_rng(2).normal(size=index.dim).astype(np.float32)


def with_arrays():
    found = index.search(query, 10)
    return found.ids, found.distances


for name, call in [
    ("search", lambda: index.search(query, 10)),
    ("search, ids, distances", with_arrays),
    ("search with two options", lambda: index.search(query, 10, offset=1, exclude=[3])),
]:
    print("{:<26} {:6.2f} µs ({:.2f}–{:.2f})".format(name, *microseconds(call)))
