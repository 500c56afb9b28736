"""A run that is told to go on at NaN and infinity (``check_finite: false``) keeps its records and says what happened.

Its first figure that was not finite once ended it with "Out of range float values are not JSON compliant".
"""

import json
import math

import numpy as np
import pytest
import runs
from torch import nn

from distfa.api.trainer import Trainer
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.report import write_report
from distfa.report.page import report_figures
from distfa.report.records import read_run


def no_constant(name):
    pytest.fail(f"{name} is not JSON")


@pytest.fixture(scope="module")
def exploded(tmp_path_factory):
    """(result, run directory) of a run whose loss becomes NaN."""
    place = tmp_path_factory.mktemp("exploded") / "run"
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))
    data = runs.blobs(12, 5, 75)
    more = {"engine": "serial", "check_finite": False, "log_every": 1, "epochs": 4, "run_dir": str(place)}
    steps = {"ledger": {"every": 1}, "probe": {"every": 1}}
    trainer = Trainer(model, optimizer={"name": "sgd", "lr": 1e12}, loss="mse", rule="fa", **more, **steps)
    return trainer.fit(data, data), place


def test_every_file_of_it_is_valid_json(exploded):
    result, place = exploded
    assert not math.isfinite(result.train_loss)
    lines = (place / "metrics.jsonl").read_text().splitlines()
    assert {"step", "eval", "ledger", "probe"} <= {
        json.loads(line, parse_constant=no_constant)["kind"] for line in lines
    }
    about = json.loads((place / "run.json").read_text(), parse_constant=no_constant)
    assert about["result"]["train_loss"] in ("NaN", "Infinity")


def test_it_is_read_back_and_drawn(exploded):
    _, place = exploded
    run = read_run(place)
    assert not all(math.isfinite(row["loss"]) for row in run.steps)
    assert not math.isfinite(run.result["test_loss"])
    assert "loss not finite" in write_report(place).read_text()
    checks = {figure.name: figure for figure in report_figures(run)}["checks"]
    assert "No entry broke it" not in checks.see


def test_watch_shows_it(exploded):
    from rich.console import Console

    from distfa.cli.watch import _picture
    from distfa.report.latest import Latest

    console = Console(record=True, width=100)
    console.print(_picture(Latest(exploded[1])))
    assert "loss nan" in console.export_text()


def test_an_entry_that_is_not_finite_is_no_entry_in_which_the_law_held():
    terms = ("change", "discretisation", "optimizer", "nonhomogeneity", "staleness", "renewal", "transport", "residual")
    nan = dict.fromkeys((*terms, "residual_lower", "residual_upper", "incoming", "potential"), np.nan)
    entry = LedgerRecord(step=3, boundary=1, **nan, tolerance=np.nan, transport_tolerance=np.nan)
    assert not entry.holds
    assert "boundary 1 (layers 1 and 2), step 3: the conservation law cannot be checked" in describe_violation(entry)
