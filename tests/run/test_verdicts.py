"""What a run does when the conservation law breaks: stop, warn or ignore."""

import json

import pytest
from runs import blobs, recipe

from distfa.core.layer import Layer
from distfa.data import from_arrays
from distfa.errors import LedgerViolation
from distfa.run.run import run
from distfa.settings import parse_spec


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Run with layer 2 updating twice at step 3; returns (spec settings) -> result."""
    plain, count = Layer._descend, [0]

    def descend(self, step, lr):
        plain(self, step, lr)
        count[0] += self.index == 2
        if self.index == 2 and count[0] == 4:
            self.optimizer.step(lr, step)

    monkeypatch.setattr(Layer, "_descend", descend)

    def go(policy):
        x, y = blobs(12, 5, 75)
        spec = parse_spec(
            {
                "engine": "serial",
                "rule": "fa",
                "max_steps": 8,
                "log_every": 1,
                "ledger": {"every": 1, "on_violation": policy},
                "run_dir": str(tmp_path / "run"),
            }
        )
        return run(spec, recipe().network, from_arrays((x, y)))[0]

    return go


def test_stop_ends_the_run_with_the_verdict_and_keeps_the_entry(broken, tmp_path):
    with pytest.raises(LedgerViolation, match=r"boundary 1 .*, step 3: .* within layer 2.*\n.*the metrics of"):
        broken("stop")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (lines[-1]["kind"], lines[-1]["step"], lines[-1]["holds"]) == ("ledger", 3, False)


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_otherwise_the_run_goes_on_and_the_result_counts(broken, policy):
    result = broken(policy)
    assert result.steps == 8
    assert result.ledger["violations"] == 2
    assert "step 3" in result.ledger["first_violation"]
