"""Builds and search sweeps of Annvil and its peers in one run, interleaved; prints tables and writes every measurement as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measurements
from dataset import load
from peer_annvil import program as annvil_program
from worker import PeerFailed, Worker

MODULES = ["annvil", "hnswlib", "faiss", "usearch", "scann", "svs", "rabitq", "vsag", "lance"]
TARGETS = (0.90, 0.95, 0.99)
PACKAGES = ("hnswlib", "faiss-cpu", "usearch", "scann", "scalable-vs", "rabitqlib", "pyvsag", "pylance", "numpy")


def main() -> int:
    options = arguments()
    chosen = [peer for module in MODULES for peer in variants(module) if wanted(module, peer[1], options.peers)]
    if not chosen:
        sys.exit(f"no peer matches {options.peers}; there are: {', '.join(MODULES)}")
    report = {"command": sys.argv, "machine": machine(), "options": vars(options) | {"dataset": None}, "datasets": []}
    for folder in options.dataset:
        dataset = load(Path(folder), options.metric, options.queries)
        say(f"{dataset.name}: {len(dataset.base)} × {dataset.base.shape[1]}, {len(dataset.queries)} queries")
        results = measure(dataset, chosen, options)
        report["datasets"].append({"name": dataset.name, "rows": len(dataset.base), "results": results})
        print(table(dataset, results, options))
        if options.report:
            render(dataset, results, options, report["machine"])
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1, default=str) + "\n")
        say(f"wrote {options.out}")
    return 0


def render(dataset, results, options, of_machine) -> None:
    """By `annvil report`, which draws peers' measurements as it draws its own."""
    folder = Path(options.report) / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "peers.parquet"
    measurements.write(path, dataset, results, options, of_machine, sys.argv)
    program = os.environ.get("ANNVIL_REPORT") or annvil_program()
    command = [program, "report", "--measurements", str(path), "--out", str(folder), "-k", str(options.k)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        say(f"  {program} report failed; the measurements are in {path}")
    else:
        say(f"  wrote {folder / 'index.html'}")


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--dataset", action="append", required=True, help="folder with base.parquet and queries.parquet")
    parser.add_argument("--metric", default="cosine", choices=("cosine", "l2", "inner_product"))
    parser.add_argument("--peers", nargs="*", default=[], help="only these: parts of names, as 'faiss' or 'IVF'")
    parser.add_argument("--threads", type=int, default=2, help="for builds; searches take one")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, help="so many of the queries, drawn at random (default: all)")
    parser.add_argument("--builds", type=int, default=1, help="builds of each, interleaved")
    parser.add_argument("--rounds", type=int, default=3, help="search sweeps of each, interleaved")
    parser.add_argument("--out", help="JSON file for every measurement")
    parser.add_argument("--report", help="folder for a page of each dataset, with all peers on one frontier, and its Parquet")
    return parser.parse_args()


def variants(module: str):
    name = f"peer_{module}"
    return [(name, variant) for variant in importlib.import_module(name).VARIANTS]


def wanted(module: str, variant: str, peers: list[str]) -> bool:
    return not peers or any(part == module or part in variant for part in peers)


def measure(dataset, chosen, options) -> dict:
    """One result per variant: `builds`, `sweeps` (one list of points per round), and at the setting that reaches .95 (`at_95`)
    `latency` and `throughput`; or `failed` and why."""
    results = {variant: {"builds": [], "sweeps": []} for _, variant in chosen}
    workers = {}

    def attempt(variant, what, *request):
        try:
            return workers[variant].ask(*request)
        except PeerFailed as error:
            results[variant]["failed"] = f"{what}: {error}"
            say(f"  {variant}: {what} failed: {error}")
            workers.pop(variant).stop()
            return None

    for turn in range(options.builds):
        for module, variant in chosen:
            if "failed" in results[variant]:
                continue
            if variant in workers:
                workers.pop(variant).stop()
            try:
                workers[variant] = Worker(module, variant, dataset, options.threads)
            except PeerFailed as error:
                results[variant]["failed"] = str(error)
                say(f"  {variant}: {error}")
                continue
            built = attempt(variant, "build", "build", options.threads)
            if built:
                results[variant]["builds"].append(built)
                say(f"  build {turn + 1}: {variant}: {built['cpu_s']:.2f} CPU-s, {built['wall_s']:.2f} s")
    for turn in range(options.rounds):
        for variant in list(workers):
            sweeps = results[variant]["sweeps"]
            # After the first round only what can matter: the settings that nothing beats in both recall and speed.
            efforts = [point["effort"] for point in frontier(sweeps[0])] if sweeps else None
            points = attempt(variant, "search", "sweep", options.k, efforts)
            if points is not None:
                sweeps.append(points)
                say(f"  sweep {turn + 1}: {variant}: {len(points)} settings")
    for variant in list(workers):
        reached = [point for point in summary(results[variant]) if point["recall"] >= 0.95]
        if not reached:
            continue
        effort = results[variant]["at_95"] = reached[0]["effort"]
        results[variant]["latency"] = attempt(variant, "latency", "latency", options.k, effort)
        if variant in workers and options.threads > 1:
            many = attempt(variant, "throughput", "throughput", options.k, effort, options.threads)
            results[variant]["throughput"] = many
    for worker in workers.values():
        worker.stop()
    return results


