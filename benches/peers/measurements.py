"""Every number of a run as the Parquet file that `annvil report --measurements` reads: one row per number, what it is of beside
it, and a header as JSON in the file's metadata (src/report/measurements.rs and header.rs)."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("subject", "measure", "setting", "filter", "item")]
    + [(name, pa.uint32()) for name in ("place", "k", "threads", "round")]
    + [("value", pa.float64())]
)


def write(path: Path, dataset, results: dict, options, machine: dict, command: list[str]) -> None:
    rows = []
    for variant, result in results.items():
        rows += rows_of(variant, result, options)
    header = header_of(dataset, results, options, machine, command)
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"annvil.report": json.dumps(header)})
    pq.write_table(table, path, compression="zstd")


def rows_of(variant: str, result: dict, options) -> list[dict]:
    empty = {"subject": variant, "setting": "", "filter": "", "item": "", "place": 0, "k": 0, "threads": 0, "round": 0}
    rows = []
    for turn, build in enumerate(result["builds"]):
        at = empty | {"item": "build", "round": turn, "threads": options.threads}
        rows.append(at | {"measure": "build_cpu_s", "value": build["cpu_s"]})
        rows.append(at | {"measure": "build_wall_s", "value": build["wall_s"]})
        rows.append(empty | {"measure": "memory_bytes", "round": turn, "value": build["peak_rss_mib"] * 2**20})
    places: dict[str, int] = {}
    for turn, points in enumerate(result["sweeps"]):
        for point in points:
            setting = label(point["effort"])
            place = places.setdefault(setting, len(places))
            at = empty | {"setting": setting, "place": place, "k": options.k, "round": turn}
            if turn == 0:  # Indexes stay as they are: the same answers in each round.
                rows.append(at | {"measure": "recall", "value": point["recall"]})
            rows.append(at | {"measure": "qps", "threads": 1, "value": point["qps"]})
            rows.append(at | {"measure": "cpu_qps", "threads": 1, "value": point["cpu_qps"]})
    if "at_95" not in result:
        return rows
    setting = label(result["at_95"])
    at = empty | {"setting": setting, "place": places[setting], "k": options.k}
    many, latency = result.get("throughput"), result.get("latency")
    if many:
        rows.append(at | {"measure": "qps", "threads": many["threads"], "value": many["qps"]})
    for query, micros in enumerate(latency["us"] if latency else ()):
        rows.append(at | {"measure": "latency_us", "threads": 1, "item": str(query), "value": micros})
    return rows


def label(effort) -> str:
    """An effort as a peer takes it, as text: 48; [8, 400]; nprobe=8,k_factor_rf=10."""
    return effort if isinstance(effort, str) else json.dumps(effort)


def header_of(dataset, results: dict, options, machine: dict, command: list[str]) -> dict:
    subjects = [
        {
            "name": variant,
            "is_ours": variant.startswith("annvil"),
            "rows": len(dataset.base),
            "default_setting": label(result["at_95"]) if "at_95" in result else "",
        }
        for variant, result in results.items()
        if result["sweeps"]
    ]
    failed = [{"name": variant, "why": result["failed"]} for variant, result in results.items() if "failed" in result]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return {
        "command": " ".join(command),
        "created_unix_ms": int(time.time() * 1000),
        "machine": {
            "cpu": machine["cpu"],
            "threads": machine["cores"],
            "platform": f"{platform.system().lower()} {platform.machine()}",
            "load": float(machine["load"]),
        },
        "dataset": {
            "queries_uri": f"{dataset.name}: {len(dataset.base)} rows",
            "queries": len(dataset.queries),
            "dim": dataset.queries.shape[1],
            "metric": dataset.metric,
            "digest": "sha256 " + hashlib.sha256(np.ascontiguousarray(dataset.queries).tobytes()).hexdigest(),
            "truth": "exact neighbours by f64 distances (benches/peers/dataset.py)",
        },
        "rounds": options.rounds,
        "interleaved": True,
        "title": f"{dataset.name}: {len(subjects)} indexes",
        "subjects": subjects,
        "failed": failed,
        "notes": [
            f"Builds with {options.threads} threads, searches with one, all queries in a call; latencies and all threads at the "
            "default setting, which is the one that reaches recall .95 fastest.",
            versions + ".",
        ],
    }
