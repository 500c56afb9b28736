"""Tables of the documentation, made from the files of ``distfa bench`` in docs/bench, so that no figure is typed.

Rows are dictionaries, as in the files. ``table`` shows them; the other functions make rows that no file holds as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

from distfa.text.words import cell

__all__ = ["by_seed", "over_seeds", "recoveries", "rows", "side_by_side", "table", "with_seconds"]

BENCH = Path(__file__).parents[1] / "docs" / "bench"
Row = dict[str, Any]


def rows(*files: str, **only: Sequence[object]) -> list[Row]:
    """The rows of the files, each once; ``rule=["bp", "dfa"]`` takes those with one of these values."""
    found: list[Row] = []
    for row in (row for file in files for row in _read(file)["rows"]):
        if row not in found and all(row.get(key) in values for key, values in only.items()):
            found.append(row)
    return found


def table(
    *files: str,
    columns: Mapping[str, str] | None = None,
    of: Sequence[Row] | None = None,
    places: int | Mapping[str, int] | None = None,
) -> str:
    """Rows as a Markdown table, with the files, the machine and the day below it.

    Args:
        files: Names in docs/bench.
        columns: Keys and headings; those of the first file if not given. A column without any value is left out.
        of: The rows; those of all files if not given.
        places: Decimal places of fractions, by key or of all; as on the page of a benchmark if not given.
    """
    of = rows(*files) if of is None else of
    heads = {key: head for key, head in (columns or _read(files[0])["columns"]).items() if _any(of, key)}
    decimals = dict.fromkeys(heads, places) if isinstance(places, int) else places or {}
    lines = [
        "| " + " | ".join(head.replace("|", r"\|") for head in heads.values()) + " |",
        "|" + "".join("---|" if _any(of, key, str) else "--:|" for key in heads),
        *("| " + " | ".join(_cell(row.get(key), decimals.get(key)) for key in heads) + " |" for row in of),
    ]
    return "\n".join(lines) + "\n\n" + _source(files)


def side_by_side(keys: Sequence[str], values: Sequence[str], **of: Sequence[Row]) -> list[Row]:
    """Rows of several files with equal ``keys`` become one; its ``values`` are named ``value_label``."""
    merged: dict[tuple[object, ...], Row] = {}
    for label, some in of.items():
        for row in some:
            row_of_all = merged.setdefault(tuple(row[key] for key in keys), {key: row[key] for key in keys})
            row_of_all.update({f"{value}_{label}": row.get(value) for value in values})
    return list(merged.values())


def with_seconds(some: Sequence[Row], steps: Sequence[Row], batch: int) -> list[Row]:
    """Rows with ``seconds``: the steps to the target of other rows, at this speed; a pipeline learns as ``bp`` does."""
    needed = {(row["name"], row["codec"]): row["steps"] for row in steps}
    made = []
    for row in (row for row in some if row.get("samples_per_second")):
        count = needed[("distfa bp" if row["name"].startswith("torch") else row["name"], row["codec"])]
        made.append({**row, "seconds": count and count * batch / row["samples_per_second"]})
    return made


def by_seed(*files: str) -> list[Row]:
    """Steps to the target of every seed, of each configuration, their median and mean, and both to ``bp``'s."""
    raw = {run["name"]: run for file in files for run in _read(file)["raw"] if run.get("curves")}
    made = []
    for name, run in raw.items():
        steps = [curve["steps"][-1] for curve in run["curves"]]
        made.append({"name": name, "seeds": ", ".join(map(str, steps)), "median": median(steps), "mean": mean(steps)})
    bp = next(row for row in made if row["name"] == "distfa bp")
    return [
        {**row, "median_to_bp": row["median"] / bp["median"], "mean_to_bp": row["mean"] / bp["mean"]} for row in made
    ]


def over_seeds(file: str, model: str) -> list[Row]:
    """Accuracy of every setting that three seeds ran, with the mean and how far that is behind the best of ``bp``."""
    runs: dict[str, list[Row]] = {}
    for run in _read(file)["raw"]:
        if run["model"] == model:
            more = [f"{key}={run[key]}" for key in ("feedback.renew.rows", "feedback.decay", "signs") if key in run]
            runs.setdefault(" ".join([run["rule"], *more, str(run["lr"])]), []).append(run)
    made = [
        {
            "rule": setting.rpartition(" ")[0],
            "lr": some[0]["lr"],
            "seeds": ", ".join(f"{run['test_accuracy']:.2f}" for run in some),
            "mean": mean(run["test_accuracy"] for run in some),
        }
        for setting, some in runs.items()
        if len(some) == 3
    ]
    best = max(row["mean"] for row in made if row["rule"] == "bp")
    return [{**row, "behind": best - row["mean"]} for row in sorted(made, key=lambda row: -row["mean"])]


def recoveries(*files: str) -> list[Row]:
    """Seconds of the recoveries of each run with many faults, by kind: median, 95 of 100, most."""
    made = []
    for case in (case for file in files for case in _read(file)["raw"] if len(case["recoveries"]) > 1):
        for kind in ("kill", "hang", "cut"):
            some = [one for one in case["recoveries"] if one.get("fault") == kind]
            row = {"schedule": case["case"].partition(":")[0], "fault": kind, "faults": len(some)}
            made.append({**row, **{key: _spread(one[key] for one in some) for key in ("noticed_seconds", "seconds")}})
    return made


def _spread(values: Any) -> str:
    some = sorted(values)
    return ", ".join(f"{value:.1f}" for value in (median(some), some[int(0.95 * len(some))], some[-1]))


def _read(file: str) -> Row:
    found: Row = json.loads((BENCH / file).read_text())
    return found


def _any(of: Sequence[Row], key: str, kind: type = object) -> bool:
    return any(row.get(key) is not None and isinstance(row[key], kind) for row in of)


def _cell(value: object, places: int | None) -> str:
    if value is None:
        return ""
    return cell(value) if places is None or not isinstance(value, float) else f"{value:,.{places}f}"


def _source(files: Sequence[str]) -> str:
    links = ", ".join(f"[{file}](../bench/{file})" for file in files)
    machine = _read(files[0])["machine"]
    if isinstance(machine, str):
        return f"Figures: {links}; {machine}; {_day(_read(files[0])['date'])}.\n"
    days = " and ".join(dict.fromkeys(_day(_read(file)["machine"]["date"]) for file in files))
    return f"Figures: {links}; {machine['processor']}, {machine['cores']} cores; {days}.\n"


def _day(text: str) -> str:
    return f"{date.fromisoformat(text):%-d %B %Y}"
