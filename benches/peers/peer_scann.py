"""ScaNN: inverted lists of 4-bit codes trained with a score-aware loss, re-ranking; SOAR is its second list per row."""

import itertools


class Scann:
    efforts = [
        list(pair) for pair in itertools.product((2, 4, 8, 16, 32, 64, 128, 256, 512), (30, 60, 100, 200, 400))
    ]

    def __init__(self, soar):
        self.soar = soar

    def build(self, base, metric, threads):
        from scann import scann_ops_pybind

        leaves = max(1, round(2 * len(base) ** 0.5))
        measure = "squared_l2" if metric == "l2" else "dot_product"
        threshold = float("nan") if metric == "l2" else 0.2
        spilling = {"soar_lambda": 1.5, "overretrieve_factor": 1.8} if self.soar else {}
        self.index = (
            scann_ops_pybind.builder(base, 10, measure)
            .tree(leaves, 100, training_sample_size=min(len(base), 250_000), **spilling)
            .score_ah(2, anisotropic_quantization_threshold=threshold)
            .reorder(100)
            .set_n_training_threads(threads)
            .build()
        )

    def search(self, queries, k, effort):
        leaves, reorder = effort
        search = self.index.search_batched if self.threads == 1 else self.index.search_batched_parallel
        return search(queries, k, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves)[0]


VARIANTS = {
    "ScaNN": lambda rows, dim, metric: Scann(soar=False),
    "ScaNN SOAR": lambda rows, dim, metric: Scann(soar=metric != "l2"),
}
