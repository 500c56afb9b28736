"""Shards: the same samples in every format, and a run on them is the run on the same data in memory, row for row."""

import dataclasses
import io
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from runs import assert_same_bits

import distfa
from distfa.data import load
from distfa.data.shards.files import ShardFiles
from distfa.data.shards.formats import INPUTS
from distfa.data.shards.index import INDEX
from distfa.errors import DataError, Interrupted
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.settings import parse_spec

SIZES = (20, 23, 11, 29, 7)  # samples of every shard


def samples(shape=(12,), dtype=np.uint8):
    rng = np.random.default_rng(0)
    made = [(rng.integers(0, 256, (n, *shape)).astype(dtype), rng.integers(0, 3, n)) for n in (*SIZES, 30)]
    return {f"train/{number}": pair for number, pair in enumerate(made[:-1])} | {"test/0": made[-1]}


def write_npz(path, x, y, label="y"):
    np.savez(path, x=x, **{label: y})


def write_parquet(path, x, y, label="label"):
    parquet.write_table(pa.table({"x": list(x.reshape(len(x), -1)), label: y}), path)


def write_tar(path, x, y, label="cls"):
    with tarfile.open(path, "w") as tar:
        for number, (one, answer) in enumerate(zip(x, y, strict=True)):
            npy = io.BytesIO()
            np.save(npy, one)
            for name, content in (("npy", npy.getvalue()), ("txt", b"a caption"), (label, str(answer).encode())):
                about = tarfile.TarInfo(f"{number:04}.{name}")
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))


FORMATS = {"npz": write_npz, "parquet": write_parquet, "tar": write_tar}


def write(folder, form="npz", **options):
    for name, (x, y) in samples(**options).items():
        path = folder / f"{name}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        FORMATS[form](path, x, y)
    return folder


def joined(split, part):
    return np.concatenate([pair[part] for name, pair in samples().items() if name.startswith(split)])


def in_memory(dataset):
    arrays = {name: np.asarray(getattr(dataset, name)) for name in ("train_x", "train_y", "test_x", "test_y")}
    return dataclasses.replace(dataset, **arrays)


def trained(dataset, folder, where, observer=lambda progress: None, resume=None, **changes):
    spec = parse_spec(
        {
            "data": {"name": "shards", "dir": str(folder), "window": 2},
            "engine": "serial",
            "epochs": 3,
            "batch_size": 16,
            "model": {"hidden": [8]},
            "run_dir": str(where),
            **changes,
        }
    )
    dataset = spec.data.load() if dataset is None else dataset
    return run(spec, subject_for(spec, dataset).network, dataset, observer=observer, resume=resume)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_samples_in_the_same_order(tmp_path, form):
    dataset = load("shards", directory=write(tmp_path, form), window=2)
    assert dataset.shards == SIZES
    rows = np.random.default_rng(1).permutation(sum(SIZES))
    np.testing.assert_array_equal(dataset.train_x[rows], joined("train", 0)[rows])
    np.testing.assert_array_equal(dataset.train_y[rows], joined("train", 1)[rows])
    np.testing.assert_array_equal(dataset.test_x, joined("test", 0))
    assert dataset.train_x.dtype == np.uint8
    assert dataset.mean == pytest.approx(joined("train", 0).mean(), rel=1e-12)
    assert dataset.std == pytest.approx(joined("train", 0).std(), rel=1e-12)


