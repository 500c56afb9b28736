"""The commands in the documentation: those of code blocks, and those that stand in a sentence or a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
    ]
)
TOOLS = (
    *("distfa", "pytest", "pip", "python", "python3", "ray", "docker", "kubectl", "sbatch", "scancel", "tensorboard"),
    *("scripts/check", "scripts/protos", "scripts/terminal_pictures", "uv", "sed", "tail"),
)
_TOOL = "|".join(map(re.escape, TOOLS))
_BEGINS = re.compile(rf"^(?:\$ )?(?:export \w+=\S+ && )?(?:\w+=(?:\$\([^)]*\)|\S+) )*(?:{_TOOL}|export)(?: |$)")
_NAME = re.compile(rf"^(?!distfa )(?:{_TOOL})" + r"(?: [a-z-]+){0,2}$")  # the name of a tool, nothing to type
_MARK = re.compile(r"<!-- not run here: (.+?) -->", flags=re.S)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as it stands in a page.

    Attributes:
        page: The page, from the root.
        text: The command on one line, without its comment.
        marked: Why it is not run here, as the page says it: before the block, or at the top for the whole page.
    """

    page: str
    text: str
    marked: str


def commands() -> Iterator[Command]:
    """Every command of every page, each once per page."""
    for path in PAGES:
        page, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        seen: dict[str, str] = {}
        for found, marked in _of_markdown(text) if path.suffix == ".md" else _of_comments(text):
            for part in _parts(found):
                seen.setdefault(part, marked)
        for part, marked in seen.items():
            yield Command(page=page, text=part, marked=marked)


def _of_markdown(text: str) -> Iterator[tuple[str, str]]:
    """(line or span, mark): a mark holds until the next heading, and before the first ``## `` for the whole page."""
    top = _MARK.search(text.partition("\n## ")[0])
    marked, fence, begun = "", False, ""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("#") and not fence:
            marked = ""
        if mark := _MARK.search(line):
            marked = mark[1]
        if line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            if _BEGINS.match(line.strip()) and "-->" not in line:  # a drawing
                yield line.strip(), marked or (top[1] if top else "")
        elif (line := f"{begun}{line.strip()} ").count("`") % 2:  # a span that goes on in the next line
            begun = line
        else:
            begun = ""
            for span in re.findall(r"`([^`]+)`", line):
                if _BEGINS.match(span) and " " in span and not _NAME.match(span):
                    yield span, marked or (top[1] if top else "")


def _of_comments(text: str) -> Iterator[tuple[str, str]]:
    """Commands in the comments of a file that another tool reads; its own lines are that tool's business."""
    mark = re.search(r"# not run here: (.+)", text)
    for line in re.findall(r"^#   (\S.*)", text, flags=re.M):
        for part in re.split(r"   and   ", line):
            if _BEGINS.match(part):
                yield part, mark[1] if mark else ""


def _parts(line: str) -> Iterator[str]:
    """The commands of a line: without its comment, and each side of ``&&``."""
    line = re.sub(r"\s+#.*$", "", line)
    for part in re.split(r"\s*(?:&&|;| \| )\s*", line):
        if _BEGINS.match(part):
            yield re.sub(r"\s+", " ", part).strip()
