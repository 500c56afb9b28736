"""The bytes of a run in one process are those that a distributed run counts, or null; never 0."""

import json

import pytest
from commands import here
from runs import ThreadRun, recipe

from distfa.codecs import resolve
from distfa.core.base.recipe import RenewConfig
from distfa.core.books.records import RenewalRecord
from distfa.core.rules import RULES
from distfa.costs.computed_bytes import computed_bytes
from distfa.runtime.coordinator import boundary_bytes

CODECS = [("lossless", "lossless"), ("int8", "int4"), ("bf16", "uint4")]
PAYLOADS = ("boundary", "up_payload", "down_payload")


@pytest.mark.parametrize(("up", "down"), CODECS)
@pytest.mark.parametrize(
    "settings",
    [*({"rule": rule} for rule in RULES), {"rule": "dkp", "renew": RenewConfig(every=3)}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_is_computed_is_what_the_layers_count(settings, up, down):
    r = recipe((12, 8, 5, 4), **settings, epochs=1, micro_batches=2)
    with ThreadRun(r, activations=up, errors=down) as run:
        _, records = run.train()
        counted = boundary_bytes(run.coordinator.traffic(), r.network.boundaries)
    renewals = sum(isinstance(record, RenewalRecord) for record in records)
    codecs = {"up": resolve(up, r.signal_dtype), "down": resolve(down, r.signal_dtype)}
    computed = computed_bytes(r, rows=75, renewals=renewals, **codecs)
    assert [[row[key] for key in PAYLOADS] for row in computed] == [[row[key] for key in PAYLOADS] for row in counted]


def test_what_depends_on_the_numbers_is_not_known():
    r = recipe((12, 8, 5, 4))
    (first, _) = computed_bytes(r, rows=75, renewals=0, up=resolve("packed", r.dtype), down=resolve("fp32", r.dtype))
    assert first == {
        "boundary": 1,
        "up_payload": None,
        "down_payload": 75 * 4 * 4,
        "up_message": None,
        "inside": 0,
        "down_message": None,
    }
    judged = recipe((12, 8, 5, 4), renew=RenewConfig(below=0.5), probe_every=4)
    (first, _) = computed_bytes(judged, rows=75, renewals=1, up=resolve("fp32", r.dtype), down=resolve("fp32", r.dtype))
    assert first["down_payload"] is None


def test_a_serial_run_says_computed_bytes_in_its_json_and_draws_its_report(tmp_path):
    """They were 0, beside a bp_payload that was not."""
    size = ("--engine", "serial", "--epochs", 1, "--hidden", "8,8", "--set", "data.limit=64", "--json")
    total = json.loads(here("train", *size, "--run-dir", "a", cwd=tmp_path).stdout)["bytes"]["total"]
    assert (total["up_payload"], total["down_payload"]) == (2 * 64 * 8 * 4, 2 * 64 * 10 * 4)
    assert total["up_message"] is total["down_message"] is None
    assert total["bp_payload"] == 2 * total["up_payload"]
    here("train", *size, "--set", "codec=int8+zstd", "--run-dir", "b", cwd=tmp_path)
    kept = json.loads((tmp_path / "b" / "run.json").read_text())["result"]["bytes"]["total"]
    assert kept.pop("inside") == 0
    assert set(kept.values()) == {None}
    for command in (("report", "a"), ("report", "a", "b"), ("watch", "b", "--once"), ("status", "b")):
        here(*command, cwd=tmp_path)
    assert "sent each other" not in (tmp_path / "a" / "report.html").read_text()
