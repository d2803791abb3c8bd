"""faiss: inverted lists with product quantizers and or one-bit codes (RaBitQ) and exact re-ranking, and HNSW over floats or 8-bit scalars."""


class Faiss:
    def __init__(self, factory, efforts, ef_construction=None):
        self.factory, self.efforts, self.ef_construction = factory, efforts, ef_construction

    def build(self, base, metric, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(base.shape[1], self.factory, measure)
        if self.ef_construction:
            self.index.hnsw.efConstruction = self.ef_construction
        self.index.train(base)
        self.index.add(base)
        self.space = faiss.ParameterSpace()
        self.faiss = faiss

    def search(self, queries, k, effort):
        self.faiss.omp_set_num_threads(self.threads)
        self.space.set_index_parameters(self.index, effort)
        return self.index.search(queries, k)[1]


def nlist(rows):
    """4·√rows, as Annvil's `auto`; never fewer than 39 rows a list, under which faiss warns."""
    return max(1, min(round(4 * rows**0.5), rows // 39))


def divisor(dim, values):
    """Sub-vectors of about `values` dimensions that divide `dim`."""
    return next(m for m in range(max(1, dim // values), dim + 1) if dim % m == 0)


def probes(factors):
    return [
        f"nprobe={nprobe},k_factor_rf={factor}"
        for nprobe in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        for factor in factors
    ]


HNSW_EFFORTS = [f"efSearch={ef}" for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)]

VARIANTS = {
    "faiss IVF,PQx8,RFlat": lambda rows, dim, metric: Faiss(
        f"IVF{nlist(rows)},PQ{divisor(dim, 4)}x8,RFlat", probes((4, 10, 20))
    ),
    "faiss IVF,PQx4fs,RFlat": lambda rows, dim, metric: Faiss(
        f"IVF{nlist(rows)},PQ{divisor(dim, 2)}x4fs,RFlat", probes((4, 10, 20, 50))
    ),
    "faiss IVF,RaBitQfs,RFlat": lambda rows, dim, metric: Faiss(
        f"IVF{nlist(rows)},RaBitQfs,RFlat", probes((4, 10, 20, 50))
    ),
    "faiss HNSW32": lambda rows, dim, metric: Faiss("HNSW32", HNSW_EFFORTS),
    "faiss HNSW32,SQ8": lambda rows, dim, metric: Faiss("HNSW32_SQ8", HNSW_EFFORTS),
    "faiss HNSW32,SQ8 efC=200": lambda rows, dim, metric: Faiss("HNSW32_SQ8", HNSW_EFFORTS, 200),
}