@pytest.mark.parametrize("rows", [slice(30, 3, -2), np.arange(90) % 4 == 1, [40, 3, 3], np.array([-1, -60])])
def test_rows_are_taken_as_from_an_array(tmp_path, rows):
    dataset = load("shards", directory=write(tmp_path), window=2)
    part, expected = (each.take(rows, slice(2)) for each in (dataset, in_memory(dataset)))
    for name in ("train_x", "train_y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))


def test_private_training_draws_from_shards_what_it_draws_from_memory(tmp_path):
    folder = write(tmp_path / "data")
    private = {"privacy": {"epsilon": 8, "clip": 1.0, "seeded": True}, "epochs": 1}
    dataset = load("shards", directory=folder, window=2).scaled(128.0, 64.0)
    _, weights = trained(dataset, folder, tmp_path / "lazy", **private)
    _, expected = trained(in_memory(dataset), folder, tmp_path / "whole", **private)
    assert_same_bits(weights, expected)


def test_a_run_on_shards_is_the_run_on_the_same_data_in_memory(tmp_path):
    folder = write(tmp_path / "data")
    dataset = load("shards", directory=folder, window=2)
    lazy, weights = trained(dataset, folder, tmp_path / "lazy")
    whole, expected = trained(in_memory(dataset), folder, tmp_path / "whole")
    assert_same_bits(weights, expected)
    assert (lazy.train_loss, lazy.test_loss, lazy.test_accuracy) == (
        whole.train_loss,
        whole.test_loss,
        whole.test_accuracy,
    )


def test_a_run_that_was_cut_short_goes_on_in_the_middle_of_a_window(tmp_path):
    folder = write(tmp_path / "data")
    often = {"checkpoint": {"every": 1, "seconds": 0.0}}
    _, expected = trained(None, folder, tmp_path / "whole", **often)

    def stop(progress):
        if progress.tally.steps == 9:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        trained(None, folder, tmp_path / "cut", observer=stop, **often)
    _, weights = trained(None, folder, tmp_path / "cut", resume=tmp_path / "cut", **often)
    assert_same_bits(weights, expected)


def test_each_shard_is_read_once_an_epoch_and_only_a_window_stays_in_memory(tmp_path, monkeypatch):
    folder = write(tmp_path / "data")
    dataset = load("shards", directory=folder, window=2)
    read, most = [], []
    own = ShardFiles.read

    def counting(files, name, want):
        read.append((name, want))
        if want == INPUTS and name.startswith("train"):
            most.append(len(dataset.train_x._read))
        return own(files, name, want)

    monkeypatch.setattr(ShardFiles, "read", counting)
    trained(dataset, folder, tmp_path / "run", epochs=1)
    assert sorted(set(read)) == sorted(read)  # each once
    assert len(read) == 2 * (len(SIZES) + 1)
    assert max(most) < 2  # before another is read


def test_the_index_is_made_once_and_again_when_a_shard_has_changed(tmp_path, monkeypatch):
    folder = write(tmp_path)
    first = load("shards", directory=folder)
    with monkeypatch.context() as patched:
        patched.setattr(ShardFiles, "read", None)
        assert load("shards", directory=folder).digest == first.digest
    x, y = samples()["train/1"]
    write_npz(folder / "train" / "1.npz", x[:-1], y[:-1])
    assert load("shards", directory=folder).shards == (20, 22, 11, 29, 7)
    (folder / INDEX).write_text((folder / INDEX).read_text().replace('"version": 1', '"version": 0'))
    assert load("shards", directory=folder).shards == (20, 22, 11, 29, 7)
    assert '"version": 1' in (folder / INDEX).read_text()
    (folder / INDEX).write_text((folder / INDEX).read_text()[:40])
    assert load("shards", directory=folder).digest != first.digest


def test_a_url_of_fsspec_is_a_place(tmp_path):
    files = fsspec.filesystem("memory")
    write(tmp_path)
    files.put(str(tmp_path / "train"), "/shards-of-a-test/train", recursive=True)
    dataset = load("shards", directory="memory://shards-of-a-test")
    np.testing.assert_array_equal(dataset.train_y, joined("train", 1))
    assert len(dataset.test_x) == 0


def test_columns_of_a_table_stand_side_by_side(tmp_path):
    (tmp_path / "train").mkdir()
    table = {"age": np.array([1.5, 2, 3]), "kind": np.array([0, 1, 1]), "sizes": [[1.0, 2], [3, 4], [5, 6]]}
    parquet.write_table(pa.table(table), tmp_path / "train" / "0.parquet")
    dataset = load("shards", directory=tmp_path, label="kind")
    np.testing.assert_array_equal(dataset.train_x, [[1.5, 1, 2], [2, 3, 4], [3, 5, 6]])


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_images_have_their_channels_first(tmp_path, form):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    encoded = []
    for each in pixels:
        file = io.BytesIO()
        image.fromarray(each).save(file, "png")
        encoded.append(file.getvalue())
    if form == "parquet":
        table = {"image": [{"bytes": each, "path": None} for each in encoded], "label": [0, 1, 0, 1]}
        parquet.write_table(pa.table(table), tmp_path / "train.parquet")
    else:
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            for number, each in enumerate(encoded):
                for name, content in (("png", each), ("cls", str(number % 2).encode())):
                    about = tarfile.TarInfo(f"{number}.{name}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    dataset = load("shards", directory=tmp_path)
    assert dataset.shape == (3, 5, 6)
    np.testing.assert_array_equal(np.asarray(dataset.train_x).reshape(4, 3, 5, 6), pixels.transpose(0, 3, 1, 2))


def test_given_figures_scale_shards_as_they_scale_arrays(tmp_path):
    dataset = load("shards", directory=write(tmp_path)).scaled(100.0, 50.0)
    x = (joined("train", 0) - 100.0) / 50.0
    assert dataset.reading.seen == pytest.approx((x.mean(), x.std(), 255), rel=1e-6)
    with pytest.raises(DataError, match="std"):
        dataset.scaled(0.0, 0.0)


def test_a_fit_evaluates_and_predicts_on_its_shards_and_the_run_knows_them(tmp_path):
    folder = write(tmp_path / "data")
    net = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    trainer = distfa.Trainer(net, engine="serial", epochs=1, run_dir=tmp_path / "run")
    dataset = load("shards", directory=folder, window=3)
    result = trainer.fit(dataset)
    assert trainer.evaluate(dataset).loss == pytest.approx(result.test_loss)
    assert trainer.predict(dataset).shape[0] == 30
    assert distfa.evaluate(tmp_path / "run", model=net).rows == 30


def broken(what, folder):
    x, y = samples()["train/0"]
    if what == "other shape":
        np.savez(folder / "train" / "9.npz", x=x[:, :5], y=y)
    elif what == "no label":
        np.savez(folder / "train" / "9.npz", x=x)
    elif what == "cut short":
        file = folder / "train" / "3.npz"
        file.write_bytes(file.read_bytes()[:200])
    elif what == "negative":
        np.savez(folder / "train" / "9.npz", x=x, y=y - 1)
    elif what == "not finite":
        np.savez(folder / "train" / "0.npz", x=np.full((3, 12), np.nan), y=y[:3])
    elif what == "several labels":
        np.savez(folder / "train" / "9.npz", x=x, y=np.stack([y, y], 1))
    elif what == "tar":
        (folder / "train" / "9.tar").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("other shape", r"9\.npz has samples of shape \(5,\), uint8, but those of the first shard have shape \(12,\)"),
        ("no label", r"9\.npz of .*: it has no array 'y', only x; save x and y, or set data\.label"),
        ("cut short", r"3\.npz of .* is damaged"),
        ("negative", r"9\.npz: labels are -1 to 1; number classes from 0"),
        ("not finite", r"0\.npz: inputs holds NaN"),
        ("several labels", r"9\.npz: labels have shape \(20, 2\)"),
        ("tar", r"9\.tar of .* is damaged"),
    ],
)
def test_a_shard_that_cannot_be_used_is_named(tmp_path, what, said):
    broken(what, write(tmp_path))
    with pytest.raises(DataError, match=said):
        load("shards", directory=tmp_path)


