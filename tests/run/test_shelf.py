"""A checkpoint says whose it is: runs share a place without taking or removing what is another's, and a run that has
written checkpoints never begins anew because they are not found.
"""

import json
import shutil

import pytest
from losses_of_layers import lose_a_layer_once
from runs import assert_same_bits
from test_checkpoint import Stopped, metrics, snapshots, spec, stopping_at, trained

from distfa import data
from distfa.errors import CheckpointError, RunDirError
from distfa.run.disk.checkpoint import Store
from distfa.run.disk.run_dir import read_about
from distfa.run.disk.shelf import Shelf


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


def placed(where, place, **changes):
    return spec(where, checkpoint={"every": 4, "seconds": 0, "keep": 2, "dir": str(place)}, **changes)


def cut_short(s, dataset, step=11):
    with pytest.raises(Stopped):
        trained(s, dataset, observer=stopping_at(step))


def test_runs_that_share_a_place_go_on_from_their_own_and_remove_none_of_the_others(digits, tmp_path):
    """Both once took the latest there, and a run ended with the other's weights."""
    _, weights = trained(spec(tmp_path / "whole", seed=5), digits)
    place = tmp_path / "shared"
    first, second = placed(tmp_path / "a", place, seed=5), placed(tmp_path / "b", place, seed=6)
    cut_short(first, digits, 11)
    cut_short(second, digits, 27)
    assert [len(list(folder.iterdir())) for folder in place.iterdir()] == [2, 2]
    _, found = trained(first, digits, resume=tmp_path / "a")
    assert_same_bits(found, weights)
    mine = place / read_about(tmp_path / "b")["run_id"]
    assert sorted(folder.name for folder in mine.iterdir()) == ["step-00000020", "step-00000024"]


def test_a_copy_of_a_run_directory_does_not_go_on_in_the_place_of_its_original(digits, tmp_path):
    """Each would have taken the other's checkpoints for its own, and removed them."""
    place, original, copy = tmp_path / "shared", tmp_path / "run", tmp_path / "copy"
    _, weights = trained(spec(tmp_path / "whole"), digits)
    cut_short(placed(original, place), digits)
    shutil.copytree(original, copy)
    before = (copy / "run.json").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"copy is a copy of the run in .*run, and both would write .*shared; res"
    ):
        trained(placed(copy, place), digits, resume=copy)
    assert (copy / "run.json").read_bytes() == before
    kept = sorted(place.rglob("*"))
    assert_same_bits(trained(placed(copy, tmp_path / "apart"), digits, resume=copy)[1], weights)
    assert sorted(place.rglob("*")) == kept
    moved = tmp_path / "moved"
    original.rename(moved)
    assert_same_bits(trained(placed(moved, place), digits, resume=moved)[1], weights)


def test_a_recovery_takes_its_own_where_another_run_has_a_later_one(digits, tmp_path, monkeypatch):
    _, weights = trained(spec(tmp_path / "whole", seed=5), digits)
    place = tmp_path / "shared"
    cut_short(placed(tmp_path / "other", place, seed=6), digits, 27)
    lose_a_layer_once(monkeypatch, at=11)
    result, found = trained(placed(tmp_path / "run", place, seed=5), digits)
    assert [entry["step"] for entry in result.recoveries] == [8]
    assert_same_bits(found, weights)


