"""``distfa spec``: the run spec with every key, to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def spec(
    path: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A spec to check and to complete with the defaults.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key; may be repeated.")
    ] = None,
) -> None:
    """Print a run spec with every key, its value and its meaning; save it, edit it, and pass it to 'distfa train'."""
    from distfa import settings as specs

    loaded = specs.load_spec(path, [specs.parse_change(change) for change in changes or []])
    typer.echo(specs.dump_spec(loaded, explain=True), nl=False)
