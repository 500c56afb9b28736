"""Inputs and labels of one shard: an .npz file, a Parquet file, or a tar of samples as WebDataset writes them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from distfa.data.build import to_array
from distfa.data.dataset import Array
from distfa.errors import DataError

INPUTS, LABELS = "inputs", "labels"

_IMAGES = ("png", "jpg", "jpeg", "webp", "bmp")


def read_shard(file: IO[bytes], name: str, want: str, label: str | None) -> Array:
    """One part of all samples of a shard, in order.

    Args:
        file: The shard.
        name: Its name, whose ending says in which format it is.
        want: ``INPUTS`` or ``LABELS``; the other part is skipped.
        label: What the labels are called; None for the usual name in each format.

    Raises:
        DataError: It lacks that part, or samples differ in shape.
    """
    read, usual = _FORMATS[ending(name)]
    return read(file, name, want, label or usual)


def ending(name: str) -> str:
    """The ending that says the format of a shard; empty for any other file."""
    return next(filter(name.endswith, _FORMATS), "")


def _read_npz(file: IO[bytes], name: str, want: str, label: str) -> Array:
    key = "x" if want == INPUTS else label
    with np.load(file, allow_pickle=False) as arrays:
        if key not in arrays:
            raise DataError(f"it has no array {key!r}, only {', '.join(arrays)}; save x and {label}, or set data.label")
        found: Array = arrays[key]
        return found


def _read_parquet(file: IO[bytes], name: str, want: str, label: str) -> Array:
    try:
        from pyarrow import parquet
    except ImportError as exc:
        raise DataError('Parquet needs pyarrow: pip install "distfa[shards]"') from exc
    shard = parquet.ParquetFile(file)
    columns: list[str] = shard.schema_arrow.names
    if label not in columns:
        raise DataError(f"it has no column {label!r}, only {', '.join(columns)}; set data.label to the column to learn")
    wanted = [label] if want == LABELS else [column for column in columns if column != label]
    table = shard.read(columns=wanted)
    parts = [_column(table.column(column), column) for column in wanted]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _column(column: Any, name: str) -> Array:
    """A column of numbers, of lists of numbers or of encoded images, whose bytes Hugging Face keeps in a struct."""
    values = column.combine_chunks()
    if values.null_count:
        raise DataError(f"column {name!r} lacks {values.null_count} values; fill them, or drop those rows")
    if str(values.type).startswith("struct") and values.type.get_field_index("bytes") >= 0:
        values = values.field("bytes")
    if str(values.type) in ("binary", "large_binary"):
        return _stack((_decode_image(each.as_py()) for each in values), name)
    if not hasattr(values.type, "value_type"):
        return to_array(values.to_numpy(zero_copy_only=False), f"column {name!r}")
    flat = values.flatten()
    sizes = {len(flat) // max(1, len(values))} if hasattr(values.type, "list_size") else _lengths(values)
    if len(sizes) > 1:
        raise DataError(f"column {name!r} has lists of {min(sizes)} to {max(sizes)} numbers; make them equally long")
    return to_array(flat.to_numpy(zero_copy_only=False), f"column {name!r}").reshape(len(values), -1)


def _lengths(lists: Any) -> set[int]:
    return set(np.diff(lists.offsets.to_numpy()).tolist())


def _read_tar(file: IO[bytes], name: str, want: str, label: str) -> Array:
    """Samples are files that share a name up to its first dot; of the others in a sample only one may be inputs."""
    return _stack(_parts_of_tar(file, want, label), "it")


def _parts_of_tar(file: IO[bytes], want: str, label: str) -> Iterator[Array]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        sample, seen = "", {LABELS, INPUTS}
        for member in filter(tarfile.TarInfo.isfile, tar):
            folder, _, last = member.name.rpartition("/")
            stem, _, extension = last.partition(".")
            key, part = f"{folder}/{stem}", LABELS if extension == label else INPUTS
            if part == INPUTS and extension not in _DECODERS:
                continue  # captions and the like
            if key != sample:
                _require_both(sample, seen, label)
                sample, seen = key, set()
            if part in seen:
                raise DataError(f"sample {key.strip('/')!r} has two files of {part}; keep one")
            seen.add(part)
            if part == want and (content := tar.extractfile(member)) is not None:
                yield np.asarray(int(content.read())) if part == LABELS else _DECODERS[extension](content.read())
        _require_both(sample, seen, label)


def _require_both(sample: str, seen: set[str], label: str) -> None:
    if seen != {INPUTS, LABELS}:
        raise DataError(
            f"sample {sample.strip('/')!r} has no {'label' if LABELS not in seen else 'inputs'}; each needs a number "
            f"in NAME.{label} and its inputs in NAME.npy or an image, next to each other in the tar"
        )


def _stack(parts: Iterator[Array], where: str) -> Array:
    found = list(parts)
    if len({part.shape for part in found}) > 1:
        shapes = sorted({part.shape for part in found})
        raise DataError(f"{where} has samples of shape {shapes[0]} and {shapes[-1]}; all must have the same shape")
    return np.stack(found) if found else np.empty(0)


def _decode_npy(content: bytes) -> Array:
    found: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _decode_image(content: bytes) -> Array:
    """Pixels (height, width), or (channels, height, width) as convolutions take them."""
    try:
        from PIL import Image
    except ImportError as exc:
        raise DataError('images need Pillow: pip install "distfa[shards]"') from exc
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


_DECODERS: Mapping[str, Callable[[bytes], Array]] = {"npy": _decode_npy, **dict.fromkeys(_IMAGES, _decode_image)}

_FORMATS: Mapping[str, tuple[Callable[[IO[bytes], str, str, str], Array], str]] = {
    ".npz": (_read_npz, "y"),
    ".parquet": (_read_parquet, "label"),
    ".tar": (_read_tar, "cls"),
}
