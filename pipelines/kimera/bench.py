#!/usr/bin/env python3
"""Builds and searches kimera's geoid_states beside pgvector's ivfflat and hnsw on the same server, and prints a Markdown table.

    bench.py --annvil BIN [--size small|large] [--queries 1000] [--data DIR]

PostgreSQL is where PGHOST, PGPORT, PGUSER and PGPASSWORD say, with a database `kimera`. The truth is pgvector's own order without an index. Queries are
asked one at a time by one client: pgvector by a prepared statement, Annvil through `annvil serve`. Needs numpy and psycopg.
"""

import argparse
import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psycopg

HERE = Path(__file__).parent
K = 10
FILTERS = {
    "none": None,
    "tag": "'orbital' = ANY(tags)",
    "time": "\"timestamp\" >= '2026-01-05T00:00:00Z' AND \"timestamp\" < '2026-01-09T00:00:00Z'",
    "entropy": "entropy < 0.6",
    "tag, entropy, energy": "entropy BETWEEN 0.4 AND 1.2 AND 'drift' = ANY(tags) AND energy_level > 5",
}
INDEXES = {
    "pgvector ivfflat": (
        "CREATE INDEX bench ON geoid_states USING ivfflat (state_vector vector_cosine_ops) WITH (lists = 100)",
        "ivfflat.probes",
        [1, 5, 10, 20, 50],
        "SET ivfflat.iterative_scan = relaxed_order",
    ),
    "pgvector hnsw": (
        "CREATE INDEX bench ON geoid_states USING hnsw (state_vector vector_cosine_ops) WITH (m = 16, ef_construction = 200)",
        "hnsw.ef_search",
        [20, 40, 100, 200],
        "SET hnsw.iterative_scan = relaxed_order",
    ),
}


class Table:
    def __init__(self):
        self.rows = []

    def add(self, system, setting, name, found, truth, times):
        pairs = [(set(f), set(t)) for f, t in zip(found, truth)]
        recall = sum(len(f & t) for f, t in pairs) / max(1, sum(len(t) for _, t in pairs))
        p50, p95 = np.percentile(times, [50, 95]) * 1e3
        self.rows.append((system, setting, name, recall, p50, p95, len(times) / sum(times)))
        print(f"  {system} {setting} [{name}]: recall {recall:.4f}, p50 {p50:.2f} ms", file=sys.stderr)

    def markdown(self):
        lines = ["| | setting | filter | recall@10 | p50 ms | p95 ms | queries/s |", "|---|---|---|---|---|---|---|"]
        lines += [f"| {a} | {b} | {c} | {r:.4f} | {p50:.2f} | {p95:.2f} | {qps:.0f} |" for a, b, c, r, p50, p95, qps in self.rows]
        return "\n".join(lines)


def ask_postgres(connection, texts, condition):
    where = f"WHERE {condition}" if condition else ""
    sql = f"SELECT id::text FROM geoid_states {where} ORDER BY state_vector <=> %s::vector LIMIT {K}"
    found, times = [], []
    with connection.cursor() as cursor:
        for text in texts:
            start = time.perf_counter()
            rows = cursor.execute(sql, (text,), prepare=True).fetchall()
            times.append(time.perf_counter() - start)
            found.append([row[0] for row in rows])
    return found, times


def ask_annvil(port, queries, condition, recall):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    found, times = [], []
    for query in queries:
        body = {"vectors": [query], "k": K, "attributes": []}
        if condition:
            body["filter"] = condition
        if recall:
            body["recall"] = recall
        body = json.dumps(body)
        start = time.perf_counter()
        connection.request("POST", "/v1/indexes/geoid_states/search", body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        times.append(time.perf_counter() - start)
        if response.status != 200:
            raise SystemExit(answer.decode())
        found.append([hit["id"] for hit in json.loads(answer)["results"][0]["hits"]])
    return found, times


@contextlib.contextmanager
def served(annvil, index):
    command = [annvil, "serve", index, "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        listening = json.loads(process.stdout.readline())
        yield int(listening["url"].rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annvil", required=True)
    parser.add_argument("--size", default="small")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--queries", type=int, default=1000)
    args = parser.parse_args()
    subprocess.run(
        [sys.executable, HERE / "generate.py", "--size", args.size, "--data", args.data], check=True, stdout=sys.stderr
    )
    queries = np.load(args.data / "queries.npy")[: args.queries]
    lists = [query.tolist() for query in queries]
    texts = [json.dumps(query) for query in lists]
    connection = psycopg.connect(dbname="kimera", autocommit=True)
    rows = connection.execute("SELECT count(*) FROM geoid_states").fetchone()[0]
    table, builds = Table(), []

    truth = {}
    connection.execute("SET max_parallel_workers_per_gather = 0")
    for name, condition in FILTERS.items():
        truth[name], times = ask_postgres(connection, texts, condition)
        table.add("pgvector, no index", "exact", name, truth[name], truth[name], times)

    for system, (create, knob, settings, iterative) in INDEXES.items():
        connection.execute("SET maintenance_work_mem = '1GB'")
        start = time.perf_counter()
        connection.execute(create)
        builds.append((system, time.perf_counter() - start))
        size = connection.execute("SELECT pg_relation_size('bench')").fetchone()[0]
        builds[-1] += (size,)
        connection.execute(iterative)
        connection.execute("SET enable_seqscan = off")
        for setting in settings:
            connection.execute(f"SET {knob} = {setting}")
            for name, condition in FILTERS.items():
                if name == "none" or setting == settings[-1]:
                    found, times = ask_postgres(connection, texts, condition)
                    table.add(system, f"{knob.split('.')[1]} {setting}", name, found, truth[name], times)
        connection.execute("DROP INDEX bench")
        connection.execute("RESET enable_seqscan")

    out = args.data / "out"
    shutil.rmtree(out, ignore_errors=True)
    job = args.data / "geoid_states.toml"
    text = (HERE / "geoid_states.toml").read_text().replace('"data/queries.npy"', '"queries.npy"')
    job.write_text(text)
    start = time.perf_counter()
    built = subprocess.run(
        [args.annvil, "build", job, "--backend", "cpu", "--no-resume", "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    elapsed = time.perf_counter() - start
    summary = json.loads(built.stdout.splitlines()[-1])
    (args.data / "build.json").write_text(json.dumps(summary, indent=1))
    size = sum(file.stat().st_size for file in (out / "geoid_states").rglob("*") if file.is_file())
    builds.append(("Annvil hnsw, read from PostgreSQL, certified, published", elapsed, size))
    with served(args.annvil, out / "geoid_states") as port:
        for recall in [0.95, 0.99]:
            for name, condition in FILTERS.items():
                found, times = ask_annvil(port, lists, condition, recall)
                table.add("Annvil hnsw", f"recall {recall}", name, found, truth[name], times)

    print(f"{rows:,} rows of 1,024 dimensions, {len(lists)} queries each, one client\n")
    print("| | build s | size MiB |\n|---|---|---|")
    for system, seconds, size in builds:
        print(f"| {system} | {seconds:.1f} | {size / 2**20:.0f} |")
    print()
    print(table.markdown())


if __name__ == "__main__":
    main()
