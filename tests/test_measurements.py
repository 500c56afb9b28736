"""Figures in the docs are those of docs/bench: tables are made from its files, other figures name theirs."""

import json
import re
from functools import cache
from pathlib import Path
from statistics import mean, median

import docs_hook
import docs_tables
import pytest

ROOT = Path(__file__).parents[1]
FILES = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "docs/bench").glob("*.json"))}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MEASURED = [path for path in PAGES if path.parent.name == "measurements"]
SAID = re.compile(
    r"([\d,]+(?:\.\d+)?)<!-- ([\w-]+\.json): ([^>]+): (\w+) -->"
)  # 1.56<!-- file: cells of the row: key -->
# such a column is of a table made from single measurements
FROM_RAW = {
    "count",
    "seeds 0, 1, 2, %",
    "steps of seeds 0, 1, 2",
}


@cache
def rendered(page):
    return docs_hook.on_page_markdown(page.read_text(encoding="utf-8"))


def tables(page):
    """(headings, rows of cells, files) of every table that was made from files."""
    made = re.findall(r"((?:^\|.*\n)+)\nFigures: (.*)", rendered(page), flags=re.M)
    for text, source in made:
        heads, _, *rows = [cells_of(line) for line in text.splitlines()]
        yield heads, rows, re.findall(r"bench/([\w-]+\.json)\)", source)


