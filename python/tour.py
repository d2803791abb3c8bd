"""A tour: build an index over word vectors, look into it, search it.

    python python/tour.py [FOLDER]
"""

# %% Build. The job is the one of the command line's first example; its indexes go to a folder of ours.
import pathlib
import sys
import tempfile

import annvil
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

project = pathlib.Path(__file__).parents[1]
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
summary = annvil.build(project / "pipelines" / "quickstart.toml", output=folder, backend="cpu")
for stage in summary["stages"]:
    print(f"{stage['name']:<12} {stage['wall_ms']:8.0f} ms")

# %% Open. Everything is read and checked; what was measured of the index stands in it.
index = annvil.open(f"{folder}/glove10k-hnsw")
print(index, "attributes:", index.attributes)
for point in index.certificate["points"][:5]:
    print(f"  {index.effort_name} {point['effort']:>4}: recall@10 {point['recall'][-1]['mean']:.3f}")

# %% Search: words near a word.
words = pq.read_table(project / "datasets" / "glove10k" / "base.parquet", columns=["id", "word"])
id_of = dict(zip(words["word"].to_pylist(), words["id"].to_pylist(), strict=True))
for word in ("monday", "guitar", "physics"):
    if word not in id_of:
        continue
    found = index.search(index.vector(id_of[word]), k=5, exclude=[id_of[word]], attributes=["word"])
    print(word, "→", ", ".join(pa.record_batch(found)["word"].to_pylist()))

# %% Search under a filter, at a recall that was certified, many queries at once.
queries = np.stack(pq.read_table(project / "datasets" / "glove10k" / "queries.parquet")["embedding"].to_numpy())
exact = index.search(queries, k=10, exact=True)
found = index.search(queries, k=10, recall=0.95)
shared = [len(set(a) & set(b)) / 10 for a, b in zip(exact.ids, found.ids, strict=True)]
print(f"recall@10 of {len(queries)} queries: {np.mean(shared):.3f}")
frequent = index.search(queries, k=10, filter="rank <= 20000", attributes=["rank"])
print("the rarest word found among the 20,000 most frequent:", max(pa.record_batch(frequent)["rank"].to_pylist()))
