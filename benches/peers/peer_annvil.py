"""Annvil, through its command line: `annvil build` and `annvil bench-search`.

The program is $ANNVIL (default: target/release/annvil). A build also certifies what it built, which no peer does; so the seconds
compared are those of the stages that make the index, as the build reports them.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JOB = """
seed = 1
threads = {threads}
backend = "cpu"

[source]
uri = "{folder}/base.parquet"
vector = "embedding"
id = "id"

[queries]
uri = "{folder}/queries.parquet"

[output]
uri = "{out}"

[[index]]
name = "index"
metric = "{metric}"
{parameters}
"""


class Annvil:
    efforts = []  # The index's own: they stand in its certificate.

    def __init__(self, parameters):
        self.parameters = parameters
        self.program = os.environ.get("ANNVIL", str(ROOT / "target" / "release" / "annvil"))

    def run(self, *arguments):
        if not Path(self.program).exists():
            raise ImportError(f"{self.program} is not there: cargo build --release")
        done = subprocess.run([self.program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def build(self, base, metric, threads):
        self.out = tempfile.TemporaryDirectory()
        job = Path(self.out.name) / "job.toml"
        folder, parameters = self.folder.resolve(), self.parameters
        job.write_text(JOB.format(folder=folder, out=self.out.name, metric=metric, threads=threads, parameters=parameters))
        events = self.run("build", str(job), "--json")
        self.seconds = build_seconds(events)

    def sweep(self, k, efforts):
        queries = str(self.folder / "queries.parquet")
        index = str(Path(self.out.name) / "index")
        points = []
        for line in self.run("bench-search", index, "--queries", queries, "--k", str(k), "--json"):
            kept = {key: line[key] for key in ("effort", "recall", "cpu_qps", "p50_us", "p99_us")}
            points.append({**kept, "qps": line["qps_1_thread"]})
        return [point for point in points if efforts is None or point["effort"] in efforts]


def build_seconds(events):
    """From the last event's result: the CPU and wall seconds of the stages that make the index."""
    stages = events[-1]["result"]["indexes"][0]["stages"]
    made = [stage for stage in stages if stage["stage"] not in ("certify", "publish")]
    return {"cpu_s": sum(stage["cpu_s"] for stage in made), "wall_s": sum(stage["wall_s"] for stage in made)}


VARIANTS = {
    "annvil hnsw": lambda rows, dim, metric: Annvil('kind = "hnsw"\nm = 16\nef_construction = 200'),
    "annvil ivf_pq": lambda rows, dim, metric: Annvil('kind = "ivf_pq"\nrefine = "f16"'),
}
