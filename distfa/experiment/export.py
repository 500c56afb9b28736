"""Exports a finished run as one file that does not need distfa: for torch or ONNX, with normalisation inside."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distfa import models
from distfa.core.model import Network
from distfa.errors import ModelError, RunDirError, SpecError, UsageError
from distfa.experiment import run_dir as run_dirs
from distfa.experiment.spec import GIVEN, load
from distfa.experiment.weights import read_weights

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


@dataclass(frozen=True)
class _Samples:
    """What a ready model must know about the data set."""

    name: str
    shape: tuple[int, ...]
    outputs: int
    tokens: int | None
    positions: int


def export_run(
    run_dir: str | Path, out: str | Path | None = None, *, form: str = "torch", model: nn.Module | None = None
) -> Path:
    """Write the model of a finished run, with its weights and its normalisation, as one file.

    ``torch.export.load(file).module()(x)`` gives the outputs for raw samples, without distfa and without the code of
    the model. The extra file "inputs.json" inside says what inputs and outputs mean.

    Args:
        run_dir: The directory of a run that has weights.
        out: The file to write; ``model.pt2`` or ``model.onnx`` in the run directory if not given.
        form: ``torch`` or ``onnx`` (``pip install distfa[onnx]``).
        model: The module that was trained, if it was an object in Python.

    Raises:
        RunDirError: There is no run, it has no weights, or the file cannot be written.
        SpecError: The model was an object in Python, and it was not given.
        ModelError: The model cannot be exported.
    """
    if form not in FORMATS:
        raise UsageError(f"the format is {form!r}; it is one of {', '.join(FORMATS)}")
    path = run_dirs.located(run_dir)
    about, weights = run_dirs.read_about(path), read_weights(path)
    network = run_dirs.read_network(about)
    raw = about.get("inputs")
    if raw is None:
        raise RunDirError(f"{path} does not say how inputs are normalised; it is of an earlier version of distfa")
    dtype = next((value.dtype for value in weights.values() if value.is_floating_point()), torch.float32)
    own = copy.deepcopy(model) if model is not None else _model(path, network, raw)
    try:
        own.to(dtype).load_state_dict(weights)
    except RuntimeError as exc:
        raise RunDirError(f"the weights in {path} are another model's: {_short(exc)}") from exc
    mean, std = (torch.tensor(raw[name], dtype=dtype) for name in ("mean", "std"))
    whole = FromRaw(own.eval(), mean, std, network.shapes[0], tokens=network.tokens).eval()
    if network.tokens:
        example = torch.zeros(2, *network.shapes[0], dtype=torch.int64)
    else:
        example = torch.zeros(2, *raw["shape"], dtype=_DTYPES[raw["dtype"]])
    target = path / f"model{FORMATS[form]}" if out is None else run_dirs.located(out)
    draft = target.with_name(f".{target.stem}.part{FORMATS[form]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(whole, example, draft, raw, form=form)
        os.replace(draft, target)
    except OSError as exc:
        raise RunDirError(f"cannot write {target}: {exc.strerror or exc}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return target


def _write(whole: nn.Module, example: Tensor, draft: Path, raw: dict[str, Any], *, form: str) -> None:
    many = ({0: torch.export.Dim("samples", min=1)},)
    if form == "onnx":
        try:
            import onnxscript  # noqa: F401
        except ImportError as exc:
            raise UsageError("ONNX needs two more packages: pip install 'distfa[onnx]'") from exc
        try:
            torch.onnx.export(
                whole, (example,), draft, dynamic_shapes=many, dynamo=True, external_data=False, verbose=False
            )
        except Exception as exc:
            raise ModelError(f"torch cannot export the model to ONNX: {_short(exc)}") from exc
        return
    try:
        program = torch.export.export(whole, (example,), dynamic_shapes=many)
    except Exception as exc:
        raise ModelError(f"torch.export cannot export the model: {_short(exc)}; save its weights alone") from exc
    torch.export.save(program, draft, extra_files={"inputs.json": json.dumps(raw)})


def _model(path: Path, network: Network, raw: dict[str, Any]) -> nn.Module:
    """The module that was trained, without its weights."""
    spec = load(path / run_dirs.SPEC)
    if all(layer.plain for layer in network.layers):
        return _plain(network)
    if spec.model.name == GIVEN:
        raise SpecError(
            "the run is from Python, whose model was an object there: export it there with "
            "distfa.export(run_dir, model=model)"
        )
    positions = network.positions[0] if network.positions else 1
    samples = _Samples(path.name, tuple(raw["shape"]), raw["outputs"], raw["tokens"], positions)
    return models.build(spec.model.name, samples)


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
