"""hnswlib: the reference implementation of HNSW, full vectors."""

SPACE = {"cosine": "cosine", "l2": "l2", "inner_product": "ip"}


class Hnswlib:
    efforts = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]

    def __init__(self, m, ef_construction):
        self.m, self.ef_construction = m, ef_construction

    def build(self, base, metric, threads):
        import hnswlib

        self.index = hnswlib.Index(space=SPACE[metric], dim=base.shape[1])
        self.index.init_index(len(base), M=self.m, ef_construction=self.ef_construction, random_seed=1)
        self.index.add_items(base, num_threads=threads)

    def search(self, queries, k, effort):
        self.index.set_ef(max(k, effort))
        return self.index.knn_query(queries, k=k, num_threads=self.threads)[0]


VARIANTS = {"hnswlib M=16 efC=200": lambda rows, dim, metric: Hnswlib(16, 200)}
