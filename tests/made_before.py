"""Runs that an earlier distfa made, and how to make such runs: ``python tests/made_before.py FOLDER [WAY ...]``.

``tests/runs_made_before`` is what this file made at commit 4062d07. ``test_made_before.py`` goes on with these runs, so
never make them again with a later distfa: add new ones instead. For each way to train there are

    whole/                a run that nobody disturbed
    cut/                  the same one, whose process was ended after a checkpoint
    whole.json            what the whole run knew at its end, and the software and processor that decide its last bits

The three ways: ``serial`` and ``ray`` by ``distfa train``, ``fit`` from Python.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import distfa

MADE = Path(__file__).parent / "runs_made_before"
SAVED = "saved.safetensors"

_TINY = (
    "--hidden 12,8 --batch-size 25 --set data.limit=100 --set log_every=50 --set ledger.every=50 --set eval_every=25 "
    "--set probe.every=100 --set checkpoint.every=100 --set checkpoint.seconds=0 --set checkpoint.keep=1 "
)
TRAIN = {
    # feedback that is trained, and momentum
    "serial": f"{_TINY} --rule kp --epochs 75 --optimizer sgd --lr 0.05 --set optimizer.momentum=0.9 --engine serial",
    # errors that are under way while the next step begins, and rounding on the wire
    "ray": f"{_TINY} --rule dfa --epochs 75 --optimizer adam --schedule async --micro-batches 5 "
    "--set codec.activations=int8 --set feedback.renew.every=30 --engine ray",
}
# one that has no time, one that has
_ENDED_BY = {
    "serial": signal.SIGKILL,
    "fit": signal.SIGKILL,
    "ray": signal.SIGTERM,
}


class Seen(distfa.Callback):
    """Remembers what it saw, in every kind of value that a checkpoint keeps."""

    def __init__(self) -> None:
        self.steps, self.losses, self.sum = 0, {}, torch.zeros(2)

    def on_step(self, at: distfa.At) -> None:
        self.steps += 1
        self.sum += torch.tensor([at.step, 1.0])

    def on_epoch(self, at: distfa.At) -> None:
        self.losses[at.epoch] = np.float64(at.figures["test_loss"] or 0)

    def state_dict(self):
        return {"steps": self.steps, "losses": self.losses, "sum": self.sum}

    def load_state_dict(self, state):
        self.steps, self.losses, self.sum = state["steps"], state["losses"], state["sum"]


def images() -> np.ndarray:
    """Six samples such as the digits, (6, 64), raw."""
    return (np.arange(6 * 64).reshape(6, 64) * 7 % 17).astype(np.uint8)


def samples() -> tuple[DataLoader, tuple[np.ndarray, np.ndarray]]:
    """A loader with a sampler of its own, and test samples; every number is exact on any machine."""
    rows, columns = np.arange(120)[:, None], np.arange(12)
    y = np.arange(120) * 7 % 5
    x = (rows * (3 + 2 * columns) % 16 / 4 + 3 * (columns % 5 == y[:, None])).astype(np.float32)
    drawn = WeightedRandomSampler([1.0, 2.0] * 50, 100, generator=torch.Generator().manual_seed(3))
    train = TensorDataset(torch.tensor(x[:100]), torch.tensor(y[:100]))
    return DataLoader(train, batch_size=20, sampler=drawn), (x[100:], y[100:])


def trainer(run_dir: Path | None = None) -> distfa.Trainer:
    """Of a model with running statistics and dropout, Adam, a scheduler, and callbacks that remember."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, amsgrad=True)
    return distfa.Trainer(
        model,
        rule="fa",
        epochs=30,
        dtype="float64",
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30),
        callbacks=[distfa.EarlyStopping(patience=20), distfa.BestWeights(monitor="train_loss"), Seen()],
        verbose=False,
        engine="serial",
        eval_every=10,
        log_every=50,
        checkpoint={"every": 75, "seconds": 0, "keep": 1},
        run_dir=run_dir and str(run_dir),
    )


def known(of: distfa.Trainer) -> dict:
    """What a trainer and its callbacks know at the end of a fit, as JSON holds it, without what clocks say."""
    stopping, best, seen = of._callbacks
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in of.history]
    callbacks = [stopping.best, stopping.step, best.best, best.step, seen.steps, seen.losses, seen.sum.tolist()]
    return json.loads(json.dumps({"history": rows, "callbacks": callbacks}))


def rounding() -> dict[str, str]:
    """What decides how sums are rounded: the same everywhere, and the bits are the same."""
    cpus = Path("/proc/cpuinfo")
    vendor = re.search(r"^vendor_id\s*:\s*(.*)$", cpus.read_text(), re.M) if cpus.exists() else None
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "vendor": vendor[1] if vendor else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def printed(*command: str | Path, cwd: Path) -> dict:
    """The JSON that a command prints."""
    done = [sys.executable, "-m", "distfa", *map(str, command), "--json"]
    return json.loads(subprocess.run(done, cwd=cwd, check=True, capture_output=True, text=True).stdout)


def _command(way: str, where: Path) -> list[str]:
    if way == "fit":
        return [sys.executable, __file__, "--fit", where.name]
    return [sys.executable, "-m", "distfa", "train", *TRAIN[way].split(), "--run-dir", where.name]


def _fit(where: Path) -> None:
    made = trainer(where)
    made.fit(*samples())
    made.save(where.with_name(SAVED))
    where.with_name("known.json").write_text(json.dumps(known(made)))


def _make(way: str, out: Path) -> None:
    whole, cut = out / "whole", out / "cut"
    out.mkdir(parents=True)
    subprocess.run(_command(way, whole), cwd=out, check=True)
    driver = subprocess.Popen(_command(way, cut), cwd=out)
    while not any(
        int(file.parent.name.removeprefix("step-")) >= 50 for file in cut.glob("checkpoints/*/manifest.json")
    ):
        time.sleep(0.002)
    driver.send_signal(_ENDED_BY[way])
    driver.wait()
    about = {"rounding": rounding()}
    if way == "fit":
        about["known"] = json.loads((out / "known.json").read_text())
        (out / "known.json").unlink()
    else:
        np.save(out / "images.npy", images())
        about["eval"] = printed("eval", "whole", cwd=out)
        about["predict"] = printed("predict", "whole", "images.npy", cwd=out)
    (out / "whole.json").write_text(json.dumps(about, indent=1) + "\n")
    for run in (whole, cut):
        _without_this_machine(run)
    assert json.loads((cut / "run.json").read_text())["status"] != "finished", "it ended before it could be ended"


def _without_this_machine(run: Path) -> None:
    """Names and places are not what is kept here."""
    about = json.loads((run / "run.json").read_text())
    about |= {"folder": "/elsewhere", "pid": 1, "node": "elsewhere"}
    about["host"] |= {"platform": platform.system(), "command": about["host"]["command"][:2]}
    (run / "run.json").write_text(json.dumps(about, indent=1) + "\n")
    for file in run.glob("events.out.tfevents.*"):
        file.rename(run / "events.out.tfevents.1.elsewhere.1.0")


def main(*arguments: str) -> None:
    """Make all of them, or one fit."""
    if arguments[0] == "--fit":
        _fit(Path(arguments[1]))
        return
    with tempfile.TemporaryDirectory() as place:  # runs keep the folder where they began
        for way in arguments[1:] or ("serial", "fit", "ray"):
            _make(way, Path(place) / way)
            shutil.copytree(Path(place) / way, Path(arguments[0]) / way)


if __name__ == "__main__":
    main(*sys.argv[1:])
