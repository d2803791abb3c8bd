"""A peer in a process of its own, so that CPU time, memory and threads are its own.

A peer module has `VARIANTS`, from a name to a function `(rows, dim, metric) -> peer`; a peer has

    efforts                               settings to search with, cheapest first; anything that JSON can hold
    build(base, metric, threads)          base: rows × dim f32, unit rows for cosine
    search(queries, k, effort)            row numbers, queries × k, with `self.threads`; -1 where nothing was found

One that takes a query at a time, or knows no threads, has `takes_threads = False`.

A peer that is another program may have `sweep(k, efforts)` in place of `search`, which measures itself and returns what
`Session.sweep` does, and `seconds`, what it measured in its last `build` (`cpu_s`, `wall_s`) where that program also did
other things; `throughput(k, effort)`, queries/s of a call on `self.threads`; and `latencies(k, effort)`, microseconds of each query.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import time
import traceback

import numpy as np

# Beyond this nobody compares, and the slowest settings cost most of the time.
ENOUGH_RECALL = 0.995


def cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_rss_mib() -> float:
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def pin(cores: int) -> None:
    """Keeps every thread there is, and those to come, on `cores` cores, whatever a library thinks of thread counts."""
    available = sorted(os.sched_getaffinity(os.getppid()))[:cores]
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), available)


class Worker:
    """The parent's handle. `ask` raises `PeerFailed` with the peer's own words."""

    def __init__(self, module: str, variant: str, dataset, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # Read once, when the libraries are loaded.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ[variable] = str(threads)
        self.process = context.Process(target=serve, args=(theirs, module, variant), daemon=True)
        self.process.start()
        theirs.close()
        self.ask("start", dataset)

    def ask(self, *request):
        try:
            self.pipe.send(request)
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError) as error:
            self.process.join(10)
            raise PeerFailed(f"the process died (exit code {self.process.exitcode})") from error
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


class PeerFailed(Exception):
    pass


def serve(pipe, module: str, variant: str) -> None:
    session = Session(module, variant)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(session, request[0])(*request[1:]))
        except ImportError as error:
            pipe.send(f"not installed: {error}")
        except Exception as error:  # A peer's fault is a line of the report, not the end of it.
            traceback.print_exc()
            pipe.send(f"{type(error).__name__}: {error}")


def percentiles(micros: list[float]) -> dict:
    return {"p50_us": float(np.percentile(micros, 50)), "p99_us": float(np.percentile(micros, 99)), "us": micros}


class Session:
    def __init__(self, module: str, variant: str):
        self.module, self.variant = module, variant

    def start(self, dataset):
        self.dataset = dataset
        make = importlib.import_module(self.module).VARIANTS[self.variant]
        self.peer = make(*dataset.base.shape, dataset.metric)
        self.peer.folder = dataset.folder
        self.peer.dataset = dataset
        self.peer.threads = 1
        return {}

    def use(self, threads: int) -> None:
        pin(threads)
        self.peer.threads = threads

    def build(self, threads: int) -> dict:
        pin(threads)
        cpu, wall = cpu_seconds(), time.perf_counter()
        self.peer.build(self.dataset.base, self.dataset.metric, threads)
        measured = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
        measured.update(getattr(self.peer, "seconds", {}))
        return {**measured, "peak_rss_mib": peak_rss_mib()}

    def sweep(self, k: int, efforts: list | None) -> list[dict]:
        """All queries in one call per effort, one thread. `efforts` none: all, until more effort finds nothing more."""
        self.use(1)
        if hasattr(self.peer, "sweep"):
            return self.peer.sweep(k, efforts)
        points = []
        for effort in self.peer.efforts if efforts is None else efforts:
            cpu, wall = cpu_seconds(), time.perf_counter()
            found = self.peer.search(self.dataset.queries, k, effort)
            cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
            count = len(self.dataset.queries)
            recall = self.dataset.recall(np.asarray(found, dtype=np.int64), k)
            points.append({"effort": effort, "recall": recall, "cpu_qps": count / cpu, "qps": count / wall})
            if efforts is None and recall >= ENOUGH_RECALL and not isinstance(effort, (list, str)):
                break
        return points

    def latency(self, k: int, effort) -> dict:
        """One query a call: what a service sees, the Python call included."""
        self.use(1)
        if hasattr(self.peer, "latencies"):
            return percentiles(self.peer.latencies(k, effort))
        latencies = []
        for row in range(len(self.dataset.queries)):
            start = time.perf_counter()
            self.peer.search(self.dataset.queries[row : row + 1], k, effort)
            latencies.append(time.perf_counter() - start)
        return percentiles([latency * 1e6 for latency in latencies])

    def throughput(self, k: int, effort, threads: int) -> dict:
        """All queries in one call on several threads."""
        if not getattr(self.peer, "takes_threads", True):
            return {}
        self.use(threads)
        if hasattr(self.peer, "throughput"):
            return {"qps": self.peer.throughput(k, effort), "threads": threads}
        self.peer.search(self.dataset.queries, k, effort)  # Threads are made, and stay.
        wall = time.perf_counter()
        self.peer.search(self.dataset.queries, k, effort)
        return {"qps": len(self.dataset.queries) / (time.perf_counter() - wall), "threads": threads}
