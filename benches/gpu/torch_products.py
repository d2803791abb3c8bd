"""The products of benches/gpu/run by torch's own matmul on the same GPU, and one pass of k-means: lines of JSON.

    python torch_products.py [products=QUERIESxROWSxDIM] [kmeans=ROWSxDIMxK]

f32 is without tf32. Distances are products alone for `products`, as torch's users would rank them; `kmeans` is assignment by
blocks of rows (argmin of the products and norms) and index_add_ sums.
"""

import json
import sys
import time

RUNS = 5


def seconds_of(torch, run):
    run()
    best = float("inf")
    for _ in range(RUNS):
        synchronize(torch)
        started = time.perf_counter()
        run()
        synchronize(torch)
        best = min(best, time.perf_counter() - started)
    return best


def synchronize(torch):
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def products(torch, device, shape):
    queries, rows, dim = shape
    for name, kind in (("plain", torch.float32), ("half", torch.float16)):
        if device == "cpu" and kind == torch.float16:
            continue
        a = torch.randn(queries, dim, device=device, dtype=kind)
        b = torch.randn(rows, dim, device=device, dtype=kind)
        seconds = seconds_of(torch, lambda: torch.matmul(a, b.T))
        yield {"what": "products", "variant": name, "seconds": seconds, "flops": 2.0 * queries * rows * dim}


def kmeans(torch, device, shape):
    rows, dim, k = shape
    data = torch.randn(rows, dim, device=device)
    centroids = data[:k].clone()
    block = max(1, (1 << 30) // k)

    def one_pass():
        norms = (centroids * centroids).sum(1)
        labels = torch.cat(
            [torch.argmin(norms - 2 * part @ centroids.T, dim=1) for part in data.split(block)]
        )
        torch.zeros_like(centroids).index_add_(0, labels, data)

    yield {"what": "kmeans", "seconds": seconds_of(torch, one_pass), "flops": 2.0 * rows * dim * k}


def main():
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing to compare with", file=sys.stderr)
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(json.dumps({"what": "torch", "version": torch.__version__, "device": name}), flush=True)
    for argument in sys.argv[1:]:
        what, _, shape = argument.partition("=")
        run = {"products": products, "kmeans": kmeans}.get(what)
        if run is None:
            continue
        shape = tuple(int(part) for part in shape.split("x"))
        try:
            for line in run(torch, device, shape):
                print(json.dumps(line), flush=True)
        except RuntimeError as error:
            print(f"torch, {argument}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
