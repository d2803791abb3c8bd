"""k-means beside faiss: the same rows, all of them as the sample, runs of each alternating.

    cargo build --release --example kmeans
    ANNVIL_PEERS_VENV/bin/python benches/peers/kmeans.py datasets/cache/glove100 --metric cosine

Takes a folder with `base.parquet`, or an `.fbin` file. CPU-seconds are user + system time of training alone, rows in memory;
inertia is that of the centroids over all rows. `faster` and `inertia` are relative to faiss with as many iterations.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# OpenMP threads that spin while they wait would be counted as CPU time of work.
os.environ.update(OMP_WAIT_POLICY="passive", KMP_BLOCKTIME="0")

import numpy as np

from worker import cpu_seconds, pin

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--metric", default="l2", choices=["l2", "cosine"], help="cosine: rows are made unit length")
    parser.add_argument("--k", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--example", type=Path, default=ROOT / "target/release/examples/kmeans")
    arguments = parser.parse_args()

    rows = read(arguments.dataset, arguments.metric)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.fbin"
        with path.open("wb") as file:
            np.array(rows.shape, dtype="<u4").tofile(file)
            rows.astype("<f4").tofile(file)
        print(f"{arguments.dataset.name}: {rows.shape[0]} × {rows.shape[1]}, {arguments.iterations} iterations")
        for k in arguments.k:
            compare(path, rows, k, arguments)


def compare(path: Path, rows: np.ndarray, k: int, arguments) -> None:
    program = [str(arguments.example), str(path), str(k), str(arguments.iterations)]
    runners = {
        "faiss": lambda: by_faiss(rows, k, arguments),
        "annvil": lambda: by_annvil(program, arguments.threads),
        "annvil exact": lambda: by_annvil([*program, "exact"], arguments.threads),
    }
    runs = {name: [] for name in runners}
    for _ in range(arguments.rounds):
        for name, run in runners.items():
            runs[name].append(run())
    median = {name: [statistics.median(column) for column in zip(*of)] for name, of in runs.items()}
    faiss_s, faiss_inertia = median["faiss"]
    for name, (cpu_s, inertia) in median.items():
        relative = 100 * (inertia / faiss_inertia - 1)
        print(f"k={k:<6} {name:<13} {cpu_s:7.2f} CPU-s  faster {faiss_s / cpu_s:5.2f} x  inertia {relative:+.2f} %")
    sys.stdout.flush()


def by_faiss(rows: np.ndarray, k: int, arguments) -> tuple[float, float]:
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    pin(arguments.threads)
    kmeans = faiss.Kmeans(rows.shape[1], k, niter=arguments.iterations, seed=42, max_points_per_centroid=len(rows))
    before = cpu_seconds()
    kmeans.train(rows)
    spent = cpu_seconds() - before
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(kmeans.centroids)
    distances, _ = index.search(rows, 1)
    return spent, float(distances.sum(dtype=np.float64))


def by_annvil(program: list[str], threads: int) -> tuple[float, float]:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    printed = subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout
    measured = json.loads(printed)
    return measured["cpu_s"], measured["inertia"]


def read(path: Path, metric: str) -> np.ndarray:
    if path.suffix == ".fbin":
        shape = np.fromfile(path, dtype="<u4", count=2)
        rows = np.fromfile(path, dtype="<f4", offset=8).reshape(shape)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    from dataset import read_vectors

    rows, _ = read_vectors(path / "base.parquet", metric)
    return np.ascontiguousarray(rows, dtype=np.float32)


if __name__ == "__main__":
    main()
