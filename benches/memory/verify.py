"""How fast `annvil verify` is beside the disk: verify.py ANNVIL INDEX

The index's files are read by `cat` and by `annvil verify`, by turns: cold, after the system has been asked to drop their pages
(`posix_fadvise`, whose effect is counted with `fincore` where there is one), and warm.
"""

import os
import subprocess
import sys
import time

ROUNDS = 3


def evict(files):
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def cached(files):
    """The part of the files that is in memory, or None where nobody tells."""
    try:
        told = subprocess.run(["fincore", "--bytes", "--raw", "--noheadings", "--output", "RES", *files],
                              capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return sum(int(line) for line in told.split()) / sum(map(os.path.getsize, files))


def timed(command):
    started, before = time.perf_counter(), os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu


def main():
    annvil, index = sys.argv[1:3]
    files = [os.path.join(folder, name) for folder, _, names in os.walk(index) for name in names]
    size = sum(map(os.path.getsize, files))
    commands = {"cat": ["cat", *files], "verify": [annvil, "verify", index]}
    print(f"verify: {size / 1e9:.2f} GB in {len(files)} files, {ROUNDS} rounds by turns, median GB/s (CPU-seconds)")
    for state in ("cold", "warm"):
        taken, rest = {name: [] for name in commands}, []
        for _ in range(ROUNDS):
            for name, command in commands.items():
                if state == "cold":
                    evict(files)
                    rest.append(cached(files))
                taken[name].append(timed(command))
        cells = []
        for name, times in taken.items():
            wall, cpu = sorted(times)[ROUNDS // 2]
            cells.append(f"{name} {size / wall / 1e9:.2f} ({cpu:.1f})")
        left = "" if not rest or None in rest else f"; in memory before: {max(rest):.1%} at most"
        print(f"  {state}: {', '.join(cells)}{left}")


main()
