"""Base, queries and exact neighbours of one dataset, and recall against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUND_TRUTH_K = 100


@dataclass
class Dataset:
    name: str
    folder: Path
    metric: str  # "cosine", "l2" or "inner_product"
    base: np.ndarray  # rows × dim, f32; unit rows for cosine
    base_ids: np.ndarray
    queries: np.ndarray
    truth: np.ndarray  # queries × GROUND_TRUTH_K, row numbers in base, nearest first
    truth_distance: np.ndarray  # queries × GROUND_TRUTH_K, f64

    def rows_of(self, ids: list[list[int]], k: int) -> np.ndarray:
        """Row numbers of ids, queries × k; -1 where fewer were found."""
        order = np.argsort(self.base_ids)
        rows = np.full((len(ids), k), -1, dtype=np.int64)
        for query, found in enumerate(ids):
            rows[query, : len(found)] = order[np.searchsorted(self.base_ids, found, sorter=order)]
        return rows

    def write_queries(self, path: Path) -> None:
        """For a program: the queries of this run, in its order."""
        dim = self.queries.shape[1]
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(self.queries.reshape(-1)), dim)
        pq.write_table(pa.table({"embedding": embedding}), path)

    def recall(self, found: np.ndarray, k: int) -> float:
        """|found ∩ true| / k. A row exactly as near as the k-th true one counts as true."""
        hits = 0
        for query, rows in enumerate(found):
            rows = np.unique(rows[(rows >= 0) & (rows < len(self.base))])
            distances = exact_distances(self.queries[query], self.base[rows], self.metric)
            hits += min(k, int((distances <= self.truth_distance[query, k - 1] + 1e-12).sum()))
        return hits / (len(found) * k)


def load(folder: Path, metric: str, query_limit: int | None) -> Dataset:
    base, base_ids = read_vectors(folder / "base.parquet", metric)
    queries, query_ids = read_vectors(folder / "queries.parquet", metric)
    # Shuffled: rows of many sets are in an order that makes the first ones easier or harder than the rest.
    order = np.random.default_rng(1).permutation(len(queries))[:query_limit]
    queries, query_ids = queries[order], query_ids[order]
    truth, distance = ground_truth(folder, base, base_ids, queries, query_ids, metric)
    return Dataset(folder.name, folder, metric, base, base_ids, queries, truth, distance)


def read_vectors(path: Path, metric: str) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(path, columns=["id", "embedding"])
    column = table["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), -1)
    if metric == "cosine":
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / norms).astype(np.float32)
    return np.ascontiguousarray(vectors), table["id"].to_numpy()


def exact_distances(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return ((rows - query) ** 2).sum(axis=1)
    return 1 - rows @ query if metric == "cosine" else -(rows @ query)


def ground_truth(folder, base, base_ids, queries, query_ids, metric) -> tuple[np.ndarray, np.ndarray]:
    """The folder's own, where it has one; else by brute force: f32 products propose, f64 distances decide."""
    k = min(GROUND_TRUTH_K, len(base))
    path = folder / "groundtruth.parquet"
    if path.exists():
        table = pq.read_table(path)
        neighbors = table["neighbors"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)[:, :k]
        place = {int(query_id): at for at, query_id in enumerate(table["query_id"].to_numpy())}
        ids = neighbors[[place[int(query_id)] for query_id in query_ids]]
        order = np.argsort(base_ids)
        truth = order[np.searchsorted(base_ids, ids, sorter=order)]
    else:
        truth = brute_force(base, queries, metric, min(k + 28, len(base)))
    distance = np.empty((len(queries), k))
    nearest = np.empty((len(queries), k), dtype=np.int64)
    for query, rows in enumerate(truth):
        exact = exact_distances(queries[query], base[rows], metric)
        order = np.lexsort((rows, exact))[:k]
        nearest[query], distance[query] = rows[order], exact[order]
    return nearest, distance


def brute_force(base, queries, metric, k) -> np.ndarray:
    if k == len(base):
        return np.tile(np.arange(k), (len(queries), 1))
    half_norms = 0.5 * (base.astype(np.float64) ** 2).sum(axis=1).astype(np.float32) if metric == "l2" else 0.0
    # 512 MB of scores at a time.
    block = max(1, (1 << 27) // len(base))
    found = []
    for start in range(0, len(queries), block):
        scores = half_norms - queries[start : start + block] @ base.T
        found.append(np.argpartition(scores, k, axis=1)[:, :k].copy())  # A view would keep the whole block.
    return np.concatenate(found)
