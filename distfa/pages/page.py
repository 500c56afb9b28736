"""A page: its parts in order, put into the one template, and written whole or not at all.

page.html.j2 escapes all that it is given; style.css and draw.js are its style and its script, table.html.j2 its tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
from plotly.offline import get_plotlyjs, get_plotlyjs_version  # type: ignore[import-untyped]

from distfa.errors import RunDirError
from distfa.files import write_whole
from distfa.pages.plots import BLUE, INK, Figure
from distfa.text.strict_json import is_finite, replace_each
from distfa.text.words import cell


@dataclass(frozen=True)
class Box:
    """A heading, and below it a text, or sentences as a list.

    Attributes:
        head: The heading.
        said: What is below it.
        kind: ``box`` for what must be read first, ``box error`` if that is a failure, ``says`` for a summary.
    """

    head: str
    said: str | Sequence[str]
    kind: Literal["box", "box error", "says"] = "box"


@dataclass(frozen=True)
class Facts:
    """Lists of names with their values, below a heading if there is one; an empty list is left out."""

    lists: Sequence[Mapping[str, str]]
    head: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of figures.

    Attributes:
        columns: Keys of the rows, with their headings.
        rows: One mapping per row; None is a figure that there is not.
        head: Its heading, if it has one.
        formats: How ``str.format`` shows the figures of a column; those without are shown by ``words.cell``.
    """

    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    formats: Mapping[str, str] = field(default_factory=dict)
    head: str = ""

    @property
    def words(self) -> set[str]:
        """The columns that hold words."""
        return {key for key in self.columns if any(isinstance(row.get(key), str) for row in self.rows)}

    def cell(self, row: Mapping[str, Any], key: str) -> str:
        """One cell, as text."""
        value = row.get(key)
        plain = value is None or key not in self.formats or not is_finite(value)
        return cell(value) if plain else self.formats[key].format(value)

    def html(self) -> str:
        """The table alone, without a page and its style."""
        template = _templates().get_template("table.html.j2")
        return str(template.module.table(self))  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page that needs no network.

    Attributes:
        title: Its title.
        subtitle: What is below the title.
        parts: What is on it, in order; a string is a paragraph.
    """

    title: str
    subtitle: str
    parts: Sequence[Box | Facts | Table | Figure | str]

    def html(self, plotly: str = "") -> str:
        """The page as HTML.

        Args:
            plotly: Name of a file with plotly in the page's folder; if not given, plotly's 4.8 MB are in the page.
        """
        drawn = [part for part in self.parts if isinstance(part, Figure) and part.traces]
        template = _templates().get_template("page.html.j2")
        return template.render(
            page=self,
            parts=[(type(part).__name__, part) for part in self.parts],
            figures=replace_each(
                {part.name: {"traces": part.traces, "layout": part.layout} for part in drawn},
                lambda value: value if is_finite(value) else None,  # a gap: sums of large terms can be infinite
            ),
            ink=INK,
            blue=BLUE,
            beside=plotly,
            plotly="" if plotly else get_plotlyjs(),
        )

    def write(self, out: Path, *, shared: bool = False) -> None:
        """Write the page, whole or not at all.

        Args:
            out: The file to write.
            shared: Whether plotly is in a separate file, which all pages of a folder share.

        Raises:
            RunDirError: It cannot be written.
        """
        beside = out.with_name(f"plotly-{get_plotlyjs_version()}.min.js")
        try:
            if shared and not beside.exists():
                write_whole(beside, get_plotlyjs())
            write_whole(out, self.html(beside.name if shared else ""))
        except OSError as exc:
            raise RunDirError(f"cannot write {out}: {exc.strerror or exc}; choose another location with --out") from exc


def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("distfa.pages", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return templates
