"""Lines of bench.rs and torch_products.py as the table of the GPU builds.

    python table.py bench.jsonl [torch.jsonl]
"""

import datetime
import json
import sys

# What each line should reach on an H200 through wgpu, and a public figure where there is one.
REACH = {
    ("products", "matrix"): "≥ 50 % of torch f16",
    ("products", "plain"): "≥ 70 % of torch f32",
    ("kmeans", None): "ahead of torch",
    ("ivf", None): "≥ 556,000 rows/s (5M × 1536; cuVS on an H100)",
    ("hnsw", None): "recall ≥ .95; ≥ 100,000 rows/s (5M × 1536), ≥ 400,000 (10M × 96)",
}


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def torch_seconds(torch, line):
    kind = None
    if line["what"] == "products":
        kind = "plain" if line["variant"] == "plain" else "half"
    for other in torch:
        if other["what"] == line["what"] and other.get("variant") == kind:
            return other["seconds"]
    return None


def figure(line):
    if line["what"] in ("ivf", "hnsw"):
        text = f"{line['rows_per_s']:,.0f} rows/s"
        if "recall_at_10" in line:
            text += f", recall@10 {line['recall_at_10']:.3f} at ef_search {line['ef_search']}"
        return text
    kernels_s = line["kernels_s"] or line["wall_s"]
    return f"{line['flops'] / kernels_s * 1e-12:.3f} TFLOP/s in kernels, {line['flops'] / line['wall_s'] * 1e-12:.3f} in all"


def beside_torch(line, torch):
    seconds = torch_seconds(torch, line)
    if seconds is None:
        return "–"
    # Products by the device's clock, as torch's are; a pass of k-means in all.
    own = line["wall_s"] if line["what"] == "kmeans" else line["kernels_s"] or line["wall_s"]
    return f"{seconds / own:.0%}"


def main():
    bench = lines_of(sys.argv[1])
    torch = lines_of(sys.argv[2]) if len(sys.argv) > 2 else []
    device = next(line for line in bench if line["what"] == "device")
    adapter = device["adapter"]
    today = datetime.date.today().isoformat()
    print(f"{today} · {adapter['name']} ({adapter['api']}, {adapter['driver']}) · annvil {device['version']}, {device['cpu']}, {device['threads']} threads")
    for line in torch:
        if line["what"] == "torch":
            print(f"torch {line['version']} on {line['device']}")
    if adapter["software"]:
        print("A CPU posing as a GPU: these figures say that the script runs, and nothing of speed.")
    print()
    print("| what | shape | measured | of torch | reach | no kernel runs | CPU | up, down |")
    print("|---|---|---|---|---|---|---|---|")
    wrong = 0
    for line in bench:
        if line["what"] == "device":
            continue
        variant = line.get("variant")
        name = line["what"] if variant is None else f"{line['what']}, {variant}"
        if line.get("same_as_f32") is False:
            name += " (**not** what f32 finds)"
            wrong += 1
        reach = REACH.get((line["what"], variant), "–")
        idle = f"{max(0.0, 1 - line['kernels_s'] / line['wall_s']):.0%} of wall" if line["kernels_s"] else "?"
        moved = f"{line['uploaded_bytes'] * 1e-9:.2f}, {line['downloaded_bytes'] * 1e-9:.2f} GB"
        print(
            f"| {name} | {line['shape']} | {figure(line)} | {beside_torch(line, torch)} | {reach} "
            f"| {idle} | {line['cpu_share']:.0%} of cores | {moved} |"
        )
    print()
    for line in bench:
        for kernel, (seconds, flops) in line.get("kernels", {}).items():
            rate = flops / seconds * 1e-9 if seconds else 0.0
            print(f"{line['what']} {line.get('variant', '')} {kernel}: {seconds * 1e3:,.1f} ms, {rate:,.1f} GFLOP/s")
    # Equal distances may be answered by different rows: look before blaming a kernel.
    sys.exit(3 if wrong else 0)


if __name__ == "__main__":
    main()
