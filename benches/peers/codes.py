"""Inverted lists of every code beside faiss' of the same code: recall@10 and bytes a vector, nothing ranked again.

    cargo build --release
    ANNVIL_PEERS_VENV/bin/python benches/peers/codes.py datasets/cache/glove100 --metric cosine

Both have as many lists, and probe all of them: what is compared is what codes tell of their rows. Bytes are those of codes and ids as they lie on
disk, blocks filled up and all, centroids and codebooks left out. faiss is asked by inner product and by L2 for rows of unit length, and
stands in the table with the better; where it has a code in several forms, all are tried.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset import load
from peer_annvil import JOB, program
from peer_faiss import divisor

K = 10
FEW = 20


def codes(dim: int) -> dict[str, tuple[str, list[str]]]:
    """By name: the parameters of a job's index, and faiss' factory strings behind `IVF<nlist>,`, or whole with `{ivf}`."""
    eight, four = divisor(dim, 4), divisor(dim, 2)
    pq8, pq4 = f"pq_bits = 8\npq_m = {eight}", f"pq_bits = 4\npq_m = {four}"
    rabitq = lambda bits: f'code = "rabitq"\nrabitq_bits = {bits}'
    return {
        "pq 8 bits": (pq8, [f"PQ{eight}x8"]),
        "pq 4 bits": (pq4, [f"PQ{four}x4fs", f"PQ{four}x4fsr"]),
        "opq 8 bits": (pq8 + '\nrotation = "opq"', [f"OPQ{eight},{{ivf}},PQ{eight}x8"]),
        "opq 4 bits": (pq4 + '\nrotation = "opq"', [f"OPQ{four},{{ivf}},PQ{four}x4fs", f"OPQ{four},{{ivf}},PQ{four}x4fsr"]),
        "rabitq 1 bit": (rabitq(1), ["RaBitQ", "RR{dim},{ivf},RaBitQ", "RaBitQfs", "RR{dim},{ivf},RaBitQfs"]),
        **{
            f"rabitq {bits} bits": (rabitq(bits), [f"RaBitQ{bits}", f"RR{{dim}},{{ivf}},RaBitQ{bits}"])
            for bits in (2, 4, 6, 8)
        },
        "sq8": ('code = "sq8"', ["SQ8"]),
        "flat": ('code = "flat"\nrefine = "f32"', ["Flat"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--metric", default="cosine", choices=["cosine", "l2", "inner_product"])
    parser.add_argument("--nlist", type=int, default=1024)
    parser.add_argument("--nprobe", type=int, help="lists that are probed [default: all]")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codes", nargs="+", help="some of the codes, by the beginning of their names")
    parser.add_argument("--json", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    arguments.nprobe = arguments.nprobe or arguments.nlist

    data = load(arguments.dataset, arguments.metric, arguments.queries)
    rows, dim = data.base.shape
    chosen = {
        name: code
        for name, code in codes(dim).items()
        if not arguments.codes or any(name.startswith(wanted) for wanted in arguments.codes)
    }
    print(f"{data.name}: {rows} × {dim}, {arguments.metric}, {len(data.queries)} queries, ", end="")
    print(f"{arguments.nprobe} of {arguments.nlist} lists, recall@{K}")
    ours = by_annvil(data, {name: parameters for name, (parameters, _) in chosen.items()}, arguments)
    table = []
    for name, (_, factories) in chosen.items():
        recall, size = ours[name]
        theirs = [found for factory in factories for found in by_faiss(data, factory, arguments)]
        best = max(theirs, default=None)
        line = {"code": name, "annvil": recall, "annvil_bytes": size}
        text = f"{name:<14} annvil {recall:.4f} {size:7.1f} bytes"
        if best:
            line.update(faiss=best[0], faiss_bytes=best[1], faiss_index=best[2])
            text += f"   faiss {best[0]:.4f} {best[1]:7.1f} bytes  ({best[2]})"
        print(text, flush=True)
        table.append(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1))


def by_annvil(data, parameters: dict[str, str], arguments) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as out:
        queries = Path(out) / "queries.parquet"
        data.write_queries(queries)
        name = lambda code: code.replace(" ", "-")
        entries = []
        for code, text in parameters.items():
            refine = "" if "refine" in text else '\nrefine = "none"'
            entries.append(f'kind = "ivf_pq"\nnlist = {arguments.nlist}\n{text}{refine}\nname = "{name(code)}"')
        metric = f'metric = "{arguments.metric}"\n'
        listed = f"\n[[index]]\n{metric}".join(entries)
        # Certificates are not what is compared here: few queries are enough for them.
        few = Path(out) / "few.parquet"
        replace(data, queries=data.queries[:FEW]).write_queries(few)
        job = JOB.replace("{folder}/queries.parquet", str(few)).format(
            folder=arguments.dataset.resolve(), out=out, metric=arguments.metric, threads=arguments.threads, parameters=listed
        )
        path = Path(out) / "job.toml"
        path.write_text(job.replace('name = "index"\n', "", 1))
        run(["build", str(path), "--no-resume"])
        found = {}
        for code in parameters:
            index = Path(out) / name(code)
            asked = ["--queries", str(queries), "-k", str(K), "--effort", str(arguments.nprobe)]
            [line] = run(["measure", str(index), *asked, "--json", "--ids"])
            recall = data.recall(data.rows_of(line["ids"], K), K)
            files = [*index.glob("seg/*/codes.safetensors"), *index.glob("seg/*/ids.arrow")]
            if code == "flat":
                files += index.glob("seg/*/vectors.safetensors")
            found[code] = (recall, sum(file.stat().st_size for file in files) / len(data.base))
        return found


def run(arguments: list[str]) -> list[dict]:
    done = subprocess.run([program(), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def by_faiss(data, factory: str, arguments) -> list[tuple[float, float, str]]:
    """(recall, bytes a vector, what it is) by each metric that gives the order asked for; none where faiss has no such code."""
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    dim, found = data.base.shape[1], []
    ivf = f"IVF{arguments.nlist}"
    factory = factory.format(ivf=ivf, dim=dim) if "{ivf}" in factory else f"{ivf},{factory}"
    by = {"l2": [faiss.METRIC_L2], "inner_product": [faiss.METRIC_INNER_PRODUCT]}
    for metric in by.get(arguments.metric, [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]):
        try:
            index = faiss.index_factory(dim, factory, metric)
        except RuntimeError:
            return found
        index.train(data.base)
        empty = len(faiss.serialize_index(index))
        index.add(data.base)
        size = (len(faiss.serialize_index(index)) - empty) / len(data.base)
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", arguments.nprobe)
        _, rows = index.search(data.queries, K)
        said = f"{factory} {'l2' if metric == faiss.METRIC_L2 else 'ip'}"
        found.append((data.recall(rows, K), size, said))
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
