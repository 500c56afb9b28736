"""Lines for people: in a terminal they are wrapped at good places; elsewhere a line stays one line."""

from __future__ import annotations

import sys
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from distfa.text.streams import UnbrokenStream

_FULL = 0.6  # a line is broken after a comma if this share of it is used by then, else between two words


def stderr() -> Console:
    """A console on stderr that raises no error where that cannot be written."""
    return Console(file=cast(IO[str], UnbrokenStream(sys.stderr)))


def say(
    text: str,
    *,
    mark: str = "",
    mark_style: str = "",
    style: str = "",
    indent: str = "  ",
    console: Console | None = None,
) -> None:
    """Print a line.

    Args:
        text: The line.
        mark: What is printed before it, in another style.
        mark_style: Style of the mark, as rich writes styles.
        style: Style of the whole line.
        indent: Spaces before the rest of a line that was broken.
        console: Where to print; None: stdout.
    """
    console = console or Console()
    whole = mark + text
    shown = Text(fold(whole, console.width, indent) if console.is_terminal else whole, style=style)
    shown.stylize(mark_style, 0, len(mark))
    console.print(shown, soft_wrap=True, highlight=False)


def fold(text: str, width: int, indent: str = "  ") -> str:
    """The text in lines that fit: broken after a comma if that fills most of the line, else between words."""
    if "\n" in text:
        return "\n".join(fold(line, width, indent) for line in text.split("\n"))
    lines, rest = list[str](), text
    while len(rest) > (room := width - len(indent) * bool(lines)):
        cut = max(rest.rfind(f"{sign} ", 0, room + 1) for sign in ",;:") + 1
        if cut < _FULL * room:
            cut = rest.rfind(" ", 1, room + 1)
        if cut <= 0:  # a word longer than a line, such as a path, stays whole
            cut = rest.find(" ", room)
        if cut <= 0:
            break
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return f"\n{indent}".join([*lines, rest])
