"""Exports a finished run as one file that does not need distfa: for torch or ONNX, with normalisation inside."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from distfa import models
from distfa.core.base.model import Network
from distfa.core.modules.attributes import copy_module, load_model_state
from distfa.data.reading import Reading
from distfa.errors import ModelError, RunDirError, SpecError, UsageError
from distfa.files import save_whole
from distfa.intake.subject import in_dtype
from distfa.own import finding
from distfa.run.disk import run_dir as run_dirs
from distfa.run.disk.weights import read_weights, require_reading
from distfa.settings import GIVEN, load_spec
from distfa.text import strict_json
from distfa.text.words import not_among

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32, "float64": torch.float64}


class FromRaw(nn.Module):
    """The trained model for raw samples: (x - mean) / std, then the model.

    Args:
        model: The model, in evaluation mode.
        mean: (1,) or (d,), in raw units.
        std: As ``mean``.
        shape: Shape of one sample as the model takes it.
        tokens: Whether samples are integer tokens, which are used as they are.
    """

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor, shape: tuple[int, ...], *, tokens: bool) -> None:
        super().__init__()
        self.model, self._shape, self._tokens = model, shape, tokens
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, (n, ..., C), of raw samples (n, ...)."""
        if self._tokens:
            tokens: Tensor = self.model(x.to(torch.int64).reshape(-1, *self._shape))
            return tokens
        flat = (x.to(self.mean.dtype).flatten(1) - self.mean) / self.std
        found: Tensor = self.model(flat.reshape(-1, *self._shape))
        return found


def export_run(
    run_dir: str | Path, out: str | Path | None = None, *, format: str | None = None, model: nn.Module | None = None
) -> Path:
    """Write the model of a finished run, with its weights and its normalisation, as one file.

    ``torch.export.load(file).module()(x)`` gives the outputs for raw samples, without distfa and without the code of
    the model. The extra file "inputs.json" inside says what inputs and outputs mean; in ONNX it is the metadata
    "distfa".

    Args:
        run_dir: The directory of a run that has weights.
        out: The file to write; ``model.pt2`` or ``model.onnx`` in the run directory if not given.
        format: ``torch`` or ``onnx`` (``pip install distfa[onnx]``); None: what the name of ``out`` ends in, or torch.
        model: The module that was trained, if it was an object in Python.

    Raises:
        UsageError: The format is unknown, or is not the one that ``out`` ends in.
        RunDirError: There is no run, it has no weights, or the file cannot be written; then there is none.
        SpecError: The model was an object in Python, and it was not given.
        ModelError: The model cannot be exported.
    """
    made = format_of(format, out)
    path = run_dirs.expand_path(run_dir)
    whole, example, said = _from_raw(path, model)
    target = path / f"model{FORMATS[made]}" if out is None else run_dirs.expand_path(out)
    content = _onnx(whole, example, said) if made == "onnx" else _torch(whole, example, said)
    save_whole(target, content, fix="free up disk space, or name another file")
    return target


def format_of(asked: str | None, out: str | Path | None) -> str:
    """The format that was asked for, by name or by what the file is called.

    Raises:
        UsageError: It is unknown, or the two differ.
    """
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"format {asked!r} {not_among(asked, FORMATS)}")
    suffix = "" if out is None else Path(out).suffix.lower()
    meant = next((name for name, ending in FORMATS.items() if ending == suffix), None)
    if None not in (asked, meant) and asked != meant:
        raise UsageError(
            f"the format is {asked!r}, but {str(out)!r} has the extension of {meant!r}; leave the format out, or "
            f"use the extension {FORMATS[str(asked)]}"
        )
    if suffix and asked is None and meant is None:
        raise UsageError(
            f"{str(out)!r} does not determine a format; use the extension {' or '.join(FORMATS.values())}, or "
            "give a format (torch, onnx)"
        )
    return asked or meant or "torch"


def _from_raw(path: Path, model: nn.Module | None) -> tuple[FromRaw, Tensor, str]:
    """The model of a run for raw samples, two such samples, and what they mean, as JSON."""
    about, weights = run_dirs.read_about(path), read_weights(path)
    network = run_dirs.read_network(about)
    finding.also_look_in(about.get("folder") or "")
    reading = require_reading(path, about)
    dtype = load_spec(path / run_dirs.SPEC).recipe(network).dtype
    made = _model(path, network, reading) if model is None else copy_module(model, "the model")
    own = in_dtype(made, dtype)
    try:
        load_model_state(own, weights)
    except RuntimeError as exc:
        raise RunDirError(f"the weights in {path} belong to another model: {_short(exc)}") from exc
    mean, std = (torch.tensor(scale, dtype=dtype) for scale in (reading.mean, reading.std))
    whole = FromRaw(own.eval(), mean, std, network.shapes[0], tokens=network.tokens).eval()
    if network.tokens:
        example = torch.zeros(2, *network.shapes[0], dtype=torch.int64)
    else:
        example = torch.zeros(2, *reading.shape, dtype=_DTYPES[reading.dtype])
    return whole, example, strict_json.dumps(reading.as_dict())


def _torch(whole: nn.Module, example: Tensor, said: str) -> bytes:
    """The file for torch; made in memory, since torch ends the process where it cannot write one."""
    try:
        program = torch.export.export(whole, (example,), dynamic_shapes=_any_number())
    except Exception as exc:
        raise ModelError(f"torch.export cannot export the model: {_short(exc)}; save its weights alone") from exc
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"inputs.json": said})
    return content.getvalue()


def _onnx(whole: nn.Module, example: Tensor, said: str) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError as exc:
        raise UsageError("ONNX needs two more packages: pip install 'distfa[onnx]'") from exc
    try:
        program: Any = torch.onnx.export(whole, (example,), dynamic_shapes=_any_number(), dynamo=True, verbose=False)
        proto = program.model_proto
        entry = proto.metadata_props.add()
        entry.key, entry.value = run_dirs.METADATA, said
        content: bytes = proto.SerializeToString()
    except Exception as exc:
        raise ModelError(f"torch cannot export the model to ONNX: {_short(exc)}") from exc
    return content


def _any_number() -> Any:
    return ({0: torch.export.Dim("samples", min=1)},)


def _model(path: Path, network: Network, reading: Reading) -> nn.Module:
    """The module that was trained, without its weights."""
    spec = load_spec(path / run_dirs.SPEC)
    if all(layer.plain for layer in network.layers):
        return _plain(network)
    if spec.model.name == GIVEN:
        raise SpecError(
            "the run was started from Python with a model object: export it there with distfa.export(run_dir, "
            "model=model)"
        )
    positions = network.positions[0] if network.positions else 1
    shape, outputs, tokens = reading.shape, reading.outputs, reading.tokens
    samples: Any = SimpleNamespace(name=path.name, shape=shape, outputs=outputs, tokens=tokens, positions=positions)
    return models.build_model(spec.model.name, samples, **spec.model.options)


def _plain(network: Network) -> nn.Module:
    """Linears and activations, under the model's own keys.

    Raises:
        SpecError: They are nested in the user's model.
    """
    whole = nn.Sequential()
    whole.add_module("flat", nn.Flatten())
    for layer in network.layers:
        if "." in layer.key:
            raise SpecError("the model's layers are nested: export it with distfa.export(run_dir, model=model)")
        whole.add_module(layer.key, nn.Linear(layer.inputs, layer.outputs, bias=layer.bias))
        whole.add_module(f"{layer.key}_{layer.activation.name}", layer.activation.module())
    return whole


def _short(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}"
