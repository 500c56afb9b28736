"""One line of metrics.jsonl as a record, checked so that figures can draw it."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from distfa.errors import RunDirError
from distfa.report.columns import Row
from distfa.text import strict_json

NEEDED = {
    "step": ("step", "loss"),
    "eval": ("step", "loss"),
    "ledger": (
        *("step", "boundary", "incoming", "change", "discretisation", "optimizer"),
        *("nonhomogeneity", "staleness", "renewal", "transport", "residual", "tolerance"),
    ),
    "probe": ("step", "cosine", "dominance", "min_dominance"),
    "traffic": ("step", "seconds"),
    "timeline": ("layer",),
    "finding": ("step",),
}
_OPTIONAL = ("accuracy", "potential", "transport_tolerance", "angle_degrees", "ratio", "loss_fall")
_NOT_FINITE = re.compile(rb'"(NaN|-?Infinity)"')
_PARTS = {"probe": ("layers", ("layer", "cosine", "a")), "timeline": ("spans", ("step", "start", "end", "waited"))}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def record(line: bytes, where: str) -> Row:
    """A record, checked if figures draw its kind.

    Args:
        line: The line.
        where: Which file and line that is, for a message.

    Raises:
        RunDirError: It is not a record, or breaks a rule.
    """
    row = _parse(line, where)
    if row["kind"] in NEEDED:
        _check(row, where)
    return dict(strict_json.restore_numbers(row)) if _NOT_FINITE.search(line) else row


def _parse(line: bytes, where: str) -> Row:
    """One record."""
    try:
        row = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as exc:
        shown = line[:60].decode(errors="replace")
        raise RunDirError(f"{where}: {shown!r} is not a JSON record ({exc}); fix the line or remove it") from exc
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise RunDirError(f"{where}: a record is a JSON object with a 'kind'; fix the line or remove it")
    return row


def _check(row: Row, where: str) -> None:
    """Refuse what figures cannot draw."""
    if row["kind"] == "ledger":
        row.setdefault("renewal", 0.0)  # runs of earlier versions had no renewal
    for name in (*NEEDED[row["kind"]], *(name for name in _OPTIONAL if row.get(name) is not None)):
        _require_number(row, name, where)
    if row["kind"] not in _PARTS:
        return
    key, names = _PARTS[row["kind"]]
    parts = row.get(key)
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RunDirError(f"{where}: {key!r} of a {row['kind']} is a list of objects; fix the line or remove it")
    for part in parts:
        for name in names:
            _require_number(part, name, where)


def _require_number(row: Row, name: str, where: str) -> None:
    value = row.get(name)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not finite and value == strict_json.restore_number(value):  # NaN and the infinities go by their names
        kind = row.get("kind", "layer")
        raise RunDirError(
            f"{where}: {name!r} of the {kind} record is {value!r}, not a number; fix the line or remove it"
        )