def test_a_tar_whose_sample_lacks_a_part_is_refused(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in ("a.cls", "b.cls"):
            about = tarfile.TarInfo(name)
            about.size = 1
            tar.addfile(about, io.BytesIO(b"1"))
    with pytest.raises(DataError, match=r"sample 'a' has no inputs; each needs a number in NAME\.cls"):
        load("shards", directory=tmp_path)


def test_a_folder_without_shards_says_what_they_are_called(tmp_path):
    with pytest.raises(DataError, match=r"no shards to train on: files whose path there begins with 'train'"):
        load("shards", directory=tmp_path)


def test_a_shard_that_changes_under_a_run_ends_it(tmp_path):
    dataset = load("shards", directory=write(tmp_path), window=1)
    x, y = samples()["train/1"]
    write_npz(tmp_path / "train" / "1.npz", x[:-1], y[:-1])
    with pytest.raises(DataError, match=r"the file has changed"):
        dataset.train_x[np.arange(20, 25)]


def test_a_label_that_the_index_has_not_seen_ends_the_run(tmp_path):
    dataset = load("shards", directory=write(tmp_path), window=1)
    x, y = samples()["train/1"]
    write_npz(tmp_path / "train" / "1.npz", x, y + 1)
    with pytest.raises(DataError, match=r"labels are 1 to 3, but the index .* says at most 2: the file has changed"):
        dataset.train_y[np.arange(20, 25)]


def test_a_node_that_does_not_reach_the_shards_says_so(tmp_path):
    dataset = load("shards", directory=write(tmp_path), window=1)
    (tmp_path / "train" / "0.npz").rename(tmp_path / "elsewhere.npz")
    with pytest.raises(DataError, match=r"train/0\.npz of .* cannot be opened on .*: every node that hosts"):
        dataset.train_x[np.arange(2)]