def test_a_run_whose_checkpoints_are_not_found_is_refused_and_loses_nothing(digits, tmp_path):
    """A relative checkpoint.dir, seen from another folder, once meant: begin at step 0."""
    s = placed(tmp_path / "run", tmp_path / "kept")
    cut_short(s, digits)
    shutil.move(tmp_path / "kept", tmp_path / "elsewhere")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "run.json", "spec.yaml")}
    with pytest.raises(CheckpointError, match=r"wrote checkpoints up to step 8, .* was not restarted, and nothing"):
        trained(s, digits, resume=tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    _, weights = trained(spec(tmp_path / "whole"), digits)
    _, found = trained(placed(tmp_path / "run", tmp_path / "elsewhere"), digits, resume=tmp_path / "run")
    assert_same_bits(found, weights)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(digits, tmp_path):
    cut_short(spec(tmp_path / "run"), digits)
    for shard in (tmp_path / "run" / "checkpoints").rglob("layer-001*"):
        shard.write_bytes(b"torn")
    size = (tmp_path / "run" / "metrics.jsonl").stat().st_size
    with pytest.raises(CheckpointError, match="there is no complete one in .*checkpoints. It was not restarted"):
        trained(spec(tmp_path / "run"), digits, resume=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size == size


def test_a_relative_place_is_found_from_any_folder(digits, tmp_path, monkeypatch):
    _, weights = trained(spec(tmp_path / "whole"), digits)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    s = placed("run", "kept")
    monkeypatch.chdir(tmp_path / "here")
    cut_short(s, digits)
    monkeypatch.chdir(tmp_path / "there")
    _, found = trained(s, digits, resume=tmp_path / "here" / "run")
    assert_same_bits(found, weights)
    assert not list((tmp_path / "there").iterdir())


def test_a_process_that_goes_to_another_folder_keeps_writing_to_its_run(digits, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)

    def leave(progress):
        monkeypatch.chdir(tmp_path / "there")

    trained(placed("run", "kept"), digits, observer=leave)
    assert read_about(tmp_path / "run")["status"] == "finished"
    assert not list((tmp_path / "there").iterdir())


def as_of_an_earlier_version(run, place):
    """Turn a run and its checkpoints into what format 1 was: in the place itself, and nobody's."""
    about = json.loads((run / "run.json").read_text())
    own = place / about["run_id"]
    for folder in own.iterdir():
        manifest = folder / "manifest.json"
        noted = json.loads(manifest.read_text().partition("\n")[2])
        del noted["run"], noted["stop"]
        shutil.move(folder, place / folder.name)
        store = Store(str(place), keep=9)
        text = json.dumps(noted | {"format": 1})
        from hashlib import sha256

        digest = sha256(text.encode()).hexdigest()
        (place / folder.name / "manifest.json").write_text(f"{digest}\n{text}\n")
        assert store.notes(noted["step"])["format"] == 1
    own.rmdir()
    for key in ("checkpoint", "folder", "earlier_fits", "start"):
        about.pop(key, None)
    (run / "run.json").write_text(json.dumps(about))


def test_a_run_of_an_earlier_version_goes_on_from_its_own_in_a_shared_place(digits, tmp_path):
    _, weights = trained(spec(tmp_path / "whole", seed=5), digits)
    place = tmp_path / "shared"
    for name, seed, step in (("a", 5, 11), ("b", 6, 27)):
        cut_short(placed(tmp_path / name, place, seed=seed), digits, step)
        as_of_an_earlier_version(tmp_path / name, place)
    _, found = trained(placed(tmp_path / "a", place, seed=5), digits, resume=tmp_path / "a")
    assert_same_bits(found, weights)
    shutil.rmtree(place)
    with pytest.raises(CheckpointError, match="may have written checkpoints, but there is no complete one"):
        trained(placed(tmp_path / "b", place, seed=6), digits, resume=tmp_path / "b")


def test_what_is_anothers_is_refused_by_name(tmp_path):
    Shelf("theirs", Store(str(tmp_path), keep=2)).write(8, snapshots(1), {})
    (error,) = Shelf("mine", Store(str(tmp_path), keep=2)).latest()
    assert "the checkpoint of step 8 in " in str(error)
    assert str(error).endswith("belongs to run theirs, not to run mine")


def test_an_earlier_one_that_is_late_removes_no_later_one(tmp_path):
    store = Store(str(tmp_path), keep=1)
    store.write(20, snapshots(1), {})
    store.write(10, snapshots(1), {})
    assert store.steps() == [20, 10]
    store.write(30, snapshots(1), {})
    assert store.steps() == [30]


def test_a_run_without_a_checkpoint_yet_begins_anew_only_as_it_began(digits, tmp_path):
    cut_short(spec(tmp_path / "run"), digits, 2)
    size = (tmp_path / "run" / "metrics.jsonl").stat().st_size
    with pytest.raises(CheckpointError, match=r"optimizer.lr is 0.5 now but was 0.001"):
        trained(spec(tmp_path / "run", optimizer={"lr": 0.5}), digits, resume=tmp_path / "run")
    with pytest.raises(CheckpointError, match="the data are not those of the run"):
        trained(spec(tmp_path / "run"), data.load("digits", limit=299), resume=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size == size


def test_data_that_moved_are_the_same_data(digits, tmp_path):
    cut_short(spec(tmp_path / "run", data={"name": "npz", "dir": "/old/place/digits.npz"}), digits)
    moved = spec(tmp_path / "run", data={"name": "npz", "dir": "/new/place/digits.npz"})
    result, _ = trained(moved, digits, resume=tmp_path / "run")
    assert result.steps == 40


def test_records_that_a_power_failure_took_are_told_of_and_what_follows_is_whole(digits, tmp_path, caplog):
    cut_short(spec(tmp_path / "run"), digits)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:700])
    trained(spec(tmp_path / "run"), digits, resume=tmp_path / "run")
    assert "metrics.jsonl lacks records before step 8" in caplog.text
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_run_without_its_file_of_records_is_refused_with_the_way_out(digits, tmp_path):
    cut_short(spec(tmp_path / "run"), digits)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(RunDirError, match=r"cannot open .*metrics.jsonl, .* an empty file will do"):
        trained(spec(tmp_path / "run"), digits, resume=tmp_path / "run")


def test_a_place_that_cannot_be_opened_leaves_no_run_behind(digits, tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint.dir is 'nothing://x'"):
        trained(placed(tmp_path / "run", "nothing://x"), digits)
    assert not (tmp_path / "run").exists()
