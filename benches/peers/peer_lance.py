"""Lance: IVF-PQ on disk, exact re-ranking, through its Python call, one query a call."""

import itertools
import tempfile

KIND = {"cosine": "cosine", "l2": "l2", "inner_product": "dot"}


class Lance:
    takes_threads = False
    efforts = [list(pair) for pair in itertools.product((4, 8, 16, 32, 64, 128), (4, 10, 20))]

    def build(self, base, metric, threads):
        import lance
        import pyarrow as pa

        self.folder_on_disk = tempfile.TemporaryDirectory()
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.reshape(-1)), base.shape[1])
        table = pa.table({"row": pa.array(range(len(base)), pa.int64()), "vector": vectors})
        dataset = lance.write_dataset(table, self.folder_on_disk.name + "/base.lance")
        dim = base.shape[1]
        sub_vectors = next(m for m in range(max(1, dim // 4), dim + 1) if dim % m == 0)
        nlist = max(1, min(round(4 * len(base) ** 0.5), len(base) // 256))
        self.dataset = dataset.create_index(
            "vector", "IVF_PQ", metric=KIND[metric], num_partitions=nlist, num_sub_vectors=sub_vectors
        )

    def search(self, queries, k, effort):
        import numpy as np

        nprobes, refine_factor = effort
        found = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            nearest = {"column": "vector", "q": query, "k": k, "nprobes": nprobes, "refine_factor": refine_factor}
            ids = self.dataset.to_table(columns=["row", "_distance"], nearest=nearest)["row"].to_numpy()
            found[row, : len(ids)] = ids
        return found


VARIANTS = {"Lance IVF_PQ": lambda rows, dim, metric: Lance()}
