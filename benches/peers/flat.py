"""Exact search beside faiss' IndexFlat: a batch of queries against all rows, one thread, runs of each alternating.

    cargo build --release
    ANNVIL_PEERS_VENV/bin/python benches/peers/flat.py datasets/cache/glove100 --metric cosine

`pairs` are rows · queries a CPU-second, `GFLOP/s` two operations a dimension of each pair; `of sgemm` is that over what numpy's own product of two
matrices of 2,048 × 2,048 reaches on one core. Annvil's is the certificate's own measure (`annvil measure`), whose queries come in one batch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

from codes import run
from dataset import load
from peer_annvil import JOB

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--metric", default="cosine", choices=["cosine", "l2", "inner_product"])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = load(arguments.dataset, arguments.metric, arguments.queries)
    rows, dim = data.base.shape
    queries = len(data.queries)
    print(f"{data.name}: {rows} × {dim}, {arguments.metric}, {queries} queries, k = {K}")
    with tempfile.TemporaryDirectory() as out:
        index = build(arguments, data, out)
        rounds = [(annvil(index, out), faiss(data, arguments.metric), sgemm()) for _ in range(arguments.rounds)]
    ours, theirs, peak = (statistics.median(column) for column in zip(*rounds))
    for name, qps in (("annvil", ours), ("faiss", theirs)):
        gflops = 2e-9 * qps * rows * dim
        print(f"{name:<7} {qps:9.1f} queries/s {qps * rows:.3e} pairs/s {gflops:6.1f} GFLOP/s  {gflops / peak:.2f} of sgemm")
    print(f"numpy's sgemm {peak:.1f} GFLOP/s; annvil / faiss {ours / theirs:.2f}")


def build(arguments, data, out: str) -> Path:
    data.write_queries(Path(out) / "queries.parquet")
    folder = arguments.dataset.resolve()
    job = JOB.format(folder=folder, out=out, metric=arguments.metric, threads=2, parameters='kind = "flat"')
    path = Path(out) / "job.toml"
    path.write_text(job)
    run(["build", str(path), "--no-resume"])
    return Path(out) / "index"


def annvil(index: Path, out: str) -> float:
    [line] = run(["measure", str(index), "--queries", f"{out}/queries.parquet", "-k", str(K), "--json"])
    return line["queries"] / line["cpu_s"]


def faiss(data, metric: str) -> float:
    import faiss

    faiss.omp_set_num_threads(1)
    dim = data.base.shape[1]
    index = faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)
    index.add(data.base)
    started = time.process_time()
    index.search(data.queries, K)
    return len(data.queries) / (time.process_time() - started)


def sgemm(size: int = 2048) -> float:
    """GFLOP/s, the best of five."""
    a = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        np.matmul(a, a)
        best = min(best, time.process_time() - started)
    return 2e-9 * size**3 / best


if __name__ == "__main__":
    main()
