"""usearch: HNSW; 8-bit values where rows have unit length, 16-bit floats elsewhere."""

KIND = {"cosine": "cos", "l2": "l2sq", "inner_product": "ip"}


class Usearch:
    efforts = [16, 32, 64, 128, 256, 512, 1024]

    def build(self, base, metric, threads):
        import numpy as np
        from usearch.index import Index

        dtype = "i8" if metric == "cosine" else "f16"
        self.index = Index(ndim=base.shape[1], metric=KIND[metric], dtype=dtype, connectivity=16, expansion_add=200)
        self.index.add(np.arange(len(base)), base, threads=threads)

    def search(self, queries, k, effort):
        self.index.expansion_search = effort
        keys = self.index.search(queries, k, threads=self.threads).keys
        return keys.reshape(len(queries), -1)


VARIANTS = {"usearch M=16": lambda rows, dim, metric: Usearch()}
