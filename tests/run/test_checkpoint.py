"""A run that is cut short goes on from its last checkpoint, and ends as if nothing had happened: weights, figures,
records. A checkpoint is whole or it is none.
"""

import json
import shutil

import fsspec
import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem
from runs import assert_same_bits

from distfa import data
from distfa.errors import CheckpointError, RunDirError
from distfa.intake.subject import subject_for
from distfa.run.disk.checkpoint import Store
from distfa.run.disk.run_dir import read_about
from distfa.run.disk.shelf import Shelf
from distfa.run.run import run
from distfa.runtime.hosted_layer import Snapshot
from distfa.settings import parse_spec

TIMES = ("seconds", "samples_per_second", "wall_seconds", "startup_seconds")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


def spec(where, **changes):
    return parse_spec(
        {
            "model": {"hidden": [24, 16]},
            "epochs": 4,
            "batch_size": 32,
            "log_every": 1,
            "engine": "serial",
            "ledger": {"every": 2},
            "probe": {"every": 3},
            "checkpoint": {"every": 4, "seconds": 0, "keep": 2},
            "run_dir": str(where),
            **changes,
        }
    )


class Stopped(Exception):
    """What ends a run in these tests."""


def stopping_at(step):
    """An observer that ends the run once this many steps are done."""

    def observe(progress):
        if progress.tally.steps >= step:
            raise Stopped(f"at step {step}")

    return observe


def trained(s, dataset, **how):
    subject = subject_for(s, dataset)
    return run(s, subject.network, dataset, model=subject.model, **how)


def metrics(where):
    """Records without what clocks say."""
    lines = (where / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records if r["kind"] not in ("timeline", "traffic")]


def figures(result):
    return {k: v for k, v in result.as_dict().items() if k not in (*TIMES, "run_dir", "recoveries")}


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "dfa"},
        {"rule": "kp", "optimizer": {"name": "sgd", "momentum": 0.9, "lr": 0.05}},
        {"rule": "fa", "schedule": "async", "micro_batches": 4},
        {"rule": "dfa", "model": {"name": "residual_mlp"}, "dtype": "float64"},
    ],
    ids=lambda c: "-".join(str(v) for v in c.values())[:40],
)
def test_what_is_cut_short_and_goes_on_ends_as_the_whole(changes, digits, tmp_path):
    whole, weights = trained(spec(tmp_path / "whole", **changes), digits)
    cut = spec(tmp_path / "cut", **changes)
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(11))
    assert read_about(tmp_path / "cut")["status"] == "failed"
    with pytest.raises(Stopped):  # twice
        trained(cut, digits, observer=stopping_at(19), resume=tmp_path / "cut")
    result, found = trained(cut, digits, resume=tmp_path / "cut")
    assert_same_bits(found, weights)
    assert figures(result) == figures(whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    about = read_about(tmp_path / "cut")
    assert (about["status"], about["attempt"]) == ("finished", 3)


def test_a_run_without_a_checkpoint_yet_begins_anew_in_its_directory(digits, tmp_path):
    whole, weights = trained(spec(tmp_path / "whole"), digits)
    cut = spec(tmp_path / "cut")
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(2))
    result, found = trained(cut, digits, resume=tmp_path / "cut")
    assert_same_bits(found, weights)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert figures(result) == figures(whole)


def test_a_run_that_has_to_end_keeps_the_latest_cut_though_it_came_too_soon_to_be_written(digits, tmp_path):
    changes = {"checkpoint": {"every": 4, "seconds": 1000.0}}
    whole, weights = trained(spec(tmp_path / "whole", **changes), digits)
    assert not (tmp_path / "whole" / "checkpoints").exists()
    cut = spec(tmp_path / "cut", **changes)
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(11))
    assert Store(str(tmp_path / "cut" / "checkpoints"), keep=1).steps() == [8]
    result, found = trained(cut, digits, resume=tmp_path / "cut")
    assert_same_bits(found, weights)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert figures(result) == figures(whole)


