"""Annvil, through its command line: `annvil build` and `annvil measure`.

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


def program():
    return os.environ.get("ANNVIL", str(ROOT / "target" / "release" / "annvil"))


class Annvil:
    efforts = []  # The index's own: they stand in its certificate.

    def __init__(self, parameters):
        self.parameters = parameters
        self.program = program()

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
        queries = Path(self.out.name) / "queries.parquet"
        self.dataset.write_queries(queries)
        index = str(Path(self.out.name) / "index")
        chosen = ["--effort", ",".join(map(str, efforts))] if efforts else []
        points = []
        for line in self.run("measure", index, "--queries", str(queries), "-k", str(k), "--json", "--ids", *chosen):
            found = self.dataset.rows_of(line["ids"], k)
            count = line["queries"]
            point = {"effort": line["effort"], "recall": self.dataset.recall(found, k)}
            points.append({**point, "cpu_qps": count / line["cpu_s"], "qps": count / line["wall_s"]})
        return points

    def throughput(self, k, effort):
        line = self.measured(k, effort, "--threads", str(self.threads))
        return line["queries"] / line["wall_s"]

    def latencies(self, k, effort):
        return self.measured(k, effort, "--latencies")["latencies_us"]

    def measured(self, k, effort, *options):
        """At one setting, with the queries of the last sweep."""
        queries = str(Path(self.out.name) / "queries.parquet")
        index = str(Path(self.out.name) / "index")
        options = ["-k", str(k), "--json", "--effort", str(effort), *options]
        return self.run("measure", index, "--queries", queries, *options)[0]


def build_seconds(events):
    """From the last event's result: the CPU and wall seconds of the stages that read the rows and make the index."""
    stages = events[-1]["result"]["stages"]
    made = [stage for stage in stages if stage["name"] in ("read", "summarise attributes", "build index")]
    return {"cpu_s": sum(stage["cpu_ms"] for stage in made) / 1e3, "wall_s": sum(stage["wall_ms"] for stage in made) / 1e3}


VARIANTS = {
    "annvil hnsw": lambda rows, dim, metric: Annvil('kind = "hnsw"\nm = 16\nef_construction = 200'),
    "annvil ivf_pq": lambda rows, dim, metric: Annvil('kind = "ivf_pq"\nrefine = "f16"'),
}
