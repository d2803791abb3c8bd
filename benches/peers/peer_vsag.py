"""VSAG: HGraph over 8-bit scalars with exact re-ranking. It takes one query a call."""

import json

KIND = {"cosine": "cosine", "l2": "l2", "inner_product": "ip"}


class Vsag:
    takes_threads = False
    efforts = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000]

    def build(self, base, metric, threads):
        import numpy as np
        import pyvsag

        parameters = {
            "dtype": "float32",
            "metric_type": KIND[metric],
            "dim": base.shape[1],
            "index_param": {
                "base_quantization_type": "sq8",
                "precise_quantization_type": "fp32",
                "use_reorder": True,
                "max_degree": 32,
                "ef_construction": 200,
                "build_thread_count": threads,
            },
        }
        self.index = pyvsag.Index("hgraph", json.dumps(parameters))
        self.index.build(base.reshape(-1), np.arange(len(base), dtype=np.int64), len(base), base.shape[1])

    def search(self, queries, k, effort):
        import numpy as np

        parameters = json.dumps({"hgraph": {"ef_search": max(k, effort)}})
        found = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            ids = next(a for a in self.index.knn_search(query, k, parameters) if np.asarray(a).dtype.kind in "iu")
            found[row, : len(ids)] = ids
        return found


VARIANTS = {"VSAG HGraph sq8": lambda rows, dim, metric: Vsag()}
