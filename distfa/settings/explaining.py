"""Explains a run spec: the meaning of every key, and what is wrong with a spec that was refused."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from distfa.settings.meanings import meanings
from distfa.settings.schema import RunSpec
from distfa.text.redact import redact_all
from distfa.text.words import find_nearest, not_among


def dump_spec(spec: RunSpec, *, explain: bool = False, kept: bool = False) -> str:
    """The resolved spec as YAML, every key with its value.

    Args:
        spec: What to write.
        explain: Whether keys are followed by their meaning.
        kept: Whether it is for a file that stays, which is to have no passwords.
    """
    raw = spec.model_dump(mode="json")
    text = yaml.safe_dump(redact_all(raw) if kept else raw, sort_keys=False)
    return _add_descriptions(text) if explain else text


def explain(error: ValidationError) -> str:
    """One line about the first problem, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if (key := ".".join(map(str, first["loc"][:2]))) in _CHOICES:  # each kind of value has a problem of its own
        return f"{key} is {first['input']!r}, but it must be {_CHOICES[key]}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        text = f"unknown key {where!r} in the spec{_hint(where)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "literal_error":
            message = not_among(str(first["input"]), re.findall("'(.*?)'", first["ctx"]["expected"]))
        if isinstance(first["input"], dict):  # a rule between keys, which names them itself
            text = f"{where}: {message}" if where else message
        elif first["type"] in _NO_PART and (within := keys_of(where)):
            text = f"{where} is {first['input']!r}; it is a section of the spec, with the keys {', '.join(within)}: "
            text += f"{where}.{within[0]}=..."
        elif message.startswith("is "):
            text = f"{where}: {first['input']!r} {message}"
        else:
            text = f"{where} is {first['input']!r}: {message[:1].lower()}{message[1:]}"
    more = len(problems) - 1
    return f"{text} (and {more} more)" if more else text


_CHOICES = {"ray.workers": "a number of workers, auto, or the layers of each, as in [[1, 2], [3]]"}
_NO_PART = ("dataclass_type", "model_type", "model_attributes_type", "dict_type")
_MEANT = {
    **dict.fromkeys(("lr", "learning_rate", "base_lr", "eta"), "optimizer.lr"),
    **dict.fromkeys(("momentum", "betas", "eps", "weight_decay", "nesterov"), "optimizer.{}"),
    **dict.fromkeys(("wd", "decay", "l2"), "optimizer.weight_decay"),
    **dict.fromkeys(("warmup", "warmup_steps"), "optimizer.warmup_steps"),
    **dict.fromkeys(("lr_schedule", "lr_scheduler", "scheduler"), "optimizer.schedule"),
    **dict.fromkeys(("clip", "clip_norm", "gradient_clip_val", "max_grad_norm", "clipnorm"), "optimizer.clip_norm"),
    **dict.fromkeys(("clip_value", "clipvalue"), "optimizer.clip_value"),
    **dict.fromkeys(("optim", "optimiser", "opt"), "optimizer"),
    **dict.fromkeys(("class_weight", "weights"), "class_weights"),
    **dict.fromkeys(("smoothing", "label_smooth"), "label_smoothing"),
    **dict.fromkeys(("epoch", "epochs_", "num_epochs", "n_epochs", "max_epochs", "nb_epoch"), "epochs"),
    **dict.fromkeys(("steps", "iterations", "num_steps"), "max_steps"),
    **dict.fromkeys(("bs", "batch", "batchsize", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("microbatches", "micro_batch", "chunks", "num_microbatches"), "micro_batches"),
    **dict.fromkeys(("hidden", "hidden_sizes", "widths", "hidden_layer_sizes"), "model.hidden"),
    **dict.fromkeys(("activation", "bias", "slope"), "model.{}"),
    **dict.fromkeys(("dataset", "data_name"), "data.name"),
    **dict.fromkeys(("data_dir", "root", "data_path"), "data.dir"),
    **dict.fromkeys(("limit",), "data.limit"),
    **dict.fromkeys(("address",), "ray.address"),
    **dict.fromkeys(("random_state", "random_seed", "manual_seed"), "seed"),
    **dict.fromkeys(("criterion", "loss_fn", "objective"), "loss"),
    **dict.fromkeys(("precision",), "dtype"),
    **dict.fromkeys(("output_dir", "log_dir", "default_root_dir", "rundir"), "run_dir"),
    **dict.fromkeys(("accelerator",), "device"),
    **dict.fromkeys(("rank", "gain", "fanout", "renew", "inside", "active_only"), "feedback.{}"),
    **dict.fromkeys(("compression", "codecs"), "codec"),
    **dict.fromkeys(("method", "algorithm", "feedback_rule", "learning_rule"), "rule"),
    **dict.fromkeys(("num_cpus", "cpus"), "ray.resources.cpus"),
    **dict.fromkeys(("num_gpus", "gpus"), "ray.resources.gpus"),
    **dict.fromkeys(("interval", "frequency", "every_n_steps"), "checkpoint.every"),
    **dict.fromkeys(("path", "directory", "folder"), "checkpoint.dir"),
    **dict.fromkeys(("timeout", "deadline"), "wire.deadline_seconds"),
}
_OF_TRAINER = ("callbacks", "scheduler", "scheduler_by", "verbose")
_ELSEWHERE = {
    **dict.fromkeys(("patience", "early_stopping"), "Trainer(..., callbacks=distfa.EarlyStopping(patience=3))"),
    **dict.fromkeys(("validation_data", "val_data", "test_data", "x", "y"), "fit((x, y), (test_x, test_y))"),
    **dict.fromkeys(("resume", "resume_from_checkpoint", "ckpt_path"), "fit(..., resume=RUN_DIR)"),
    **dict.fromkeys(("metrics",), "Trainer.evaluate(data), which returns the metrics that suit the targets"),
}


def _hint(unknown: str) -> str:
    """A hint: the key that was meant, if known; else a key with nearly the same letters; else how to list all."""
    part, _, last = unknown.rpartition(".")
    if last in _OF_TRAINER:
        return f"; {last} is an argument of distfa.Trainer, not a key of a spec"
    if last in _ELSEWHERE:
        return f"; that is {_ELSEWHERE[last]} in Python"
    if part and (within := keys_of(part)):
        return _hint_within(part, last, within)
    if meant := _MEANT.get(last.lower()):
        key = meant.format(last.lower())
        python = f" (in Python {key.replace('.', '__')}=...)" if "." in key else ""
        return f"; did you mean {key!r}{python}?"
    near = find_nearest(unknown, _keys(), cutoff=0.75) or _near_end(last, _keys(), cutoff=0.8)
    return f"; did you mean {near!r}?" if near else "; 'distfa spec' lists all keys"


def _hint_within(part: str, last: str, within: list[str]) -> str:
    """A hint for a part of the spec: its key that was meant; else a key of that name elsewhere; else all its keys."""
    meant = _MEANT.get(last.lower(), "").format(last.lower())
    near = meant if meant.startswith(f"{part}.") else _near_end(last, _below(part), cutoff=0.75)
    if not near and last in keys_of(""):
        near = last
    return f"; did you mean {near!r}?" if near else f"; {part} has {', '.join(within)}"


def _near_end(last: str, keys: list[str], *, cutoff: float) -> str | None:
    """The key whose last word is nearly this one."""
    ends = {key.rpartition(".")[2]: key for key in reversed(keys)}
    end = find_nearest(last, ends, cutoff=cutoff)
    return None if end is None else ends[end]


def _below(part: str) -> list[str]:
    return [key for key in _keys() if key.startswith(f"{part}.")]


def keys_of(part: str) -> list[str]:
    """Names of the keys directly in a part of the spec; of the whole spec for an empty name."""
    found = _below(part) if part else _keys()
    return [name for key in found if "." not in (name := key[len(part) + 1 :] if part else key)]


_COMMENT = 41  # columns of a comment, so that a line has 80
_NAMES = ("Ray", "Adam")


def _add_descriptions(text: str) -> str:
    """Append each key's description to its line; a long one continues on the lines below."""
    meanings = _descriptions()
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        key = line.strip().partition(":")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], key]
        meaning = meanings.get(".".join(path)) if not line.lstrip().startswith("-") else None
        told = textwrap.wrap(meaning, _COMMENT, break_long_words=False, break_on_hyphens=False) if meaning else []
        lines.append(f"{line:<32}  # {told[0]}" if told else line)
        lines += [f"{'':<32}  #   {more}" for more in told[1:]]
    return "\n".join(lines) + "\n"


