"""The documentation's own code runs, its files are where it says, and the front page stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    assert text.partition("\n## Measured\n")[0].count("\n") <= 65  # a screen and a half


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["README.md", "docs/how-to/own-model.md", "docs/how-to/train.md"])
def test_its_python_runs_as_it_stands(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)[:1]
    serial = code.replace("epochs=5)", 'epochs=5, engine="serial")')  # the same bits, without Ray's start
    assert "engine" in serial
    exec(compile(serial, name, "exec"), {})
    said = capsys.readouterr().out
    if promised := re.search(r"print\(result.test_accuracy\)  # ([\d.]+)", code):
        assert float(said.splitlines()[-1]) == pytest.approx(float(promised[1]), abs=0.02)
    else:
        assert float(said.splitlines()[-1]) > 0.9


def test_examples_and_docs_import_public_paths_only():
    public = set(re.findall(r"^\| `(distfa[.\w]*)` \|", (ROOT / "docs/reference/python.md").read_text(), flags=re.M))
    assert "distfa.data" in public
    pages = [page for page in PAGES if page.name != "architecture.md"]
    for path in [*pages, *(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"(?:^|\")\s*(?:from|import) (distfa[.\w]*)", text, flags=re.M)
        used += re.findall(r"^::: (distfa[.\w]*)\.\w+$", text, flags=re.M)
        assert set(used) <= public, path.name


def test_every_page_of_the_site_is_in_its_table_of_contents_or_in_that_of_its_folder():
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        index = page.with_name("index.md")
        within = index.exists() and index != page and f"({page.name})" in index.read_text()
        assert within or page.relative_to(ROOT / "docs").as_posix() in listed, page


def test_every_test_that_the_table_of_coverage_names_is_one():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`( \(slow\))?", (ROOT / "docs/reference/coverage.md").read_text())
    assert len(named) > 50
    for file, test, slow in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        found = re.search(rf"((?:^@.*\n(?:[ )].*\n)*)*)def {test}\(", source, flags=re.M)
        assert found, f"{file} has no {test}"
        alone = re.search(r"^@pytest.mark.slow$", found[1], flags=re.M)
        assert bool(slow) == bool(alone), f"{file}::{test} is {'slow' if alone else 'not slow'}"