def frontier(points: list[dict]) -> list[dict]:
    """The points that no other beats in both recall and speed, by rising recall."""
    kept, best = [], 0.0
    for point in sorted(points, key=lambda point: (-point["recall"], -point["cpu_qps"])):
        if point["cpu_qps"] > best:
            kept.append(point)
            best = point["cpu_qps"]
    return kept[::-1]


def summary(result: dict) -> list[dict]:
    """The frontier, each point with the median of its rounds and their spread, (max − min) / median."""
    by_effort = {}
    for points in result["sweeps"]:
        for point in points:
            by_effort.setdefault(json.dumps(point["effort"]), []).append(point)
    merged = []
    for points in by_effort.values():
        speeds = [point["cpu_qps"] for point in points]
        median = statistics.median(speeds)
        merged.append({**points[0], "cpu_qps": median, "spread": (max(speeds) - min(speeds)) / median})
    return frontier(merged)


def speed_at(points: list[dict], target: float) -> float | None:
    """Queries per CPU-second at a recall, between the two settings around it (log speed over recall); none where it is not
    reached."""
    if not points or points[-1]["recall"] < target:
        return None
    above = next(at for at, point in enumerate(points) if point["recall"] >= target)
    if above == 0:
        return points[0]["cpu_qps"]
    low, high = points[above - 1], points[above]
    share = (target - low["recall"]) / (high["recall"] - low["recall"])
    return math.exp((1 - share) * math.log(low["cpu_qps"]) + share * math.log(high["cpu_qps"]))


def table(dataset, results, options) -> str:
    rows = {}
    for variant, result in results.items():
        points = summary(result)
        build = statistics.median([build["cpu_s"] for build in result["builds"]]) if result["builds"] else None
        rows[variant] = (build, [speed_at(points, target) for target in TARGETS], points)
    best = {"build": least(row[0] for name, row in rows.items() if name.startswith("annvil"))}
    for at, target in enumerate(TARGETS):
        best[target] = most(row[1][at] for name, row in rows.items() if name.startswith("annvil"))
    lines = [
        f"\n{dataset.name}: build with {options.threads} threads; search with one, {len(dataset.queries)} queries in a call; "
        f"recall@{options.k}; median of {options.rounds} rounds. (×) is Annvil's best divided by the peer's, above 1 where Annvil "
        "is better. p50 and p99 are of one query a call, `all threads` the queries/s of one call on as many threads, at the "
        "setting that reaches .95.\n",
        f"{'':26} {'build CPU-s':>18} "
        + " ".join(f"{f'QPS at {target:.2f}':>18}" for target in TARGETS)
        + f" {'spread':>7} {'p50':>8} {'p99':>9} {'all threads':>12}",
    ]
    for variant, (build, speeds, points) in rows.items():
        own = variant.startswith("annvil")
        cells = [cell(build, "build", best, own, lambda value, base: value / base, ".1f")]
        cells += [cell(s, t, best, own, lambda value, base: base / value, ",.0f") for s, t in zip(speeds, TARGETS)]
        spread = max((point["spread"] for point in points), default=0)
        failed = results[variant].get("failed")
        lines.append(f"{variant:26} " + (failed or " ".join(cells) + f" {spread:6.0%} {single(results[variant])}"))
    return "\n".join(lines) + "\n"


def single(result: dict) -> str:
    """Latency of one query a call and queries/s of all threads, at .95."""
    latency, many = result.get("latency") or {}, result.get("throughput") or {}
    times = [f"{latency[name]:,.0f} µs" if name in latency else "–" for name in ("p50_us", "p99_us")]
    return f"{times[0]:>8} {times[1]:>9} {format(many['qps'], ',.0f') if many else '–':>12}"


def cell(value, key, best, own, ratio, form) -> str:
    if value is None:
        return f"{'–':>18}"
    compared = "" if own or best[key] is None else f" (×{ratio(value, best[key]):.2f})"
    return f"{format(value, form) + compared:>18}"


def least(values):
    return min((value for value in values if value is not None), default=None)


def most(values):
    return max((value for value in values if value is not None), default=None)


def machine() -> dict:
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": cpu[0] if cpu else platform.processor(), "cores": len(cpu), "load": open("/proc/loadavg").read().split()[0],
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"), "versions": versions}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