def _descriptions() -> dict[str, str]:
    """The meaning of every dotted key."""
    return {key: _to_comment(meaning) for key, meaning in _walk(RunSpec) if meaning}


def _keys() -> list[str]:
    """Every dotted key of the spec."""
    return [key for key, _ in _walk(RunSpec)]


def _walk(part: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, meaning) of a part of the spec and all parts in it; a part's meaning is its first line."""
    for name, annotation, meaning in _fields(part):
        inner = annotation if isinstance(annotation, type) and _has_fields(annotation) else None
        yield f"{prefix}{name}", meaning or (str(inner.__doc__).partition("\n")[0] if inner else "")
        if inner:
            yield from _walk(inner, f"{prefix}{name}.")


def _fields(part: Any) -> list[tuple[str, Any, str]]:
    """(name, type, description): of a pydantic model, or of a dataclass that says them under Attributes."""
    if issubclass(part, BaseModel):
        return [(name, info.annotation, info.description or "") for name, info in part.model_fields.items()]
    hints, said = get_type_hints(part), meanings(part)
    return [(field.name, hints[field.name], said.get(field.name, "")) for field in dataclasses.fields(part)]


def _to_comment(meaning: str) -> str:
    """Without the capital at the start and the full stop; an acronym or a name keeps its capital."""
    text = meaning.strip().rstrip(".").replace("``", "")
    return text[:1].lower() + text[1:] if text[1:2].islower() and not text.startswith(_NAMES) else text


def _has_fields(annotation: type) -> bool:
    return issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
