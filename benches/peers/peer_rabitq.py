"""The RaBitQ library: SymphonyQG (a graph with codes beside its links) and IVF with 7-bit RaBitQ codes."""


def measure(metric):
    """Rows of a cosine set have unit length: L2 gives the same order."""
    return "ip" if metric == "inner_product" else "l2"


class Symphony:
    efforts = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]

    def __init__(self, degree):
        self.degree = degree

    def build(self, base, metric, threads):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(base.shape[1], self.degree, metric=measure(metric))
        self.index.build(base, 200, num_threads=threads)

    def search(self, queries, k, effort):
        return first_ids(self.index.search(queries, k, max(k, effort), num_threads=self.threads))


class RaBitQ:
    efforts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]

    def build(self, base, metric, threads):
        import rabitqlib

        nlist = max(1, min(round(4 * len(base) ** 0.5), len(base) // 39))  # As faiss' here.
        clusters = rabitqlib.RaBitQKMeans(base.shape[1], nlist, num_threads=threads, seed=1)
        clusters.train(base)
        self.index = rabitqlib.IvfIndex(base.shape[1], len(base), nlist, 7, metric=measure(metric))
        self.index.build(base, clusters.centroids, clusters.assignments, num_threads=threads)

    def search(self, queries, k, effort):
        return first_ids(self.index.search(queries, k, effort, num_threads=self.threads))


def first_ids(answer):
    """Whichever of the two arrays holds whole numbers."""
    return next(array for array in answer if array.dtype.kind in "iu").astype("int64")


VARIANTS = {
    "SymphonyQG R=32": lambda rows, dim, metric: Symphony(32),
    "RaBitQ IVF 7 bits": lambda rows, dim, metric: RaBitQ(),
}