@pytest.mark.parametrize("harm", ["altered", "torn", "gone", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_taken(harm, digits, tmp_path, caplog):
    _, weights = trained(spec(tmp_path / "whole"), digits)
    cut = spec(tmp_path / "cut")
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(15))
    kept = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [folder.name for folder in kept] == ["step-00000008", "step-00000012"]
    shard = kept[-1] / ("manifest.json" if harm == "manifest" else "layer-002.safetensors")
    content = bytearray(shard.read_bytes())
    if harm == "torn":
        shard.write_bytes(content[:-7])
    elif harm == "gone":
        shard.unlink()
    else:
        content[-5] ^= 1
        shard.write_bytes(content)
    result, found = trained(cut, digits, resume=tmp_path / "cut")
    assert "the checkpoint of step 12 is damaged: " in caplog.text
    assert shard.name in caplog.text
    assert_same_bits(found, weights)
    assert result.steps == 40


def test_another_spec_model_or_data_is_refused_and_what_decides_nothing_is_not(digits, tmp_path):
    cut = spec(tmp_path / "cut")
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(9))
    before = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*.safetensors")}
    for changes, message in (
        ({"optimizer": {"lr": 0.5}}, r"optimizer.lr is 0.5 now but was 0.001 when .*cut was trained; it affects"),
        ({"checkpoint": {"every": 3}}, "checkpoint.every is 3 now but was 4"),
    ):
        with pytest.raises(CheckpointError, match=message):
            trained(spec(tmp_path / "cut", **changes), digits, resume=tmp_path / "cut")
    with pytest.raises(CheckpointError, match="the data are not those of the run"):
        trained(cut, data.load("digits", limit=299), resume=tmp_path / "cut")
    assert {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*.safetensors")} == before
    trained(spec(tmp_path / "cut", log_every=3, device="cpu"), digits, resume=tmp_path / "cut")
    with pytest.raises(RunDirError, match="has finished, so there is nothing"):
        trained(cut, digits, resume=tmp_path / "cut")


def test_two_cannot_drive_one_run(digits, tmp_path):
    cut = spec(tmp_path / "cut")
    seen = []

    def observe(progress):
        if progress.tally.steps == 9 and not seen:
            seen.append(read_about(tmp_path / "cut")["status"])
            with pytest.raises(RunDirError, match="is driven by another process"):
                trained(cut, digits, resume=tmp_path / "cut")

    trained(cut, digits, observer=observe)
    assert seen == ["running"]


def test_what_nobody_drives_any_more_is_lost_and_can_go_on(digits, tmp_path):
    cut = spec(tmp_path / "cut")
    with pytest.raises(Stopped):
        trained(cut, digits, observer=stopping_at(9))
    about = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(json.dumps(about | {"status": "running"}))  # as SIGKILL leaves it
    assert read_about(tmp_path / "cut")["status"] == "lost"
    result, _ = trained(cut, digits, resume=tmp_path / "cut")
    assert result.steps == 40


# -- the store --------------------------------------------------------------------------------


def snapshots(number):
    return [Snapshot(step=3, state={"w": torch.full((5, 4), float(n))}, traffic={}) for n in range(1, number + 1)]


@pytest.mark.parametrize("place", ["{tmp}/here", "file://{tmp}/there", "memory://distfa/run"])
def test_a_store_keeps_the_latest_whole_ones_anywhere_fsspec_reaches(place, tmp_path):
    store = Store(place.format(tmp=tmp_path), keep=2)
    for step in (10, 20, 30):
        assert store.write(step, snapshots(3), {"note": step, "odd": float("nan")}) > 3 * 5 * 4 * 4
    assert store.steps() == [30, 20]
    (found,) = Shelf("this", store).latest()
    assert (found.step, found.notes["note"]) == (30, 30)
    assert found.notes["odd"] != found.notes["odd"]
    assert [layer["w"][0, 0].item() for layer in found.layers.values()] == [1.0, 2.0, 3.0]


def test_what_fails_half_way_leaves_nothing(tmp_path):
    store = Store(str(tmp_path / "c"), keep=2)

    def breaking():
        yield from snapshots(2)
        raise CheckpointError("the state of layer 3 is gone")

    with pytest.raises(CheckpointError, match="layer 3 is gone"):
        store.write(10, breaking(), {})
    assert store.steps() == []
    assert list((tmp_path / "c").iterdir()) == []


def test_what_a_killed_process_left_half_written_is_none_and_goes_with_the_next(tmp_path):
    store = Store(str(tmp_path / "c"), keep=2)
    store.write(10, snapshots(2), {})
    (tmp_path / "c" / "step-00000020").mkdir()
    (tmp_path / "c" / "step-00000020" / "layer-001.safetensors").write_bytes(b"half")
    assert store.steps() == [10]
    store.write(30, snapshots(2), {})
    assert sorted(folder.name for folder in (tmp_path / "c").iterdir()) == ["step-00000010", "step-00000030"]


def test_a_full_disk_is_one_error_that_names_the_place_and_the_run_goes_on(digits, tmp_path, caplog):
    (tmp_path / "full").write_text("no directory")
    _, weights = trained(spec(tmp_path / "whole"), digits)
    s = spec(tmp_path / "run", checkpoint={"every": 4, "seconds": 0, "dir": str(tmp_path / "full")})
    _, found = trained(s, digits)
    assert "cannot write the checkpoint of step 4" in caplog.text
    assert "training continues, and the next checkpoint will be tried" in caplog.text
    assert_same_bits(found, weights)


def test_a_disk_that_fills_up_keeps_the_checkpoints_it_has_and_the_run_goes_on(digits, tmp_path, small_disk, caplog):
    _, weights = trained(spec(tmp_path / "whole"), digits)
    s = spec(tmp_path / "run", checkpoint={"every": 4, "seconds": 0, "keep": 20, "dir": str(small_disk / "kept")})
    _, found = trained(s, digits)
    assert "No space left on device; check that there is free space" in caplog.text
    assert_same_bits(found, weights)
    store = Store(str(small_disk / "kept"), keep=20, run=read_about(tmp_path / "run")["run_id"])
    assert 4 in store.steps()
    assert all(store.read(step).step == step for step in store.steps())


class Refused(Exception):
    """As a bucket's client raises them: no OSError."""


class Bucket(MemoryFileSystem):
    """A remote place that refuses to write the checkpoints of some steps, or to answer at all."""

    protocol = "bucket"
    store, pseudo_dirs = {}, [""]
    refused, gone = (), False

    def pipe_file(self, path, value, **how):
        if any(f"step-{step:08d}/layer-002" in path for step in self.refused):
            raise Refused("SlowDown: reduce your request rate")
        super().pipe_file(path, value, **how)

    def ls(self, path, *args, **how):
        if self.gone:
            raise Refused("InvalidAccessKeyId: no such key")
        return super().ls(path, *args, **how)


@pytest.fixture
def bucket(monkeypatch):
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "store", {})
    return Bucket


