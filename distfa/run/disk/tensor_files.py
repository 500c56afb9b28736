"""Tensors as the bytes of a safetensors file, and back: every dtype, every order in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from distfa.core.modules.attributes import KEY

_PAIRS = "complex"  # in the metadata: the keys whose last axis holds real and imaginary part
_ATTRIBUTES = "attributes"  # in the metadata: what else a module keeps, which is under none of its keys


def tensors_to_bytes(tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> bytes:
    """The file; it holds no memory twice, and numbers in their order.

    The format knows complex64 only; other complex numbers are kept as pairs, and the metadata say which those are.
    Attributes of modules (``core.attributes``) are in the metadata, so that the keys are those of the model.

    Args:
        tensors: By key.
        said: Metadata to keep with them.
    """
    pairs = [key for key, value in tensors.items() if value.is_complex() and value.dtype is not torch.complex64]
    found = {key: torch.view_as_real(value) if key in pairs else value for key, value in tensors.items()}
    attributes = {key: found.pop(key).cpu().numpy().tobytes() for key in list(found) if key.startswith(KEY)}
    about = {**(said or {}), **({_PAIRS: json.dumps(pairs)} if pairs else {})}
    if attributes:
        about[_ATTRIBUTES] = json.dumps({key: base64.b64encode(value).decode() for key, value in attributes.items()})
    return safetensors.torch.save(_separate(found), metadata=about or None)


def tensors_from_bytes(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        safetensors.SafetensorError: It is damaged, or no such file.
    """
    found = safetensors.torch.load(content)
    about = metadata(content)
    for key in json.loads(about.get(_PAIRS, "[]")):
        found[key] = torch.view_as_complex(found[key])
    for key, value in json.loads(about.get(_ATTRIBUTES, "{}")).items():
        found[key] = torch.frombuffer(bytearray(base64.b64decode(value)), dtype=torch.uint8)
    return found


def metadata(content: bytes) -> dict[str, str]:
    """The metadata of a file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, str] = header.get("__metadata__", {})
    return found


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own; only what must be is copied."""
    found, known = dict[str, Tensor](), set[int]()
    for key, value in tensors.items():
        part = value.detach().cpu().contiguous()
        place = part.untyped_storage().data_ptr()
        found[key] = part.clone() if place in known else part
        known.add(place)
    return found
