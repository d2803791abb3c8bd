"""How a graph's build grows: growth.py FOLDER [ROWS…] (default 100000 1000000 4000000), of 96 dimensions

Generates each, builds an HNSW of the defaults without a budget, and prints CPU-seconds per row and the most that the process had
resident over the rows as f32, whole job included. FOLDER takes 4 GB for 4,000,000 rows. $ANNVIL is the binary, target/release/annvil by
default.
"""

import json
import os
import shutil
import subprocess
import sys

DIM = 96
JOB = """name = "growth"
backend = "cpu"
threads = 2
resume = false
source = {{ uri = "{rows}/base.parquet", vector = "embedding" }}
queries = {{ uri = "{rows}/queries.parquet" }}
output = {{ uri = "out" }}
index = [{{ name = "growth", kind = "hnsw", metric = "cosine", target = {{ recall = 0.8 }} }}]
"""


def main():
    folder = sys.argv[1]
    counts = [int(rows) for rows in sys.argv[2:]] or [100_000, 1_000_000, 4_000_000]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    annvil = os.environ.get("ANNVIL", os.path.join(root, "target/release/annvil"))
    first = None
    for rows in counts:
        data = os.path.join(folder, str(rows))
        if not os.path.isdir(data):
            generate = [annvil, "dataset", "generate", "--rows", str(rows), "--dim", str(DIM), "--queries", "200", data]
            subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        job = os.path.join(folder, f"{rows}.toml")
        with open(job, "w") as file:
            file.write(JOB.format(rows=rows))
        events = subprocess.run([annvil, "build", job, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        result = next(event["result"] for event in map(json.loads, events.splitlines()) if event["event"] == "finished")
        [cpu] = [stage["cpu_ms"] for stage in result["stages"] if stage["name"] == "build growth"]
        per_row = cpu * 1e3 / rows
        first = first or per_row
        over = result["peak_memory_bytes"] / (rows * DIM * 4)
        print(f"{rows:>9,} rows: {cpu / 1e3:8.2f} CPU-s, {per_row:5.2f} µs a row ({per_row / first:.2f} ×); "
              f"resident at most {over:.2f} × the rows", flush=True)
        for name in (data, os.path.join(folder, "out")):
            shutil.rmtree(name)


main()
