"""Intel SVS: Vamana over full vectors (its LVQ codes refuse processors of other makers)."""


class Svs:
    efforts = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]

    def build(self, base, metric, threads):
        import svs

        # Rows of a cosine set have unit length: there L2 gives the same order, and the graph suits it better.
        measure = svs.DistanceType.MIP if metric == "inner_product" else svs.DistanceType.L2
        alpha = 0.95 if metric == "inner_product" else 1.2
        parameters = svs.VamanaBuildParameters(alpha=alpha, graph_max_degree=32, window_size=200)
        self.index = svs.Vamana.build(parameters, base, measure, num_threads=threads)

    def search(self, queries, k, effort):
        self.index.num_threads = self.threads
        self.index.search_window_size = max(k, effort)
        return self.index.search(queries, k)[0].astype("int64")


VARIANTS = {"SVS Vamana R=32": lambda rows, dim, metric: Svs()}