def cells_of(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def is_number(text):
    return bool(re.fullmatch(r"-?[\d,]*\.?\d+(e[+-]?\d+)?", text))


def rounds_to(value, text):
    """Whether the text is this number, rounded to the places that it shows."""
    if isinstance(value, str) or value is None:
        return False
    shown = text.replace(",", "")
    place = 10 ** -len(shown.partition(".")[2]) if "e" not in shown else abs(float(shown))
    return abs(value - float(shown)) <= place * 0.501


def test_every_file_of_a_benchmark_is_shown_on_a_page_and_says_its_day():
    shown = {file for page in MEASURED for *_, files in tables(page) for file in files}
    assert shown == set(FILES)
    for outcome in FILES.values():
        assert outcome.get("date") or outcome["machine"]["date"]


@pytest.mark.parametrize("page", MEASURED, ids=lambda page: page.name)
def test_a_table_on_a_page_has_the_figures_of_its_files(page):
    assert "{{" not in rendered(page)
    for heads, lines, files in tables(page):
        assert lines
        if FROM_RAW & set(heads):
            continue
        rows = [row for file in files for row in FILES[file]["rows"]]
        for cells in lines:
            words = {cell for cell in cells if cell and not is_number(cell)}
            same = [row for row in rows if words <= set(map(str, row.values()))]
            for head, cell in zip(heads, cells, strict=True):
                if is_number(cell) and not re.match(r"s to \d", head):  # with_seconds has a test of its own
                    assert any(rounds_to(value, cell) for row in same for value in row.values()), (files, cells, head)


@pytest.mark.parametrize("file", [file for file in FILES if "rows" in FILES[file]])
def test_a_table_has_every_row_and_column_of_its_file(file):
    outcome = FILES[file]
    text = docs_tables.table(file).splitlines()
    measured = [key for key in outcome["columns"] if any(row.get(key) is not None for row in outcome["rows"])]
    assert cells_of(text[0]) == [outcome["columns"][key].replace("|", r"\|") for key in measured]
    assert len(text[2:-2]) == len(outcome["rows"])
    for line, row in zip(text[2:-2], outcome["rows"], strict=True):
        for cell, key in zip(cells_of(line), measured, strict=True):
            value = row.get(key)
            assert (
                cell == value if isinstance(value, str) else rounds_to(value, cell) if value is not None else cell == ""
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_figure_that_names_its_file_is_the_files(page):
    for figure, file, words, key in SAID.findall(page.read_text(encoding="utf-8")):
        asked = set(words.split(": "))
        rows = [row for row in FILES[file]["rows"] if asked <= set(map(str, row.values()))]
        assert len(rows) == 1, (figure, words)
        assert rounds_to(rows[0][key], figure), (figure, rows[0][key])


def test_the_answers_name_their_files():
    answers = (ROOT / "docs/measurements/index.md").read_text(encoding="utf-8")
    assert len(SAID.findall(answers)) > 30


def test_seconds_are_the_steps_of_another_file_at_this_files_speed():
    links, best = FILES["comm-links-200.json"]["rows"], FILES["comm-best.json"]["rows"]
    made = {(row["name"], row["codec"]): row["seconds"] for row in docs_tables.with_seconds(links, best, 256)}
    assert made[("distfa dkp@25", "int4+zstd/int4sr+zstd")] == pytest.approx(325 * 256 / 3965.461, rel=1e-5)
    assert made[("torch 1f1b, 4 processes, M=4", "lossless/lossless")] == pytest.approx(250 * 256 / 1675.414, rel=1e-5)
    assert made[("distfa bp", "uint2+zstd/int4sr+zstd")] is None  # the target was missed


def test_ratios_in_the_readme_are_those_of_the_files():
    said = {
        line.split(" | ")[0]: line for line in PAGES[0].read_text(encoding="utf-8").splitlines() if line[:2] == "| "
    }
    mb = {(row["name"], row["codec"]): row["payload_mb"] for row in FILES["comm-best.json"]["rows"]}
    dkp, int4 = ("distfa dkp@25", "uint2+zstd/int4sr+zstd"), ("distfa bp", "int4+zstd/int4sr+zstd")
    (line,) = (line for begin, line in said.items() if "each rule at its best" in begin)
    assert f"1/{mb[('distfa bp', 'lossless/lossless')] / mb[dkp]:.0f} of `bp` in fp32" in line
    (line,) = (line for begin, line in said.items() if "over links of 200 and 20" in begin)
    ratios = []
    for file in ("comm-links-200.json", "comm-links-20.json"):
        made = docs_tables.with_seconds(FILES[file]["rows"], FILES["comm-best.json"]["rows"], 256)
        seconds = {(row["name"], row["codec"]): row["seconds"] for row in made}
        torch = min(value for (name, _), value in seconds.items() if name.startswith("torch"))
        ratios.append([torch / seconds[ours] for ours in (dkp, int4)])
    (dkp_200, bp_200), (dkp_20, bp_20) = ratios
    assert f"{dkp_200:.1f} and {dkp_20:.0f} times" in line
    assert f"{bp_200:.1f} and {bp_20:.0f})" in line
    (line,) = (line for begin, line in said.items() if "accuracy on CIFAR-100" in begin)
    for model, rule in (("mlp 1024,1024,1024", "dkp@50"), ("convnet", "dfa@5")):
        best = {row["rule"]: row["mean"] for row in reversed(docs_tables.over_seeds("rules-cifar100-gpu.json", model))}
        assert f"{best[rule]:.1f} % against {best['bp']:.1f} (`{rule.partition('@')[0]}`" in line


def test_rows_of_several_files_stand_side_by_side():
    made = docs_tables.side_by_side(["a"], ["x"], one=[{"a": 1, "x": 2}], two=[{"a": 1, "x": 3}, {"a": 4, "x": 5}])
    assert made == [{"a": 1, "x_one": 2, "x_two": 3}, {"a": 4, "x_two": 5}]


def test_steps_of_seeds_are_where_their_curves_end():
    made = {row["name"]: row for row in docs_tables.by_seed("comm-steps.json", "comm-steps-5.json")}
    assert made["distfa dkp@10"]["seeds"] == "290, 280, 300"
    assert made["distfa dkp@10"]["median_to_bp"] == pytest.approx(290 / 250)
    assert made["distfa dfa@5"]["mean_to_bp"] == pytest.approx(920 / 760)


def test_accuracies_over_seeds_are_means_of_single_runs():
    raw = FILES["rules-cifar100-gpu.json"]["raw"]
    bp, dkp = (
        [run["test_accuracy"] for run in raw if run["model"][:3] == "mlp" and (run["rule"], run["lr"]) == (rule, 6e-4)]
        for rule in ("bp", "dkp@50")
    )
    (row,) = (
        row
        for row in docs_tables.over_seeds("rules-cifar100-gpu.json", "mlp 1024,1024,1024")
        if row["rule"] == "dkp@50"
    )
    assert row["mean"] == pytest.approx(mean(dkp))
    assert row["behind"] == pytest.approx(mean(bp) - mean(dkp))


def test_recoveries_of_a_kind_are_put_in_order():
    (case,) = FILES["faults-soak.json"]["raw"]
    kills = sorted(one["seconds"] for one in case["recoveries"] if one.get("fault") == "kill")
    (row,) = (row for row in docs_tables.recoveries("faults-soak.json") if row["fault"] == "kill")
    assert row["faults"] == len(kills)
    assert row["seconds"] == f"{median(kills):.1f}, {kills[int(0.95 * len(kills))]:.1f}, {max(kills):.1f}"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("comm")])
def test_bytes_per_step_come_from_whole_batches(name):
    """Files from before a short batch counted as a part of a step: their steps end before any."""
    raw = [row for row in FILES[name]["raw"] if row["codec"] == "lossless/lossless"]
    per_step = {
        row["payload_bytes"] / row["steps"] for row in raw if row["name"] == "distfa bp" or "torch" in row["name"]
    }
    assert len(per_step) == 1
    assert per_step.pop().is_integer()
