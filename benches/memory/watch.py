"""Runs a build and watches its memory: watch.py BUDGET COMMAND…"""

import json
import os
import subprocess
import sys
import threading
import time

MIB = 1 << 20


def limited_group(limit):
    """A memory cgroup of that limit in bytes, or None."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = f"{root}/annvil-bench-{os.getpid()}"
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            # Not "w": of a folder that is no cgroup's, the file is not there.
            with open(f"{folder}/{name}", "r+") as file:
                file.write(str(limit))
            return folder
        except OSError:
            os.rmdir(folder)
    return None


def main():
    units = {"MiB": MIB, "GiB": 1 << 30}
    budget = int(sys.argv[1][:-3]) * units[sys.argv[1][-3:]]
    group = limited_group(budget + budget // 10)
    join = (lambda: open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))) if group else None
    process = subprocess.Popen(sys.argv[2:] + ["--json"], stdout=subprocess.PIPE, text=True, preexec_fn=join)
    result = {}

    def read():
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "finished":
                result.update(event["result"])

    reader = threading.Thread(target=read)
    reader.start()
    most = {"RssAnon": 0, "VmRSS": 0}
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as file:
                for line in file:
                    name = line.split(":")[0]
                    if name in most:
                        most[name] = max(most[name], int(line.split()[1]) << 10)
        except OSError:
            pass
        time.sleep(0.001)
    reader.join()
    if group:
        os.rmdir(group)
    if process.returncode != 0:
        sys.exit(f"exit code {process.returncode}")
    print(f"budget {budget // MIB} MiB; of its own {most['RssAnon'] // MIB} MiB, resident {most['VmRSS'] // MIB} MiB, "
          f"manifest's peak {result['peak_memory_bytes'] // MIB} MiB; "
          f"{'under a cgroup limit of budget + 10 %' if group else 'without a cgroup'}")
    for stage in result["stages"]:
        print(f"  {stage['name']:<28}{stage['wall_ms'] / 1e3:9.1f} s wall {stage['cpu_ms'] / 1e3:9.1f} s CPU")


main()
