from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest

from distfa.data import load
from distfa.data.pickled import read_pickle
from distfa.errors import DataError

FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("cifar-100-python", "cifar-100-binary"),
}
FILES = {"cifar10": [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"], "cifar100": ["train", "test"]}
PUBLISHED_MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}


def batches(name):
    """Two images and labels per file, pixels in the official channel-first order."""
    rng = np.random.default_rng(3)
    classes = 10 if name == "cifar10" else 100
    return [(rng.integers(0, 256, (2, 3072), np.uint8), rng.integers(0, classes, 2)) for _ in FILES[name]]


def batch(name, x, y):
    labels = {"labels": y.tolist()} if name == "cifar10" else {"fine_labels": y.tolist(), "coarse_labels": [1, 2]}
    return {"batch_label": "a batch", "data": x, "filenames": ["a.png", "b.png"], **labels}


def write_python(folder, name, content, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for file, (x, y) in zip(FILES[name], content, strict=True):
        (folder / file).write_bytes(pickle.dumps(batch(name, x, y), protocol))


def write_binary(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    for file, (x, y) in zip(FILES[name], content, strict=True):
        head = y[:, None] if name == "cifar10" else np.stack([np.full(2, 7), y], axis=1)
        (folder / f"{file}.bin").write_bytes(np.hstack([head.astype(np.uint8), x]).tobytes())


def assert_same(found, name, content):
    np.testing.assert_array_equal(found.train_x, np.concatenate([x for x, _ in content[:-1]]))
    np.testing.assert_array_equal(found.train_y, np.concatenate([y for _, y in content[:-1]]))
    np.testing.assert_array_equal(found.test_x, content[-1][0])
    np.testing.assert_array_equal(found.test_y, content[-1][1])
    assert (found.shape, found.train_x.dtype) == ((3, 32, 32), np.uint8)
    assert found.outputs == (10 if name == "cifar10" else 100)
    assert found.mean.shape == found.std.shape == (3072,)
    assert found.mean[::1024] / 255 == pytest.approx(PUBLISHED_MEAN[name])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("version", ["protocol 2", "protocol 4", "binary"])
def test_official_files_are_read_back_exactly(tmp_path, name, nested, version):
    content = batches(name)
    folder = tmp_path / FOLDERS[name][version == "binary"] if nested else tmp_path
    if version == "binary":
        write_binary(folder, name, content)
    else:
        write_python(folder, name, content, protocol=int(version[-1]))
    assert_same(load(name, directory=tmp_path), name, content)


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path):
    x = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    # Text is SHORT_BINSTRING ('U') as in the published files, which no Python 3 pickler writes.
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    pixels = b"T" + len(x.tobytes()).to_bytes(4, "little") + x.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + text(b"b")
        + b"\x87R(K\x01K\x02M\x00\x0c\x86"
        + dtype
        + b"\x89"
        + pixels
        + b"tb"
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x06K\x09eu.")
    found = read_pickle(path)
    np.testing.assert_array_equal(found["data"], x)
    assert found["labels"] == [6, 9]


@pytest.mark.parametrize("layout", ["channel last", "channel first", "flat"])
def test_npz_images_are_flattened_from_channel_first(tmp_path, layout):
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    given = {"channel last": x.transpose(0, 2, 3, 1), "channel first": x, "flat": x.reshape(4, -1)}[layout]
    y = np.array([[0], [9], [3], [2]])
    np.savez(tmp_path / "cifar10.npz", train_x=given, train_y=y, test_x=given[:1], test_y=y[:1])
    found = load("cifar10", directory=tmp_path)
    np.testing.assert_array_equal(found.train_x, x.reshape(4, 3072))
    assert found.train_y.tolist() == [0, 9, 3, 2]
    assert found.train_x.flags.c_contiguous


class Exploit:
    """Pickles as a call of ``os.mkdir``: unpickling it leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps({"data": Exploit(trace), "fine_labels": []}, protocol))
    (tmp_path / "test").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"train: pickle asks for (posix|nt)\.mkdir"):
        load("cifar100", directory=tmp_path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # so the file really was harmful


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(V1+1\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",  # a dotted name
        b"cnumpy\nload\n.",
        b"c_codecs\ndecode\n.",
    ],
)
def test_no_other_name_is_resolved(tmp_path, opcodes):
    (tmp_path / "train").write_bytes(opcodes)
    with pytest.raises(DataError, match="only plain arrays and containers are read"):
        read_pickle(tmp_path / "train")


def test_an_array_of_objects_is_refused(tmp_path):
    (tmp_path / "train").write_bytes(pickle.dumps({"data": np.array([None, {}])}, 4))
    with pytest.raises(DataError, match="array of type 'O8'"):
        read_pickle(tmp_path / "train")


def test_a_memo_slot_cannot_take_all_memory(tmp_path):
    (tmp_path / "train").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # the memo would be 32 GiB
    with pytest.raises(DataError, match="train: corrupt pickle, memo slot 2147483647 in 9 bytes"):
        read_pickle(tmp_path / "train")


def refusal(path):
    """What reading raised; a change inside the pixels is read."""
    try:
        return f"train: read {read_pickle(path)}"
    except DataError as error:
        return str(error)


def test_damaged_pickles_only_raise_data_errors(tmp_path):
    rng = np.random.default_rng(5)
    x = np.zeros((2, 30), np.uint8)
    whole = pickle.dumps({"data": x, "fine_labels": [1, 2]}, 2)
    path = tmp_path / "train"
    for _ in range(400):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        assert "train: " in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not the dictionary"),
        ({"fine_labels": [1]}, r"batch has no data \(it holds fine_labels\)"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, "batch has no fine_labels"),
        ({"data": np.zeros((1, 3071), np.uint8), "fine_labels": [1]}, r"data is uint8 of shape \(1, 3071\)"),
        ({"data": np.zeros((1, 3072)), "fine_labels": [1]}, "data is float64"),
        ({"data": [1], "fine_labels": [1]}, "data is list"),
        (
            {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1, 2]},
            r"labels are int64 of shape \(2,\), where 1",
        ),
        ({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [0.5]}, "labels are float64"),
        ({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [[1], 2]}, "labels are not a list of integers"),
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path, content, message):
    for file in FILES["cifar100"]:
        (tmp_path / file).write_bytes(pickle.dumps(content, 4))
    with pytest.raises(DataError, match=f"train: .*{message}"):
        load("cifar100", directory=tmp_path)


def test_a_label_out_of_range_is_refused(tmp_path):
    content = batches("cifar10")
    content[1][1][0] = 12
    write_binary(tmp_path, "cifar10", content)
    with pytest.raises(DataError, match="label 12 at row 2"):
        load("cifar10", directory=tmp_path)


@pytest.mark.parametrize("size", [0, 3072, 6145])
def test_a_truncated_binary_file_is_named(tmp_path, size):
    write_binary(tmp_path, "cifar10", batches("cifar10"))
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"data_batch_3\.bin: {size} bytes is not a whole number of 3073"):
        load("cifar10", directory=tmp_path)


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"looked for cifar10\.npz, data_batch_1, .*/cifar-10-batches-bin; extract"):
        load("cifar10", directory=tmp_path)
    write_python(tmp_path / "cifar-10-batches-py", "cifar10", batches("cifar10"))
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"data_batch_4 missing from .*cifar-10-batches-py"):
        load("cifar10", directory=tmp_path)
    with pytest.raises(DataError, match="no directory was given"):
        load("cifar10")


def test_real_images_have_the_published_scale(shared_data, tmp_path):
    packed = shared_data / "cifar100_test_packed.npz"
    if not packed.is_file() or not (shared_data / "unpack.py").is_file():
        pytest.skip(f"needs {packed} and unpack.py beside it")
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    images = unpack.load(packed)
    x, y = images["x"], images["y"]
    np.savez(tmp_path / "cifar100.npz", train_x=x[:9000], train_y=y[:9000], test_x=x[9000:], test_y=y[9000:])
    found = load("cifar100", directory=tmp_path)
    np.testing.assert_array_equal(found.train_x[7].reshape(3, 32, 32), x[7].transpose(2, 0, 1))
    channels = found.train_x.reshape(9000, 3, 1024) / 255
    # Published over other 50000 images of the same distribution.
    np.testing.assert_allclose(channels.mean((0, 2)), found.mean[::1024] / 255, atol=0.01)
    np.testing.assert_allclose(channels.std((0, 2)), found.std[::1024] / 255, atol=0.01)
