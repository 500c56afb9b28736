"""How much memory a data set in shards needs: a run on Ray that reads it, against one that has it all in memory.

python scripts/shards.py FOLDER [--gib 4] [--limit-gib 1.5]

Writes shards of 64 MiB of random bytes into FOLDER if there are none, trains on them with each process of the run
limited to that much memory of its own (RLIMIT_DATA), trains on the same arrays in one process, and compares the weights
bit for bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

FEATURES, ROWS, WINDOW = 3072, 2**26 // 3072, 4


def write(folder: Path, gib: float) -> None:
    """Shards of 64 MiB; the label of a sample is the fourth of the range in which its first number is."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for number in range(round(gib * 16)):
        rng = np.random.default_rng(number)
        x = rng.integers(0, 256, (ROWS, FEATURES), np.uint8)
        np.savez(folder / "train" / f"{number:04}.npz", x=x, y=x[:, 0] // 64)


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def watch(peaks: dict[str, int]) -> None:
    """Keep the largest peak of every worker, by what it calls itself."""
    while True:
        for child in psutil.Process().children(recursive=True):
            try:
                name, pid = child.cmdline()[0], child.pid
                if name.startswith("ray::WorkerActor"):
                    peaks[str(pid)] = max(peaks.get(str(pid), 0), peak_bytes(pid))
            except (psutil.Error, OSError, IndexError, StopIteration):
                continue  # it has just ended
        time.sleep(0.2)


def train(folder: str, engine: str, run_dir: str) -> None:
    """One run, whose digest and peaks are printed."""
    from distfa.intake.subject import subject_for
    from distfa.run.run import run
    from distfa.settings import parse_spec

    data = {"name": "shards", "dir": folder, "window": WINDOW}
    how = {"engine": engine, "epochs": 1, "batch_size": 512, "run_dir": run_dir, "ledger": {"every": 0}}
    spec = parse_spec({"data": data, "model": {"hidden": [64]}, **how})
    dataset, peaks = spec.data.load(), dict[str, int]()
    indexed = peak_bytes()
    if engine == "serial":
        dataset = dataclasses.replace(dataset, train_x=np.asarray(dataset.train_x), train_y=np.asarray(dataset.train_y))
    threading.Thread(target=watch, args=(peaks,), daemon=True).start()
    began = time.monotonic()
    result, weights = run(spec, subject_for(spec, dataset).network, dataset)
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in sorted(weights.items()))).hexdigest()
    found = {"weights": digest[:16], "loss": result.train_loss, "seconds": round(time.monotonic() - began)}
    found |= {"driver_mib": peak_bytes() >> 20, "with_index_only_mib": indexed >> 20}
    print(json.dumps(found | {"workers_mib": [peak >> 20 for peak in peaks.values()]}))


def main() -> None:
    """Write, train twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--limit-gib", type=float, default=1.5)
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        if asked.train[0] == "ray":
            resource.setrlimit(resource.RLIMIT_DATA, (int(asked.limit_gib * 2**30),) * 2)
        return train(asked.folder, *asked.train)
    folder = Path(asked.folder)
    if not (folder / "train").exists():
        write(folder, asked.gib)
    found = {}
    for engine in ("ray", "serial"):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, __file__, str(folder), "--limit-gib", str(asked.limit_gib)]
            command += ["--train", engine, f"{place}/run"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[engine] = json.loads(done.stdout.splitlines()[-1])
        print(engine, found[engine])
    same = found["ray"]["weights"] == found["serial"]["weights"]
    print("the weights are equal" if same else "the weights differ")
    sys.exit(not same)


if __name__ == "__main__":
    main()
