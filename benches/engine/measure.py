#!/usr/bin/env python3
"""Times whole processes on the DAGs of dag.py: python3 measure.py ENGINE NODES

ENGINE is mashbill, command (mashbill with a program a node), ninja, snakemake or dvc. MASHBILL names the binary; PEERS a
virtual environment made by `pip install dvc snakemake ninja`. Everything is made once, then each
verb is run RUNS times: the median of wall time and of CPU time, and the most memory that any run held.

A first run of DVC writes its lock file anew after every node: beyond PRIMED nodes the outputs are made without it, and
`dvc commit` takes them in.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
MASHBILL = os.environ.get("MASHBILL", str(HERE.parent.parent / "target/release/mashbill"))
PEERS = os.environ.get("PEERS", "")
WORK = pathlib.Path(os.environ.get("WORK", "/dev/shm/mashbill-bench"))
RUNS = int(os.environ.get("RUNS", "15"))
PRIMED = 100


def peer(name):
    return f"{PEERS}/bin/{name}" if PEERS else name


VERBS = {
    "mashbill": {
        "make": [MASHBILL, "run", "mashbill.yaml", "--quiet"],
        "nothing to do": [MASHBILL, "run", "mashbill.yaml"],
        "plan": [MASHBILL, "plan", "mashbill.yaml"],
    },
    "command": {
        "make": [MASHBILL, "run", "command.yaml", "--quiet"],
        "nothing to do": [MASHBILL, "run", "command.yaml"],
        "plan": [MASHBILL, "plan", "command.yaml"],
    },
    "ninja": {"make": [peer("ninja"), "--quiet"], "nothing to do": [peer("ninja")], "plan": [peer("ninja"), "-n"]},
    "snakemake": {
        "make": [peer("snakemake"), "--cores", "2", "--quiet"],
        "nothing to do": [peer("snakemake"), "--cores", "2"],
        "plan": [peer("snakemake"), "-n"],
    },
    "dvc": {
        "make": [peer("dvc"), "repro", "--quiet"],
        "nothing to do": [peer("dvc"), "repro"],
        "plan": [peer("dvc"), "repro", "--dry"],
    },
}


def timed(words, folder):
    """Wall seconds, CPU seconds and megabytes of one process with all that it starts."""
    before = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - before
    if status != 0:
        sys.exit(f"{' '.join(words)} ended with {status} in {folder}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    engine, count = sys.argv[1], int(sys.argv[2])
    verbs, folder = VERBS[engine], WORK / f"{engine}-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, HERE / "dag.py", folder, str(count)], check=True)
    (folder / "out").mkdir()
    if engine == "dvc":
        subprocess.run([peer("dvc"), "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    make = verbs["make"]
    if engine == "dvc" and count > PRIMED:
        subprocess.run([peer("ninja"), "--quiet"], cwd=folder, check=True)
        make = [peer("dvc"), "commit", "--force", "--quiet"]
    wall, cpu, memory = timed(make, folder)
    each = wall / count * 1e3
    print(f"{engine:10} {count:6} first run       {wall * 1e3:10.1f} ms wall {cpu * 1e3:10.1f} ms cpu {memory:7.0f} MB   {each:.2f} ms a node", flush=True)
    # Files of the last two seconds prove nothing by their times, and are read again.
    time.sleep(2.5)
    for verb in ["nothing to do", "plan"]:
        timed(verbs[verb], folder)
        runs = [timed(verbs[verb], folder) for _ in range(RUNS)]
        wall, cpu = [statistics.median(run[at] for run in runs) * 1e3 for at in (0, 1)]
        memory = max(run[2] for run in runs)
        print(f"{engine:10} {count:6} {verb:15} {wall:10.1f} ms wall {cpu:10.1f} ms cpu {memory:7.0f} MB", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


main()