def test_a_remote_place_that_refuses_loses_neither_the_run_nor_the_checkpoint_before(
    bucket, digits, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(bucket, "refused", (12, 16))
    _, weights = trained(spec(tmp_path / "whole"), digits)
    kept = {"checkpoint": {"every": 4, "seconds": 0, "keep": 1, "dir": "bucket://run/kept"}}
    with pytest.raises(Stopped):
        trained(spec(tmp_path / "run", **kept), digits, observer=stopping_at(18))
    own = f"bucket://run/kept/{read_about(tmp_path / 'run')['run_id']}"
    assert f"cannot write {own}/step-00000012/layer-002.safetensors: SlowDown: reduce your request rate;" in caplog.text
    assert Store(own, keep=1).steps() == [8]
    assert not any("step-00000012" in path for path in bucket.store)
    monkeypatch.setattr(bucket, "gone", True)
    with pytest.raises(CheckpointError, match=f"cannot look for checkpoints in {own}: InvalidAccessKeyId"):
        trained(spec(tmp_path / "run", **kept), digits, resume=tmp_path / "run")
    monkeypatch.setattr(bucket, "gone", False)
    _, found = trained(spec(tmp_path / "run", **kept), digits, resume=tmp_path / "run")
    assert_same_bits(found, weights)


def test_an_unknown_kind_of_place_is_refused_with_what_to_install():
    with pytest.raises(CheckpointError, match=r"checkpoint.dir is 's3://bucket/run', .*distfa\[s3\]"):
        Store("s3://bucket/run", keep=1)


def test_shards_are_plain_safetensors(digits, tmp_path):
    with pytest.raises(Stopped):
        trained(spec(tmp_path / "cut"), digits, observer=stopping_at(9))
    shard = safetensors.torch.load_file(tmp_path / "cut" / "checkpoints" / "step-00000008" / "layer-001.safetensors")
    assert {"model.0.weight", "optimizer.0.weight.exp_avg", "teacher", "updates"} <= shard.keys()
    shutil.rmtree(tmp_path / "cut")
