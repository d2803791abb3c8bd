"""Indexes that the tests search: built by the package itself, over word vectors that are in the repository."""

import pathlib

import annvil
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GLOVE = pathlib.Path(__file__).parents[2] / "datasets" / "glove10k"


def write_rows(path, vectors, ids=None, **attributes):
    """Rows as Parquet: `embedding`, and `id` where there are any."""
    vectors = np.asarray(vectors, dtype=np.float32)
    flat = pa.array(vectors.ravel())
    columns = {"embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    if ids is not None:
        columns["id"] = ids
    columns |= attributes
    pq.write_table(pa.table(columns), path)


def job(folder, kind, metric="l2", queries=20, **keys):
    """A job over `rows.parquet`, as a dict."""
    source = {"uri": str(folder / "rows.parquet"), "vector": "embedding", **keys}
    return {
        "name": "small",
        "source": source,
        "queries": {"sample": queries},
        "output": {"uri": str(folder / "out")},
        "index": [{"kind": kind, "metric": metric, "name": kind}],
    }


@pytest.fixture(scope="session")
def glove(tmp_path_factory):
    """Both indexes over 10,000 word vectors: {kind: index}."""
    out = tmp_path_factory.mktemp("glove")
    annvil.build(GLOVE.parents[1] / "pipelines" / "quickstart.toml", output=str(out), backend="cpu")
    return {folder.name: annvil.open(str(folder)) for folder in out.iterdir() if (folder / "v").is_dir()}


@pytest.fixture(scope="session")
def glove_rows():
    return pq.read_table(GLOVE / "base.parquet")
